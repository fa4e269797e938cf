//! Links the program half as a flat image at its fixed address when it is built as firmware; does nothing otherwise.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(guest_fw_image)");
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_CFG_GUEST_FW_IMAGE").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=layout.ld");
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("layout.ld");
    let script = format!("-T{}", script.display());
    for argument in [
        "-static",
        "-no-pie",
        "-nostdlib",
        "--build-id=none",
        "--gc-sections",
        "-znorelro",
        "-zmax-page-size=4096",
        "--no-dynamic-linker",
        // A section nobody placed would silently change what is loaded where.
        "--orphan-handling=error",
        &script,
    ] {
        println!("cargo::rustc-link-arg-bin=guest-fw={argument}");
    }
}
