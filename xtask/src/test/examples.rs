//! Every example of every crate that needs no model runs to its end.

use std::fs;
use std::path::Path;

use super::skips::Skip;
use crate::checkout::{Checkout, shown};
use crate::error::{Error, Result};
use crate::program;

/// Those that read a model's folder, which their first argument names.
const NEED_A_MODEL: [&str; 2] = ["embed_texts", "generate_text"];

/// Builds all examples as the tests were built, and runs them one by one; returns those left out.
pub(crate) fn run(checkout: &Checkout) -> Result<Vec<Skip>> {
    // Some leave a run's folder.
    let place = checkout.root().join("target/examples");
    fs::create_dir_all(&place).map_err(Error::at(&place))?;
    let built = program::build_all(checkout, &["--workspace", "--examples"])?;
    let mut skips = Vec::new();
    for example in built.iter().filter(|built| built.kinds.iter().any(|kind| kind == "example")) {
        if NEED_A_MODEL.contains(&example.name.as_str()) {
            let what = format!("example {}", example.name);
            skips.push(Skip::new(what, "it needs a published model"));
            continue;
        }
        let mut cargo = checkout.cargo();
        // By cargo, which lets it find libtorch.
        cargo.args(["run", "--package", &example.package, "--example", &example.name]);
        cargo.current_dir(&place);
        let status = cargo.status().map_err(Error::at(Path::new("cargo")))?;
        if !status.success() {
            let command = shown(&cargo);
            return Err(Error::Child { command, status: status.to_string() });
        }
    }
    Ok(skips)
}
