//! The three doors of `kubenet-shim`: everything behind them is in the library.

fn main() -> std::process::ExitCode {
    // A runtime that calls a CNI plugin always says so.
    if std::env::var_os("CNI_COMMAND").is_some_and(|command| !command.is_empty()) {
        return cni_common::plugin::run(&kubenet_shim::plugin::KubenetShim);
    }
    kubenet_shim::cli::run()
}
