//! Each crate alone, from a project outside the checkout: one dependency, `setup --here`, and the
//! crate's example builds and starts by itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cache::replace_file;
use crate::checkout::{Checkout, shown};
use crate::console;
use crate::error::{Error, Result};
use crate::setup;

/// A crate, the example that a user would copy, and what the example needs beside the crate.
struct Project {
    name: &'static str,
    example: &'static str,
    also: &'static [&'static str],
}

const PROJECTS: [Project; 5] = [
    Project { name: "optim", example: "tch_model", also: &["tch"] },
    Project { name: "kernels", example: "gated_gelu", also: &["tensor-core"] },
    Project {
        name: "models",
        example: "generation",
        also: &["tensor-core", "serde_json", "tempfile"],
    },
    Project { name: "data", example: "masked_batches", also: &["tempfile"] },
    Project { name: "train", example: "own_task", also: &["tensor-core", "models", "optim"] },
];

/// Builds and starts them all. They share a target folder, so that dependencies compile once.
pub(crate) fn run(checkout: &Checkout) -> Result<()> {
    // Below the checkout, cargo would read the checkout's own configuration too.
    let folder = std::env::temp_dir().join(format!("bert4rs-outside-{}", std::process::id()));
    let result = PROJECTS.iter().try_for_each(|project| project.run(checkout, &folder));
    fs::remove_dir_all(&folder).map_err(Error::at(&folder))?;
    result
}

impl Project {
    fn run(&self, checkout: &Checkout, folder: &Path) -> Result<()> {
        console::note(format_args!("a project with bert4rs-{}", self.name));
        let place = folder.join(self.name);
        self.write(checkout, &place)?;
        setup::here(checkout, &place)?;
        let target = checkout.root().join("target/outside");
        let mut cargo = checkout.cargo();
        cargo.args(["build", "--quiet"]).current_dir(&place).env("CARGO_TARGET_DIR", &target);
        // The file asks for more, which takes minutes here and shows nothing.
        cargo.args(["--config", "profile.dev.package.'*'.opt-level = 1"]);
        succeed(&mut cargo)?;
        // By its path alone, as a user starts it.
        let program = target.join("debug").join(self.program());
        succeed(Command::new(program).env_remove("LD_LIBRARY_PATH").current_dir(&place))
    }

    fn program(&self) -> String {
        format!("try-{}", self.name)
    }

    fn write(&self, checkout: &Checkout, place: &Path) -> Result<()> {
        let crates = checkout.root().join("crates");
        let dependency = |name: &str| match crates.join(name) {
            // A string as Rust writes it is one of TOML's, for what paths hold.
            path if path.is_dir() => format!("bert4rs-{name} = {{ path = {path:?} }}\n"),
            _ => format!("{name} = \"*\"\n"),
        };
        let names = std::iter::once(&self.name).chain(self.also);
        let manifest = format!(
            "[package]\nname = \"{}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
             [dependencies]\n{}",
            self.program(),
            names.map(|name| dependency(name)).collect::<String>()
        );
        replace_file(&place.join("Cargo.toml"), manifest.as_bytes())?;
        let example = crates.join(self.name).join(format!("examples/{}.rs", self.example));
        for (from, to) in [
            (example, "src/main.rs"),
            // The versions that the checkout is tested with.
            (checkout.root().join("Cargo.lock"), "Cargo.lock"),
        ] {
            let bytes = fs::read(&from).map_err(Error::at(&from))?;
            replace_file(&place.join(to), &bytes)?;
        }
        Ok(())
    }
}

fn succeed(command: &mut Command) -> Result<()> {
    let program = Path::new(command.get_program()).to_path_buf();
    let status = command.status().map_err(Error::at(&program))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Child { command: shown(command), status: status.to_string() }),
    }
}
