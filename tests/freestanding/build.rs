//! Links the program without any library when it is built as one; does nothing otherwise.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(freestanding)");
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_CFG_FREESTANDING").is_some() {
        for argument in ["-nostdlib", "-nostartfiles", "-static"] {
            println!("cargo::rustc-link-arg-bin=freestanding={argument}");
        }
    }
}
