//! Published models by name, as values to lay over a preset: `bert-base`, `gpt2`, `t5-v1_1-small`.

use bert4rs_models::bert::{BertConfig, BertSize};
use bert4rs_models::gpt::{GptConfig, GptSize};
use bert4rs_models::t5::{T5Config, T5Size, T5Version};
use toml::Table;

use crate::config::Overlay;
use crate::error::{Error, Result, shorten};
use crate::nearest::nearest;

/// A published model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Published {
    Bert(BertSize),
    Gpt(GptSize),
    T5(T5Version, T5Size),
}

/// The families, of which a preset's own size is taken.
const FAMILIES: [&str; 3] = ["bert", "gpt", "t5"];

/// Every published model under Hugging Face's name.
fn all() -> Vec<(String, Published)> {
    let mut all = Vec::new();
    for size in BertSize::ALL {
        all.push((format!("bert-{}", lowercase(size)), Published::Bert(size)));
    }
    for size in GptSize::ALL {
        let name = match size {
            GptSize::Small => "gpt2".to_owned(),
            size => format!("gpt2-{}", lowercase(size)),
        };
        all.push((name, Published::Gpt(size)));
    }
    for (version, prefix) in [(T5Version::V1_0, "t5"), (T5Version::V1_1, "t5-v1_1")] {
        for size in T5Size::ALL {
            let size_name = match (version, size) {
                (T5Version::V1_0, T5Size::Xl) => "3b".to_owned(),
                (T5Version::V1_0, T5Size::Xxl) => "11b".to_owned(),
                (_, size) => lowercase(size),
            };
            all.push((format!("{prefix}-{size_name}"), Published::T5(version, size)));
        }
    }
    all
}

fn lowercase(size: impl std::fmt::Debug) -> String {
    format!("{size:?}").to_lowercase()
}

/// What `--model NAME` sets: the family alone, or a published model's family and shape. With
/// `learned_positions` also as many of them as it was published with.
///
/// # Errors
/// A name that is neither.
pub fn overlay(name: &str, learned_positions: bool) -> Result<Overlay> {
    let origin = format!("--model {name}");
    if FAMILIES.contains(&name) {
        return Ok(Overlay::single(origin, "model.family", name));
    }
    let all = all();
    let Some((_, found)) = all.iter().find(|(known, _)| known == name) else {
        return Err(unknown(name, all.iter().map(|(known, _)| known.as_str())));
    };
    let mut model = found.shape();
    if !learned_positions {
        model.remove("max_positions");
    }
    let mut values = Table::new();
    values.insert("model".into(), model.into());
    Ok(Overlay { origin, values })
}

fn unknown<'a>(name: &str, published: impl Iterator<Item = &'a str> + Clone) -> Error {
    let hint = match nearest(name, FAMILIES.into_iter().chain(published.clone())) {
        Some(near) => format!("did you mean {near}?"),
        None => {
            let published: Vec<&str> = published.collect();
            format!("choose bert, gpt, t5, or a published one: {}", published.join(", "))
        }
    };
    Error::Config {
        origin: "command line".into(),
        key: "--model".into(),
        reason: format!("there is no model {:?}; {hint}", shorten(name)),
    }
}

impl Published {
    /// The section `[model]`, as far as the shape goes.
    fn shape(self) -> Table {
        let numbers = |numbers: &[(&str, i64)]| -> Table {
            numbers.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect()
        };
        match self {
            Self::Bert(size) => {
                let bert = BertConfig::published(size);
                let mut shape = numbers(&[
                    ("vocab_size", bert.vocab_size),
                    ("hidden_size", bert.hidden_size),
                    ("num_layers", bert.num_hidden_layers),
                    ("num_heads", bert.num_attention_heads),
                    ("intermediate_size", bert.intermediate_size),
                    ("max_positions", bert.max_position_embeddings),
                ]);
                shape.insert("family".into(), "bert".into());
                shape
            }
            Self::Gpt(size) => {
                let gpt = GptConfig::published(size);
                let mut shape = numbers(&[
                    ("vocab_size", gpt.vocab_size),
                    ("hidden_size", gpt.n_embd),
                    ("num_layers", gpt.n_layer),
                    ("num_heads", gpt.n_head),
                    ("intermediate_size", gpt.n_inner.unwrap_or(4 * gpt.n_embd)),
                    ("max_positions", gpt.n_positions),
                ]);
                shape.insert("family".into(), "gpt".into());
                shape
            }
            Self::T5(version, size) => {
                let t5 = T5Config::published(version, size);
                let mut shape = numbers(&[
                    ("vocab_size", t5.vocab_size),
                    ("hidden_size", t5.d_model),
                    ("num_layers", t5.num_layers),
                    ("num_heads", t5.num_heads),
                    ("head_size", t5.d_kv),
                    ("intermediate_size", t5.d_ff),
                ]);
                let version = match version {
                    T5Version::V1_0 => "v1.0",
                    T5Version::V1_1 => "v1.1",
                };
                shape.insert("family".into(), "t5".into());
                shape.insert("t5_version".into(), version.into());
                shape
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::resolve;
    use crate::memory_plan::MemoryPlan;

    #[test]
    fn published_models_have_their_published_size() {
        for (name, millions) in [
            ("bert-tiny", 4.4),
            ("bert-base", 109.5),
            ("bert-large", 335.2),
            ("gpt2", 124.4),
            ("gpt2-xl", 1557.6),
            ("t5-small", 60.5),
            ("t5-v1_1-small", 77.0),
            ("t5-11b", 11307.3),
        ] {
            let config = resolve(&[overlay(name, true).unwrap()]).unwrap();
            let found = MemoryPlan::of(&config, 1).unwrap().parameters as f64 / 1e6;
            assert!((found - millions).abs() < 0.01 * millions, "{name}: {found}");
        }
    }

    #[test]
    fn a_family_keeps_the_presets_size_and_an_unknown_name_is_said() {
        assert_eq!(
            overlay("gpt", true).unwrap().values.to_string().trim(),
            "[model]\nfamily = \"gpt\""
        );
        let error = overlay("bert-bse", true).unwrap_err().to_string();
        assert!(error.contains("did you mean bert-base?"), "{error}");
        let error = overlay("xyz", true).unwrap_err().to_string();
        assert!(error.contains("t5-v1_1-xxl"), "{error}");
    }
}
