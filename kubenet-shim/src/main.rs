//! The three doors of `kubenet-shim`: everything behind them is in the library.

fn main() -> std::process::ExitCode {
    // A runtime that calls a CNI plugin always says so. Nomad calls without a word and reads the version that is told then.
    let is_called_by_runtime = std::env::var_os("CNI_COMMAND").is_some_and(|command| !command.is_empty());
    let mut args = std::env::args_os().skip(1);
    let asks_who = args.next().is_none_or(|word| word == "--version") && args.next().is_none();
    if is_called_by_runtime || asks_who {
        return cni_common::plugin::run(&kubenet_shim::plugin::KubenetShim);
    }
    kubenet_shim::cli::run()
}
