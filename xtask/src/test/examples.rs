//! Every example of every crate that needs no files runs to its end.

use std::fs;

use super::skips::Skip;
use crate::checkout::{Checkout, shown};
use crate::error::{Error, Result};
use crate::program;

/// Those that read what their arguments name, and what that is.
const NEED_FILES: [(&str, &str); 4] = [
    ("embed_texts", "a published model"),
    ("generate_text", "a published model"),
    ("prepare_rate", "a text and a tokenizer"),
    ("unknown_share", "two texts"),
];

/// Builds all examples as the tests were built, and runs them one by one; returns those left out.
pub(crate) fn run(checkout: &Checkout) -> Result<Vec<Skip>> {
    // Some leave a run's folder.
    let place = checkout.root().join("target/examples");
    fs::create_dir_all(&place).map_err(Error::at(&place))?;
    let built = program::build_all(checkout, &["--workspace", "--examples"])?;
    let mut skips = Vec::new();
    for example in built.iter().filter(|built| built.kinds.iter().any(|kind| kind == "example")) {
        if let Some((_, needs)) = NEED_FILES.iter().find(|(name, _)| *name == example.name) {
            let what = format!("example {}", example.name);
            skips.push(Skip::new(what, format!("it needs {needs}")));
            continue;
        }
        // Not by cargo, which would compile dependencies again with what one package asks for.
        let mut command = program::command(checkout, &example.executable);
        command.env("LD_LIBRARY_PATH", checkout.torch().join("lib")).current_dir(&place);
        let status = command.status().map_err(Error::at(&example.executable))?;
        if !status.success() {
            let command = shown(&command);
            return Err(Error::Child { command, status: status.to_string() });
        }
    }
    Ok(skips)
}
