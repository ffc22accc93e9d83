//! The suite: what is asked of a plugin, on whom, where, and what comes out.
//!
//! * [`case`]: a [`Case`] is one requirement with its clause and the code that tries it; all of them are in [`crate::cases`].
//! * [`subject`]: a plugin under test, the role that it has, and a config that it works with.
//! * [`bed`]: the machine of one run of a case, which writes down all that is done to it ([`steps`]); [`look`]: what it holds.
//! * [`ask`]: one call of a plugin there, and what has to come out.
//! * [`run`]: every case on every subject that it is for, side by side.
//! * [`expect`]: the deviations that are known.
//! * [`apart`]: away from the machine's own network.

pub mod apart;
pub mod ask;
pub mod bed;
pub mod case;
pub mod expect;
pub mod look;
pub mod run;
pub mod steps;
pub mod subject;
pub mod verdict;
pub mod version;

pub use ask::{Ask, Reply};
pub use bed::{Bed, Pod};
pub use case::{Case, Level, On, convention, must, should};
pub use subject::{Role, Subject};
pub use verdict::{Trouble, Verdict};
