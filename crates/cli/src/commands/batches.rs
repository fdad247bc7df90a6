//! `bert4rs batches`: what a run is trained on, for other programs to be trained on the same.

use std::process::ExitCode;

use bert4rs_tensor_core::{Tensor, safetensors};
use bert4rs_train::console::Console;
use bert4rs_train::{Error, Result, build, capacity};

use super::train::{config_to_run, overlays};
use crate::flags::BatchesFlags;

pub(crate) fn run(flags: &BatchesFlags) -> Result<ExitCode> {
    let refuse = |key: &str, reason: &str| Error::Config {
        origin: "command line".into(),
        key: key.into(),
        reason: reason.into(),
    };
    let out = flags.train.out.as_ref();
    let out = out.ok_or_else(|| refuse("--out", "is missing: it names the file to write"))?;
    if out.exists() && !flags.train.overwrite {
        let reason = "exists; choose another file, or add --overwrite";
        return Err(refuse(&out.display().to_string(), reason));
    }
    let config = config_to_run(&overlays(&flags.train)?)?;
    let memory = capacity::memory_bytes().map_or(u128::MAX, u128::from);
    if config.batch_bytes().saturating_mul(flags.count.into()) > memory {
        let reason =
            format!("{} batches are more than the memory of this machine holds", flags.count);
        return Err(refuse("--count", &reason));
    }
    let console = Console::default();
    let mut loader = build::training_data(&config, &mut console.preparation())?.loader;
    console.end();
    let mut tensors = Vec::new();
    for index in 0..flags.count {
        let batch = loader.next()?;
        let named = batch.tensors.iter().map(|(name, tensor)| (name, tensor.shallow_clone()));
        let real_tokens = ("real_tokens", Tensor::from(batch.size.tokens as i64));
        let all = named.chain([real_tokens]);
        tensors.extend(all.map(|(name, tensor)| (format!("{index}.{name}"), tensor)));
    }
    let named: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    safetensors::save(out, &named, None)?;
    console.line(&format!("{} batches in {}", flags.count, out.display()));
    console.finish()?;
    Ok(ExitCode::SUCCESS)
}
