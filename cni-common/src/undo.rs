//! The rollback stack: each step that changes something pushes the way back.
//!
//! [`Undo::commit`] is called only once the result has been printed. Until then a `?`, a panic, or a runtime that
//! closed our stdout drops the stack, which runs it, newest step first. A step that fails is named on stderr and
//! does not stop the others.

use anyhow::Result;

type Step = Box<dyn FnOnce() -> Result<()> + Send>;

/// Steps that take back what was done, until [`Undo::commit`].
#[derive(Default)]
#[must_use = "dropping it undoes what was done"]
pub struct Undo {
    steps: Vec<(String, Step)>,
}

impl Undo {
    /// Remembers how to take back what was just done. The step owns its data and opens its own sockets.
    pub fn push(&mut self, what: impl Into<String>, step: impl FnOnce() -> Result<()> + Send + 'static) {
        self.steps.push((what.into(), Box::new(step)));
    }

    /// All went well: forget the steps.
    pub fn commit(mut self) {
        self.steps.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        while let Some((what, step)) = self.steps.pop() {
            if let Err(error) = step() {
                crate::log!("undo of {what} failed: {error:#}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Undo;
    use std::sync::{Arc, Mutex};

    #[test]
    fn steps_run_newest_first_even_when_one_fails_and_not_after_commit() {
        let ran = Arc::new(Mutex::new(Vec::new()));
        let note = |undo: &mut Undo, n: i32, fails: bool| {
            let ran = Arc::clone(&ran);
            undo.push(format!("step {n}"), move || {
                ran.lock().unwrap().push(n);
                if fails {
                    anyhow::bail!("no")
                }
                Ok(())
            });
        };
        let mut undo = Undo::default();
        (1..=3).for_each(|n| note(&mut undo, n, n == 2));
        drop(undo);
        assert_eq!(*ran.lock().unwrap(), [3, 2, 1]);

        let mut undo = Undo::default();
        note(&mut undo, 4, false);
        undo.commit();
        assert_eq!(*ran.lock().unwrap(), [3, 2, 1]);
    }

    #[test]
    fn a_panic_undoes() {
        let ran = Arc::new(Mutex::new(false));
        let seen = Arc::clone(&ran);
        let panicked = std::panic::catch_unwind(move || {
            let mut undo = Undo::default();
            undo.push("step", move || {
                *seen.lock().unwrap() = true;
                Ok(())
            });
            panic!("on purpose");
        });
        assert!(panicked.is_err());
        assert!(*ran.lock().unwrap());
    }
}
