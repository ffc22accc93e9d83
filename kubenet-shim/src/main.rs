//! The process of `kubenet-shim`; everything else is in the library.

fn main() -> std::process::ExitCode {
    cni_common::plugin::run(&kubenet_shim::plugin::KubenetShim)
}
