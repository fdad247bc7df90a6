//! Training that begins with the weights of a model folder: continued pretraining.

use std::path::Path;

use bert4rs_models::hugging_face::{Folder, PretrainedConfig};
use bert4rs_tensor_core::param::ParamStore;

use crate::config::{Config, Family};
use crate::error::Result;

/// Sets `params`, in which the model of `config` was made, to the weights in `model.init`, and says
/// what was taken and what was not. Nothing where training begins with drawn weights.
///
/// # Errors
/// A folder that can't be read, and weights that are not those of the model: all that differ.
pub(crate) fn load(config: &Config, params: &mut ParamStore) -> Result<Vec<String>> {
    if config.model.init.is_empty() {
        return Ok(Vec::new());
    }
    match config.model.family {
        Family::Bert => load_as(config, &config.bert(0), params),
        Family::Gpt => load_as(config, &config.gpt(0), params),
        Family::T5 => load_as(config, &config.t5(0, 1), params),
    }
}

fn load_as<C: PretrainedConfig>(
    config: &Config,
    model: &C,
    params: &mut ParamStore,
) -> Result<Vec<String>> {
    let init = &config.model.init;
    let mut folder = Folder::open(Path::new(init))?;
    let old_tokens = config.init_vocab_size().unwrap_or(config.model.vocab_size.into());
    let is_extended = folder.extend_vocabulary(model, params, old_tokens)?;
    let heads = heads(model, params);
    let may_be_fresh: Vec<&str> = heads.iter().map(String::as_str).collect();
    let loaded = folder.load(model, params, &may_be_fresh)?;
    let count = params.params().len() - loaded.fresh.len();
    let mut lines = vec![format!("init       {count} weights of {init}")];
    if is_extended {
        let new_tokens = i64::from(config.model.vocab_size) - old_tokens;
        lines.push(format!(
            "init       {new_tokens} tokens are new: their rows begin as in training from scratch"
        ));
    }
    for (names, what) in [
        (&loaded.fresh, "not in that folder, begin as in training from scratch"),
        (&loaded.unused, "of that folder are of no use here"),
    ] {
        if !names.is_empty() {
            lines.push(format!("init       {what}: {}", names.join(", ")));
        }
    }
    Ok(lines)
}

/// What a folder may lack: the head of a model that was saved without one. GPT's and T5's are parts
/// of what every folder of theirs has.
fn heads<C: PretrainedConfig>(model: &C, params: &ParamStore) -> Vec<String> {
    let base = model.base();
    let params = params.params();
    let outside = params.iter().filter(|param| !param.name.starts_with(&base));
    outside.map(|param| param.name.clone()).collect()
}
