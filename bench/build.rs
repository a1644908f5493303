//! Lets the binaries find DuckDB's library beside them: in the target folder, and in an unpacked release.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let origin = if os == "macos" {
        "@loader_path"
    } else {
        "$ORIGIN"
    };
    for folder in ["", "/deps", "/../lib"] {
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{origin}{folder}");
    }
}
