//! The text of a configuration as tokens: one corpus, or several with weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bert4rs_data::{
    CorpusReading, Dataset, DatasetOptions, HeldOut, Mixture, Objective, Progress, SHARD_TOKENS,
    TextTokenizer, TokenStore, TokenizerChoice, TokenizerTraining,
};

use crate::cache;
use crate::config::vocabulary::TRAINED;
use crate::config::{Config, CorpusEntry, Family};
use crate::error::{Error, Result};

/// Corpora as tokens, all by one tokenizer.
#[derive(Debug)]
pub struct Corpora {
    parts: Vec<CorpusPart>,
}

/// One of them.
#[derive(Debug)]
pub struct CorpusPart {
    /// What it is called in metrics.
    pub name: String,
    /// Its share of the sequences, of the sum of all weights.
    pub weight: f64,
    /// Its tokens.
    pub dataset: Dataset,
}

impl Corpora {
    /// A single corpus.
    pub fn one(dataset: Dataset) -> Self {
        let name = "corpus".to_owned();
        Self { parts: vec![CorpusPart { name, weight: 1.0, dataset }] }
    }

    /// The corpora, at least one.
    pub fn parts(&self) -> &[CorpusPart] {
        &self.parts
    }

    /// What made all tokens.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.parts[0].dataset.tokenizer
    }

    /// What is trained on.
    ///
    /// # Errors
    /// Weights that can't be used.
    pub fn train(&self) -> Result<Mixture> {
        let parts = self.parts.iter();
        let parts = parts.map(|part| (Arc::clone(&part.dataset.train), part.weight));
        Ok(Mixture::new(parts.collect())?)
    }

    /// What is held out of each.
    pub fn held_out(&self) -> impl Iterator<Item = (&str, Arc<TokenStore>)> {
        self.parts.iter().map(|part| (&*part.name, Arc::clone(&part.dataset.held_out)))
    }

    /// The share of each in what is trained on.
    pub fn shares(&self) -> impl Iterator<Item = (&CorpusPart, f64)> {
        let total: f64 = self.parts.iter().map(|part| part.weight).sum();
        self.parts.iter().map(move |part| (part, part.weight / total))
    }

    /// The mean over the corpora, by their shares, of what is known of each.
    pub fn mean(&self, of: impl Fn(&Dataset) -> f64) -> f64 {
        match &*self.parts {
            [only] => of(&only.dataset),
            _ => self.shares().map(|(part, share)| share * of(&part.dataset)).sum(),
        }
    }
}

/// The corpora as tokens, by a tokenizer that the model has room for.
///
/// # Errors
/// A corpus or tokenizer that can't be used.
pub fn prepare(config: &Config, progress: &mut dyn FnMut(Progress)) -> Result<Corpora> {
    let corpus = &config.data.corpus;
    let weighted = corpus.iter().filter_map(|entry| match entry {
        CorpusEntry::Weighted(corpus) => Some(corpus),
        CorpusEntry::Path(_) => None,
    });
    let weighted: Vec<_> = weighted.collect();
    let all = options(config, corpus.iter().map(|entry| entry.path().into()).collect())?;
    if let TokenizerChoice::Load(path) = &all.tokenizer {
        check_room(config, &TextTokenizer::load(path)?)?;
    }
    if weighted.is_empty() {
        let dataset = bert4rs_data::prepare(&all, progress)?;
        return fitting(config, Corpora::one(dataset));
    }
    let tokenizer = shared_tokenizer(&all, progress)?;
    let mut parts = Vec::new();
    for (name, corpus) in names(&weighted.iter().map(|corpus| &*corpus.path).collect::<Vec<_>>())
        .into_iter()
        .zip(&weighted)
    {
        let options = DatasetOptions {
            corpus: vec![PathBuf::from(&corpus.path)],
            tokenizer: tokenizer.clone(),
            ..all.clone()
        };
        let dataset = bert4rs_data::prepare(&options, progress)?;
        parts.push(CorpusPart { name, weight: corpus.weight, dataset });
    }
    fitting(config, Corpora { parts })
}

fn options(config: &Config, corpus: Vec<PathBuf>) -> Result<DatasetOptions> {
    let data = &config.data;
    Ok(DatasetOptions {
        corpus,
        reading: CorpusReading {
            text_field: data.text_field.clone(),
            document_break: data.document,
        },
        objective: match config.model.family {
            Family::Bert => Objective::MaskedTokens,
            Family::Gpt => Objective::NextTokens,
            Family::T5 => Objective::Spans,
        },
        tokenizer: match data.tokenizer.as_str() {
            TRAINED => TokenizerChoice::Train(TokenizerTraining {
                vocab_size: config.model.vocab_size as usize,
                character_coverage: data.character_coverage,
                byte_fallback: data.byte_fallback,
            }),
            path => TokenizerChoice::Load(PathBuf::from(path)),
        },
        held_out: match data.held_out_corpus.as_slice() {
            [] => HeldOut::Share(data.held_out),
            held_out => HeldOut::Files(held_out.iter().map(PathBuf::from).collect()),
        },
        duplicates: data.duplicates,
        cache: cache::datasets()?,
        shard_tokens: SHARD_TOKENS,
    })
}

/// One tokenizer for all corpora: that of a prepared one, if there is any, or the one that is
/// chosen, or trained on all of them, whatever their weights.
fn shared_tokenizer(
    all: &DatasetOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<TokenizerChoice> {
    match (&all.tokenizer, all.corpus.iter().find(|path| Dataset::is_in(path))) {
        (TokenizerChoice::Train(_), Some(prepared)) => Ok(TokenizerChoice::Load(prepared.clone())),
        (TokenizerChoice::Train(_), None) => {
            Ok(TokenizerChoice::Load(bert4rs_data::prepare_tokenizer(all, progress)?))
        }
        (loaded, _) => Ok(loaded.clone()),
    }
}

/// What each path is called: its last part without endings, unless two would have the same.
fn names(paths: &[&str]) -> Vec<String> {
    let short = |path: &str| {
        let name = Path::new(path.trim_start_matches('@')).file_name().unwrap_or_default();
        name.to_string_lossy().split('.').next().unwrap_or_default().to_owned()
    };
    let all: Vec<String> = paths.iter().map(|path| short(path)).collect();
    let is_alone =
        |name: &String| !name.is_empty() && all.iter().filter(|other| *other == name).count() == 1;
    let name = |(name, path): (&String, &&str)| match is_alone(name) {
        true => name.clone(),
        false => (*path).to_owned(),
    };
    all.iter().zip(paths).map(name).collect()
}

/// The corpora, if the model has room for their tokenizer.
fn fitting(config: &Config, corpora: Corpora) -> Result<Corpora> {
    check_room(config, corpora.tokenizer())?;
    Ok(corpora)
}

/// Refuses a tokenizer that the model has no room for.
fn check_room(config: &Config, tokenizer: &TextTokenizer) -> Result<()> {
    let (found, vocab_size) = (tokenizer.vocab_size(), config.model.vocab_size);
    if found <= vocab_size as usize {
        return Ok(());
    }
    Err(Error::Config {
        origin: config.data.tokenizer.clone(),
        key: "model.vocab_size".into(),
        reason: format!(
            "{vocab_size} is too small for this tokenizer, which has {found} tokens; raise it"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpora_are_called_by_what_tells_them_apart() {
        assert_eq!(
            names(&["/a/news.jsonl.gz", "@/b/books.txt", "/c/wiki"]),
            ["news", "books", "wiki"]
        );
        assert_eq!(names(&["/a/t.txt", "/b/t.txt"]), ["/a/t.txt", "/b/t.txt"]);
    }
}
