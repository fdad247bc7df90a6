//! What a folder of sentence-transformers says: `modules.json` and the files that it names.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use bert4rs_tensor_core::{Kind, Tensor};
use serde::Deserialize;
use serde_json::Value;

use super::Pooling;
use super::dense::Dense;
use crate::error::{Error, Result};
use crate::hugging_face::{from_keys, read_json};
use crate::pretrained::LoadOptions;

/// From hidden states to a text's vector, and what is done to a text before.
#[derive(Debug)]
pub struct SentenceModules {
    /// Where they were read.
    pub(super) folder: PathBuf,
    /// The folder of the transformer, below the folder.
    pub(super) transformer: PathBuf,
    pub(super) pooling: Pooling,
    /// Whether a prompt's tokens count in the pooling.
    pub(super) include_prompt: bool,
    /// After pooling.
    pub(super) steps: Vec<ModuleStep>,
    /// By name.
    pub(super) prompts: BTreeMap<String, String>,
    pub(super) default_prompt: Option<String>,
    /// Whether texts are lower-cased before the tokenizer reads them.
    pub(super) lower_case: bool,
    /// The most tokens that it was trained with.
    pub(super) max_tokens: Option<usize>,
}

/// What is done to a vector.
#[derive(Debug)]
pub(super) enum ModuleStep {
    /// A linear map, and its folder below the folder.
    Dense(Dense, PathBuf),
    /// Its length becomes 1.
    Normalize,
}

impl ModuleStep {
    /// `[b, d]` to `[b, features]`.
    ///
    /// # Errors
    /// As [`Dense::forward`].
    pub(super) fn forward(&self, x_bd: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(dense, _) => dense.forward(x_bd),
            Self::Normalize => {
                let x_bd = x_bd.to_kind(Kind::Float);
                let length_b1 = x_bd.norm_scalaropt_dim(2, [-1i64].as_slice(), true);
                Ok(x_bd / length_b1.clamp_min(1e-12))
            }
        }
    }
}

/// An entry of `modules.json`.
#[derive(Debug, Deserialize)]
struct Entry {
    path: String,
    #[serde(rename = "type")]
    class: String,
}

/// `config_sentence_transformers.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Prompts {
    prompts: Option<BTreeMap<String, String>>,
    default_prompt_name: Option<String>,
}

/// `sentence_bert_config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Transformer {
    max_seq_length: Option<usize>,
    do_lower_case: bool,
}

/// The names that `sentence_bert_config.json` has had.
const TRANSFORMER_FILES: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// `1_Pooling/config.json`, as versions before 6 write it. (From 6 on, `pooling_mode` names one or
/// several.)
pub(super) const POOLING_FLAGS: [(&str, &str); 6] = [
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_max_tokens", "max"),
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
    ("pooling_mode_weightedmean_tokens", "weightedmean"),
    ("pooling_mode_lasttoken", "lasttoken"),
];

impl SentenceModules {
    /// Whether `folder` says how vectors of texts are made.
    ///
    /// # Errors
    /// A `modules.json` that can't be read.
    pub fn are_in(folder: &Path) -> Result<bool> {
        let path = folder.join("modules.json");
        if !path.exists() {
            return Ok(false);
        }
        let entries = read_json(&path)?;
        let classes = entries.as_array().into_iter().flatten();
        let mut classes = classes.filter_map(|entry| entry["type"].as_str());
        Ok(classes.any(|class| class.rsplit('.').next() == Some("Pooling")))
    }

    /// Reads what `folder` says; a folder without `modules.json` is a transformer whose hidden
    /// states' mean is taken.
    ///
    /// # Errors
    /// Files that are malformed, and modules or values that we don't compute.
    pub fn read(folder: &Path, options: LoadOptions) -> Result<Self> {
        let prompts: Prompts = keys(&folder.join("config_sentence_transformers.json"))?;
        let mut modules = Self {
            folder: folder.to_owned(),
            transformer: PathBuf::new(),
            pooling: Pooling::default(),
            include_prompt: true,
            steps: Vec::new(),
            prompts: prompts.prompts.unwrap_or_default(),
            default_prompt: prompts.default_prompt_name,
            lower_case: false,
            max_tokens: None,
        };
        let path = folder.join("modules.json");
        if path.exists() {
            modules.read_entries(folder, &path, options)?;
        }
        let transformer = folder.join(&modules.transformer);
        let file = TRANSFORMER_FILES.map(|name| transformer.join(name));
        if let Some(file) = file.iter().find(|file| file.exists()) {
            let Transformer { max_seq_length, do_lower_case } = keys(file)?;
            (modules.max_tokens, modules.lower_case) = (max_seq_length, do_lower_case);
        }
        Ok(modules)
    }

