//! `cargo xtask setup --here`: what a project outside the checkout needs to build on libtorch and
//! to start by itself, which no build script of a dependency can give it. One file of cargo's.

use std::fs;
use std::path::{Path, PathBuf};

use super::{EXPECTED, Libtorch, links};
use crate::cache::{Cache, replace_file};
use crate::error::{Error, Result};

/// By this line the file is known to be ours, and may be replaced.
const MARK: &str = "# Written by `cargo xtask setup --here` of bert4rs.";

/// Writes the configuration of the project in `project`; returns its path.
pub(crate) fn write(project: &Path, libtorch: &Libtorch) -> Result<PathBuf> {
    if !project.join("Cargo.toml").is_file() {
        let reason = format!("{} has no Cargo.toml: name a project's folder", project.display());
        return Err(Error::BadFlag { flag: "--here", reason });
    }
    // Not the folder itself: torch-sys would link CUDA's half, where it lies beside.
    let folder = Cache::of_user()?.path(&format!("links-{EXPECTED}"));
    links::write(&folder, libtorch)?;
    let text = configuration(&folder, &libtorch.torch.join("lib"));
    let path = project.join(".cargo/config.toml");
    let found = fs::read_to_string(&path).unwrap_or_default();
    if !found.is_empty() && !found.starts_with(MARK) {
        let reason = format!("it is not ours to replace: add these lines to it yourself\n\n{text}");
        return Err(Error::Malformed { path, reason });
    }
    replace_file(&path, text.as_bytes())?;
    Ok(path)
}

fn configuration(links: &Path, library: &Path) -> String {
    // A string of TOML's as of JSON's: both take the same escapes for what paths may hold.
    let quoted = |text: String| serde_json::Value::String(text).to_string();
    let folder = quoted(links.display().to_string());
    let rpath = quoted(format!("link-arg=-Wl,-rpath,{}", library.display()));
    format!(
        "{MARK}\n\
         [env]\n\
         LIBTORCH = {folder}\n\
         LIBTORCH_INCLUDE = {{ value = {folder}, force = true }}\n\
         LIBTORCH_LIB = {{ value = {folder}, force = true }}\n\
         \n\
         # With it, programs find libtorch when they are started by their path alone.\n\
         [target.'cfg(target_os = \"linux\")']\n\
         rustflags = [\"-C\", {rpath}]\n\
         \n\
         # Kernels that are not optimised take a hundred times as long.\n\
         [profile.dev.package.\"*\"]\n\
         opt-level = 3\n\
         debug = false\n\
         \n\
         # Thin wrappers of C++, which take minutes to optimise and gain nothing.\n\
         [profile.dev.package.torch-sys]\n\
         opt-level = 1\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_toml_for_any_path() {
        let text = configuration(Path::new("/home/a \"b\"/links"), Path::new("/opt/torch/lib"));
        let parsed: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(parsed["env"]["LIBTORCH"].as_str(), Some("/home/a \"b\"/links"));
        assert_eq!(parsed["env"]["LIBTORCH_LIB"]["force"].as_bool(), Some(true));
        let flags = parsed["target"]["cfg(target_os = \"linux\")"]["rustflags"][1].as_str();
        assert_eq!(flags, Some("link-arg=-Wl,-rpath,/opt/torch/lib"));
        assert_eq!(parsed["profile"]["dev"]["package"]["*"]["opt-level"].as_integer(), Some(3));
        assert!(text.starts_with(MARK));
    }
}
