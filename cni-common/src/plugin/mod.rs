//! Being called: from environment and stdin to a typed [`Request`], to the plugin's verb, to stdout and exit code.

mod args;
mod outcome;
mod request;
mod roster;
mod run;

pub use outcome::Outcome;
pub use request::{Env, Request, Target};
pub use roster::{Roster, inside};
pub use run::{Added, IPAM_DELEGATE, Plugin, Reply, about_text, run, serve};
