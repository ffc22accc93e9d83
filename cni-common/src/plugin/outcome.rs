//! What became of several things that are all to be done, whatever becomes of each.

use crate::spec::{Error, Result};

/// Goes on after an error and remembers the first.
#[derive(Default)]
pub struct Outcome(Option<Error>);

impl Outcome {
    /// Notes how one of them went.
    pub fn note(&mut self, result: Result<()>) {
        if let Err(error) = result {
            match self.0 {
                None => self.0 = Some(error),
                // Only one error fits into the answer.
                Some(_) => crate::log!("{error}"),
            }
        }
    }

    /// How all of them went.
    ///
    /// # Errors
    /// The first.
    pub fn first_error(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}
