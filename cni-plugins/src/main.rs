//! The process of all plugins; everything else is in the library.

fn main() -> std::process::ExitCode {
    cni_plugins::main()
}
