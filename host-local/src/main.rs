//! The `host-local` plugin's process; everything else is in the library. Runtimes give it no arguments, people do.

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.is_empty() {
        cni_common::plugin::run(&host_local::HostLocal)
    } else {
        host_local::view::main(&args)
    }
}
