//! The corpus of a configuration as tokens.

use std::path::PathBuf;

use bert4rs_data::{
    Dataset, DatasetOptions, Objective, Progress, TokenizerChoice, TokenizerTraining,
};

use crate::config::{Config, Family};
use crate::error::{Error, Result};

/// The corpus as tokens, by a tokenizer that the model has room for.
///
/// # Errors
/// A corpus or tokenizer that can't be used.
pub(crate) fn prepare(config: &Config, progress: &mut dyn FnMut(Progress)) -> Result<Dataset> {
    let vocab_size = config.model.vocab_size as usize;
    let tokenizer = match config.data.tokenizer.as_str() {
        "train" => TokenizerChoice::Train(TokenizerTraining {
            vocab_size,
            character_coverage: config.data.character_coverage,
            byte_fallback: config.data.byte_fallback,
        }),
        path => TokenizerChoice::Load(PathBuf::from(path)),
    };
    let objective = match config.model.family {
        Family::Bert => Objective::MaskedTokens,
        Family::Gpt => Objective::NextTokens,
        Family::T5 => Objective::Spans,
    };
    let options = DatasetOptions {
        corpus: config.data.corpus.iter().map(PathBuf::from).collect(),
        objective,
        tokenizer,
        held_out_fraction: config.data.held_out,
        cache: cache_folder()?,
    };
    let dataset = bert4rs_data::prepare(&options, &mut |step| progress(step))?;
    let found = dataset.tokenizer.vocab_size();
    if found > vocab_size {
        return Err(Error::Config {
            origin: config.data.tokenizer.clone(),
            key: "model.vocab_size".into(),
            reason: format!(
                "{vocab_size} is too small for this tokenizer, which has {found} tokens; raise it"
            ),
        });
    }
    Ok(dataset)
}

/// Where tokenized corpora are kept, for all projects of this user.
fn cache_folder() -> Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = from("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| from("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.map(|base| base.join("bert4rs").join("tokens")).ok_or_else(|| Error::Config {
        origin: "environment".into(),
        key: "HOME".into(),
        reason: "neither XDG_CACHE_HOME nor HOME is set; set one, to keep tokenized text".into(),
    })
}
