//! The corpus of a configuration as tokens.

use std::path::PathBuf;

use bert4rs_data::{
    Dataset, DatasetOptions, Objective, Progress, TokenizerChoice, TokenizerTraining,
};

use crate::cache;
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
        cache: cache::datasets()?,
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
