//! A published model's shape as values of `[model]`: what `model.init` brings with it.
//!
//! `model.file` keeps the keys of the folder's `config.json`, so that a run's `config.toml` says
//! all of its model, and goes on without that folder's. The other keys of the section repeat what
//! can be said in them.

use std::path::Path;

use bert4rs_models::bert::BertConfig;
use bert4rs_models::gpt::GptConfig;
use bert4rs_models::hugging_face::{Folder, ModelType, PretrainedConfig};
use bert4rs_models::layers::Rotary;
use bert4rs_models::overrides::ArchitectureOverrides;
use bert4rs_models::t5::T5Config;
use serde_json::Value as Json;
use toml::{Table, Value};

use super::overlays::Overlay;
use super::{Biases, Config, Head, OrPublished, Positions};
use crate::error::{Error, Result};

/// Names the family in `model.file`.
const MODEL_TYPE: &str = "model_type";
/// Keys that may differ from the folder's: a vocabulary may grow, and dropout is training's.
const FREE: [&str; 4] = ["init", "vocab_size", "dropout", "attention_dropout"];

/// What `model.init = "DIR"` sets: the model's shape, and its tokenizer.
///
/// # Errors
/// A folder that holds no model that can be pretrained.
pub(super) fn overlay(init: &str) -> Result<Overlay> {
    let path = Path::new(init);
    if !path.join("config.json").is_file() {
        let reason = match crate::run_folder::holds_run(path) {
            true => {
                "is a run that has no model yet: let it finish with --resume auto, or name \
                     another folder"
            }
            false => "holds no config.json; name the folder of a published model, or of a run",
        };
        return Err(Error::RunFolder { path: path.to_owned(), reason: reason.into() });
    }
    let folder = Folder::open(path)?;
    let file = file_of(&folder)?;
    let mut model = shape(&file).ok_or_else(|| unreadable(path))?;
    model.insert("init".into(), init.into());
    model.insert("file".into(), file.into());
    let data = Table::from_iter([("tokenizer".to_owned(), Value::from(init))]);
    let values = [("model", model), ("data", data)];
    let values = values.map(|(key, table)| (key.to_owned(), Value::from(table)));
    Ok(Overlay {
        origin: path.join("config.json").display().to_string(),
        values: values.into_iter().collect(),
    })
}

fn unreadable(path: &Path) -> Error {
    let reason = "its config.json holds what a configuration can't".into();
    Error::RunFolder { path: path.to_owned(), reason }
}

/// The keys of a folder's configuration.
fn file_of(folder: &Folder) -> Result<Table> {
    let family = folder.model_type()?;
    match family {
        Some(ModelType::Gpt2) => keys::<GptConfig>(folder),
        Some(ModelType::T5) => keys::<T5Config>(folder),
        _ => keys::<BertConfig>(folder),
    }
}

fn keys<C: PretrainedConfig>(folder: &Folder) -> Result<Table> {
    let config: C = folder.config()?;
    let json = config.to_json().map_err(|_| unreadable(folder.path()))?;
    let Some(Value::Table(mut table)) = to_toml(json) else {
        return Err(unreadable(folder.path()));
    };
    table.insert(MODEL_TYPE.into(), config.model_type().name().into());
    Ok(table)
}

/// JSON as TOML, which has no null: an absent key means the same.
fn to_toml(json: Json) -> Option<Value> {
    Some(match json {
        Json::Null => return None,
        Json::Bool(value) => value.into(),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64()?.into(),
        },
        Json::String(text) => text.into(),
        Json::Array(values) => values.into_iter().filter_map(to_toml).collect::<Vec<_>>().into(),
        Json::Object(object) => {
            let known = object.into_iter().filter_map(|(key, value)| Some((key, to_toml(value)?)));
            known.collect::<Table>().into()
        }
    })
}

/// The configuration in `model.file`, if it is one of this kind.
pub(super) fn read<C: PretrainedConfig>(file: &Table) -> Option<C> {
    let model_type = ModelType::named(file.get(MODEL_TYPE)?.as_str()?)?;
    if !C::MODEL_TYPES.contains(&model_type) {
        return None;
    }
    C::from_json(model_type, &serde_json::to_value(file).ok()?).ok()
}

