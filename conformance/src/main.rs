//! The `cni-conformance` program; everything is in the library.

fn main() -> std::process::ExitCode {
    cni_conformance::cli::main()
}
