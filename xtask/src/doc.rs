//! `cargo xtask doc`: the documentation of all crates, with the page that rustdoc leaves out: where
//! to begin.

use std::path::Path;
use std::process::ExitCode;

use crate::cache::replace_file;
use crate::checkout::{Checkout, shown};
use crate::console;
use crate::error::{Error, Result};

/// Build the documentation of all crates and a page to start from
#[derive(clap::Args)]
pub(crate) struct Args {}

/// What someone wants, the crate for it, and the page of its documentation.
const NEEDS: [(&str, &str, &str); 14] = [
    ("train a model of your own with AdamW, Muon or NorMuon", "optim", "index.html"),
    ("the orthogonal factor of a matrix", "optim", "polar/index.html"),
    ("pretrain BERT, GPT or T5 from Rust", "train", "index.html"),
    ("every key of a configuration", "train", "config/index.html"),
    ("use a published model: load, forward, embed", "models", "pretrained/index.html"),
    ("generate text", "models", "generation/index.html"),
    ("build a model from parts", "models", "layers/index.html"),
    ("text to tokens and batches", "data", "index.html"),
    ("train or load a tokenizer", "data", "tokenizer/index.html"),
    ("fused kernels on the CPU and on GPUs", "kernels", "index.html"),
    ("casts and products in FP8", "kernels", "fp8/index.html"),
    ("autograd functions in Rust", "tensor_core", "autograd/index.html"),
    ("a profile of operations and GPU kernels", "tensor_core", "profile/index.html"),
    ("charts in one HTML file", "charts", "index.html"),
];

/// Makes the documentation; warnings are errors.
pub(crate) fn run(checkout: &Checkout) -> Result<ExitCode> {
    let mut cargo = checkout.cargo();
    // Read by rustdoc alone; RUSTFLAGS would have everything compiled a second time.
    cargo.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    let status = cargo.status().map_err(Error::at(Path::new("cargo")))?;
    if !status.success() {
        return Err(Error::Child { command: shown(&cargo), status: status.to_string() });
    }
    let path = checkout.root().join("target/doc/index.html");
    replace_file(&path, page().as_bytes())?;
    console::line(format_args!("start with {}", path.display()));
    Ok(ExitCode::SUCCESS)
}

fn page() -> String {
    let rows = NEEDS.iter().map(|(need, name, page)| {
        let crate_name = name.replace('_', "-");
        format!(
            "<tr><td>{need}</td><td><a href=\"bert4rs_{name}/{page}\">bert4rs-{crate_name}</a></td>\
             </tr>\n"
        )
    });
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>bert4rs</title><style>\
         body {{ font: 1rem/1.5 sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem }}\
         td {{ padding: .2rem 1rem .2rem 0; vertical-align: top }}\
         </style></head>\n<body><h1>bert4rs</h1>\n\
         <p>BERT, GPT and T5 on libtorch from Rust. What to use for which need:</p>\n\
         <table>\n{}</table></body></html>\n",
        rows.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_leads_to_a_crate_and_module_that_are_there() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("crates");
        for (need, name, page) in NEEDS {
            let source = crates.join(name.replace('_', "-")).join("src");
            let module = page.trim_end_matches("index.html").trim_end_matches('/');
            let places = ["lib.rs".to_owned(), format!("{module}.rs"), format!("{module}/mod.rs")];
            let skip = usize::from(!module.is_empty());
            let is_there = places.iter().skip(skip).any(|place| source.join(place).is_file());
            assert!(is_there, "{need}: no {module:?} in {}", source.display());
        }
        assert_eq!(page().matches("<tr>").count(), NEEDS.len());
    }
}
