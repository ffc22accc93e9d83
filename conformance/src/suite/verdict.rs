//! What comes out when a case is tried.

/// Why a case did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The plugin does it in another way.
    Deviation {
        /// What is right.
        expected: String,
        /// What it did.
        seen: String,
    },
    /// It can't be tried here: what is missing.
    Untried(String),
}

impl Trouble {
    /// A deviation.
    #[must_use]
    pub fn deviation(expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::Deviation { expected: expected.into(), seen: seen.into() }
    }
}

/// What a case finds.
pub type Verdict = Result<(), Trouble>;

/// `expect!(holds, "what is right", "what is there: {}", seen)`: goes on, or ends the case.
#[macro_export]
macro_rules! expect {
    ($holds:expr, $expected:expr, $($seen:tt)+) => {
        if !$holds {
            return Err($crate::suite::Trouble::deviation($expected, format!($($seen)+)));
        }
    };
}
