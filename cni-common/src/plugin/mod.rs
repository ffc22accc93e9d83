//! Being called: from environment and stdin to a typed [`Request`], to the plugin's verb, to stdout and exit code.

mod args;
mod command;
mod request;
mod run;

pub use command::{Command, Var};
pub use request::{Env, Request, Target};
pub use run::{Added, Plugin, Reply, about_text, run, serve};