    /// Vectors `[b, features]` of hidden states `[b, t, d]`. `keep_bt` is nonzero for real tokens,
    /// of which the first `left_out` of a row do not count.
    ///
    /// # Errors
    /// As [`Pooling::forward`]; states of another number of features than a further map takes.
    pub fn vectors(&self, hidden_btd: &Tensor, keep_bt: &Tensor, left_out: i64) -> Result<Tensor> {
        let pooled_bd = self.pooling.forward(hidden_btd, keep_bt, left_out)?;
        self.steps.iter().try_fold(pooled_bd, |x_bd, step| step.forward(&x_bd))
    }

    /// Where they were read.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the model and its tokenizer lie within the folder; empty for the folder itself.
    pub fn transformer(&self) -> &Path {
        &self.transformer
    }

    /// Pools otherwise than the folder says.
    pub fn set_pooling(&mut self, pooling: Pooling) {
        self.pooling = pooling;
    }

    /// What the tokenizer is to read for `text`.
    pub fn text(&self, text: String) -> String {
        if self.lower_case { text.to_lowercase() } else { text }
    }

    /// The name of the prompt that stands before texts unless another is asked for.
    pub fn default_prompt(&self) -> Option<&str> {
        self.default_prompt.as_deref()
    }

    /// The most tokens of a text that the folder says, where it does.
    pub fn max_tokens(&self) -> Option<usize> {
        self.max_tokens
    }

    /// Folders of maps after the pooling, below the folder.
    pub fn dense_folders(&self) -> impl Iterator<Item = &Path> {
        self.steps.iter().filter_map(|step| match step {
            ModuleStep::Dense(_, folder) => Some(folder.as_path()),
            ModuleStep::Normalize => None,
        })
    }

    /// The transformer, then the pooling, then the rest.
    fn read_entries(&mut self, folder: &Path, path: &Path, options: LoadOptions) -> Result<()> {
        let bad = |reason: String| Error::File { path: path.to_owned(), reason };
        let entries: Vec<Entry> = from_keys(&read_json(path)?).map_err(bad)?;
        for (index, Entry { path, class }) in entries.iter().enumerate() {
            let own = PathBuf::from(path);
            if own
                .components()
                .any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
            {
                return Err(bad(format!("path = {path:?} is not within this folder")));
            }
            let config = folder.join(&own).join("config.json");
            match (index, class.rsplit('.').next().unwrap_or_default()) {
                (0, "Transformer") => self.transformer = own,
                (1, "Pooling") => self.read_pooling(&config)?,
                (2.., "Dense") => {
                    let dense = Dense::read(&folder.join(&own), &read_json(&config)?, options)?;
                    self.steps.push(ModuleStep::Dense(dense, own));
                }
                (2.., "Normalize") => self.steps.push(ModuleStep::Normalize),
                _ => {
                    let reason = format!(
                        "module {index} is {class}; bert4rs computes a Transformer, then a \
                         Pooling, then any of Dense and Normalize"
                    );
                    return Err(bad(reason));
                }
            }
        }
        Ok(())
    }

    fn read_pooling(&mut self, path: &Path) -> Result<()> {
        let json = read_json(path)?;
        let names: Vec<&str> = match &json["pooling_mode"] {
            Value::String(name) => vec![name],
            Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
            _ => {
                let is_on = |(flag, name): &(&str, &'static str)| {
                    json[*flag].as_bool().unwrap_or(false).then_some(*name)
                };
                POOLING_FLAGS.iter().filter_map(is_on).collect()
            }
        };
        self.pooling = Pooling::of_names(&names).map_err(|unknown| Error::File {
            path: path.to_owned(),
            reason: format!("pooling_mode is {unknown:?}; bert4rs has {}", Pooling::names()),
        })?;
        self.include_prompt = json["include_prompt"].as_bool().unwrap_or(true);
        Ok(())
    }
}

/// The keys of a JSON file; the defaults where there is none.
fn keys<T: for<'a> Deserialize<'a> + Default>(path: &Path) -> Result<T> {
    if !path.exists() {
        return Ok(T::default());
    }
    from_keys(&read_json(path)?).map_err(|reason| Error::File { path: path.to_owned(), reason })
}