/// The section `[model]` of what `file` describes, as far as its keys go.
fn shape(file: &Table) -> Option<Table> {
    let mut shape = if let Some(bert) = read::<BertConfig>(file) {
        let max_positions = if bert.rotary().is_some() { 0 } else { bert.longest() };
        let sizes = [
            ("vocab_size", bert.vocab_size),
            ("hidden_size", bert.hidden_size),
            ("num_layers", bert.num_hidden_layers),
            ("num_heads", bert.num_attention_heads),
            ("intermediate_size", bert.intermediate_size),
            ("max_positions", max_positions),
        ];
        of_family("bert", &sizes, &bert.overrides)
    } else if let Some(gpt) = read::<GptConfig>(file) {
        let max_positions = if gpt.overrides.rotary.is_some() { 0 } else { gpt.n_positions };
        let sizes = [
            ("vocab_size", gpt.vocab_size),
            ("hidden_size", gpt.n_embd),
            ("num_layers", gpt.n_layer),
            ("num_heads", gpt.n_head),
            ("intermediate_size", gpt.n_inner.unwrap_or(4 * gpt.n_embd)),
            ("max_positions", max_positions),
        ];
        of_family("gpt", &sizes, &gpt.overrides)
    } else {
        let t5 = read::<T5Config>(file)?;
        let decoder = t5.num_decoder_layers.unwrap_or(t5.num_layers);
        let sizes = [
            ("vocab_size", t5.vocab_size),
            ("hidden_size", t5.d_model),
            ("num_layers", t5.num_layers),
            ("decoder_layers", decoder),
            ("num_heads", t5.num_heads),
            ("head_size", t5.d_kv),
            ("intermediate_size", t5.d_ff),
        ];
        let mut table = of_family("t5", &sizes, &t5.overrides)?;
        let head = if t5.tie_word_embeddings { Head::Tied } else { Head::Untied };
        table.insert("head".into(), Value::try_from(head).ok()?);
        Some(table)
    }?;
    for (key, default) in [("decoder_layers", 0), ("head_size", 0), ("max_positions", 0)] {
        shape.entry(key).or_insert(default.into());
    }
    for key in ["t5_version", "head"] {
        shape.entry(key).or_insert("published".into());
    }
    Some(shape)
}

fn of_family(
    family: &str,
    sizes: &[(&str, i64)],
    overrides: &ArchitectureOverrides,
) -> Option<Table> {
    let mut table: Table = sizes.iter().map(|&(key, size)| (key.to_owned(), size.into())).collect();
    let mut put = |key: &str, value: Value| drop(table.insert(key.to_owned(), value));
    put("family", family.into());
    put("norm", Value::try_from(OrPublished(overrides.norm)).ok()?);
    put("norm_placement", Value::try_from(OrPublished(overrides.norm_placement)).ok()?);
    put("feed_forward", Value::try_from(OrPublished(overrides.feed_forward)).ok()?);
    put("positions", Value::try_from(positions(overrides.rotary)).ok()?);
    put("qk_norm", overrides.qk_norm.into());
    put("kv_heads", overrides.kv_heads.unwrap_or(0).into());
    put("window", overrides.window.unwrap_or(0).into());
    put("zero_init", overrides.zero_init_outputs.into());
    let biases = overrides.no_biases.then_some(Biases::None);
    put("biases", Value::try_from(OrPublished(biases)).ok()?);
    put("logit_soft_cap", overrides.logit_soft_cap.unwrap_or(0.0).into());
    Some(table)
}

fn positions(rotary: Option<Rotary>) -> Positions {
    match rotary {
        None => Positions::Published {},
        Some(Rotary { theta, yarn: None }) => Positions::Rope { theta },
        Some(Rotary { theta, yarn: Some(yarn) }) => Positions::Yarn {
            factor: yarn.factor,
            original_length: u32::try_from(yarn.original_max_position_embeddings).unwrap_or(0),
            theta,
        },
    }
}

impl Config {
    /// Refuses a section `[model]` that says something else than the folder that it begins with:
    /// the key and the reason.
    pub(super) fn check_init(&self) -> std::result::Result<(), (String, String)> {
        let model = &self.model;
        let key = |name: &str| format!("model.{name}");
        match (model.init.is_empty(), model.file.is_empty()) {
            (true, true) => return Ok(()),
            (true, false) => {
                let reason = "goes with model.init, which is empty; leave it out";
                return Err((key("file"), reason.into()));
            }
            _ => {}
        }
        let Some(expected) = shape(&model.file) else {
            return Err((key("file"), "is not what a model's config.json holds".into()));
        };
        let Ok(Value::Table(found)) = Value::try_from(model) else { return Ok(()) };
        for (name, expected) in &expected {
            let is_free = FREE.contains(&name.as_str());
            if let Some(value) = found.get(name).filter(|value| *value != expected && !is_free) {
                let reason = format!(
                    "{value} is not that of the model in {}, {expected}; leave it out",
                    model.init
                );
                return Err((key(name), reason));
            }
        }
        let tokens = expected.get("vocab_size").and_then(Value::as_integer).unwrap_or(0);
        if i64::from(model.vocab_size) < tokens {
            let reason = format!(
                "{} is less than the {tokens} tokens of the model in {}; a vocabulary can only \
                 grow",
                model.vocab_size, model.init
            );
            return Err((key("vocab_size"), reason));
        }
        Ok(())
    }

    /// Tokens of the model that training begins with.
    pub(crate) fn init_vocab_size(&self) -> Option<i64> {
        shape(&self.model.file)?.get("vocab_size")?.as_integer()
    }
}
