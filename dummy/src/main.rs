//! The `dummy` plugin's process; everything else is in the library.

fn main() -> std::process::ExitCode {
    cni_common::plugin::run(&dummy::Dummy)
}
