//! Gives the program an rpath to libtorch, so that it starts by its path alone.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(folder) = std::env::var("DEP_BERT4RS_TENSOR_CORE_LIBRARY_DIR") {
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{folder}");
    }
}
