//! The corpus of a configuration as tokens.

use std::path::PathBuf;

use bert4rs_data::{
    CorpusReading, Dataset, DatasetOptions, HeldOut, Objective, Progress, TokenizerChoice,
    TokenizerTraining,
};

use crate::cache;
use crate::config::{Config, Family};
use crate::error::{Error, Result};

/// The corpus as tokens, by a tokenizer that the model has room for.
///
/// # Errors
/// A corpus or tokenizer that can't be used.
pub fn prepare(config: &Config, progress: &mut dyn FnMut(Progress)) -> Result<Dataset> {
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
        corpus: paths(&config.data.corpus),
        reading: CorpusReading {
            text_field: config.data.text_field.clone(),
            document_break: config.data.document,
        },
        objective,
        tokenizer,
        held_out: match config.data.held_out_corpus.as_slice() {
            [] => HeldOut::Share(config.data.held_out),
            held_out => HeldOut::Files(paths(held_out)),
        },
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

fn paths(texts: &[String]) -> Vec<PathBuf> {
    texts.iter().map(PathBuf::from).collect()
}
