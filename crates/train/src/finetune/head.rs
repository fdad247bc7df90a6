//! The model of a task: a folder's, under the head that the task asks for.

use std::path::Path;

use bert4rs_data::{ModelTokenizer, PairTokenizer};
use bert4rs_models::hugging_face::{Folder, HeadKind, Loaded};
use bert4rs_models::pretrained::{LoraOptions, OldHead, Pretrained};
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind};
use serde_json::{Value, json};

use super::labels::LabelNames;
use super::rows::RowFrame;
use crate::error::Result;

/// What a task asks of a folder's model.
#[derive(Debug, Clone)]
pub struct HeadRequest {
    /// The kind of head.
    pub head: HeadKind,
    /// The classes; of numbers, one. Absent for a head without classes, which is kept where the
    /// folder has it.
    pub labels: Option<LabelNames>,
    /// Further keys of `config.json` and their values; `null` takes one out.
    pub settings: Vec<(&'static str, Value)>,
}

impl HeadRequest {
    /// A head without classes.
    pub fn without_classes(head: HeadKind) -> Self {
        Self { head, labels: None, settings: Vec::new() }
    }
}

/// How much is dropped out while training; absent values stay as the folder has them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Dropouts {
    /// Of hidden states, and before the classifier.
    pub hidden: Option<f64>,
    /// Of attention's weights.
    pub attention: Option<f64>,
}

/// Names of both dropouts in `config.json`, of all families.
const HIDDEN: [&str; 10] = [
    "hidden_dropout_prob",
    "classifier_dropout",
    "dropout",
    "seq_classif_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "summary_first_dropout",
    "dropout_rate",
];
const ATTENTION: [&str; 3] = ["attention_probs_dropout_prob", "attention_dropout", "attn_pdrop"];

/// A model with its tokenizer.
#[derive(Debug)]
pub struct TaskModel {
    /// The model; its parameters are a trainer's while it is trained.
    pub model: Pretrained,
    /// Its tokenizer, which cuts texts that are too long.
    pub tokenizer: PairTokenizer,
    /// What rows need to know of it.
    pub frame: RowFrame,
    /// The most tokens of a text.
    pub longest: usize,
    /// What a person should know: which weights are new, which were not used.
    pub notes: Vec<String>,
    /// What its adapters are, if it has any.
    pub lora: Option<LoraOptions>,
}

impl TaskModel {
    /// The model in the folder `path` under the head of `request`, in `params`. A head that the
    /// folder has is kept if it has the same classes in the same order, or none.
    ///
    /// # Errors
    /// A folder, tokenizer or length that can't be used.
    pub fn load(
        path: &Path,
        request: &HeadRequest,
        dropouts: Dropouts,
        attention: AttentionImplementation,
        (params, longest): (ParamStore, usize),
    ) -> Result<Self> {
        let mut folder = Folder::open(path)?;
        let had = LabelNames::of_config(folder.raw_config());
        let has_head = folder.architecture().is_ok_and(|found| found.head() == request.head);
        let asked = request.labels.as_ref();
        let is_same = has_head && asked.is_none_or(|asked| had.as_ref() == Some(asked));
        if let Some(labels) = asked {
            let (names, numbers) = labels.to_config();
            folder.set("num_labels", Value::Null);
            folder.set("id2label", names);
            folder.set("label2id", numbers);
        }
        request.settings.iter().for_each(|(key, value)| folder.set(key, value.clone()));
        set_dropouts(&mut folder, dropouts);
        let tokenizer = ModelTokenizer::load(path)?;
        let pad = pad_token(&mut folder, &tokenizer);
        let old = if is_same { OldHead::Kept } else { OldHead::NewOutputs };
        let (model, loaded) = Pretrained::with_head(&folder, request.head, old, attention, params)?;
        let mut notes = Vec::new();
        if !loaded.fresh.is_empty() {
            let why = match (has_head, had) {
                (false, _) => "the folder has no such head".to_owned(),
                (true, Some(had)) => format!("the folder's head is of {}", had.list()),
                (true, None) => "the folder's head does not name its classes".to_owned(),
            };
            let fresh = loaded.fresh.join(", ");
            notes.push(format!("new head   {why}; drawn anew: {fresh}"));
        }
        notes.extend(unused(&loaded));
        Self::new(model, &tokenizer, pad, longest, notes)
    }

    /// The model in the folder `path` as it is, to be used.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn open(
        path: &Path,
        attention: AttentionImplementation,
        (device, kind, longest): (Device, Kind, usize),
    ) -> Result<(Self, Folder)> {
        let mut folder = Folder::open(path)?;
        let options = bert4rs_models::pretrained::LoadOptions { device, kind, attention };
        let tokenizer = ModelTokenizer::load(path)?;
        let pad = pad_token(&mut folder, &tokenizer);
        let model = Pretrained::from_folder(&folder, options)?;
        Ok((Self::new(model, &tokenizer, pad, longest, Vec::new())?, folder))
    }

    fn new(
        model: Pretrained,
        tokenizer: &ModelTokenizer,
        pad: i64,
        longest: usize,
        notes: Vec<String>,
    ) -> Result<Self> {
        let most = model.longest().unwrap_or(usize::MAX);
        let most = most.min(tokenizer.max_length().unwrap_or(usize::MAX));
        let longest = match longest {
            0 => most,
            asked => asked.min(most),
        };
        let frame = RowFrame {
            pad,
            first_position: model.first_position(),
            types: model.has_token_types(),
            relative: model.has_relative_positions(),
        };
        let tokenizer = tokenizer.with_longest(longest)?;
        Ok(Self { model, tokenizer, frame, longest, notes, lora: None })
    }

    /// Writes it as a folder, from the exact values in `params`: adapters merged into their weights
    /// and, in `adapter`, apart.
    ///
    /// # Errors
    /// What the system says.
    pub fn export(&self, folder: &Path, params: &ParamStore) -> Result<()> {
        self.model.save_params(params, folder)?;
        match &self.lora {
            Some(options) => {
                Ok(self.model.save_adapters(params, options, &folder.join("adapter"))?)
            }
            None => Ok(()),
        }
    }

    /// A token's text.
    pub fn token_text(&self, id: u32) -> String {
        self.tokenizer.tokenizer().token(id).unwrap_or_else(|| format!("#{id}"))
    }
}

/// What a person should know of tensors that were not used.
fn unused(loaded: &Loaded) -> Option<String> {
    let (count, first) = (loaded.unused.len(), loaded.unused.first()?);
    Some(format!("not used   {count} of the folder's tensors, such as {first}"))
}

/// Sets what the folder's family has of these.
fn set_dropouts(folder: &mut Folder, dropouts: Dropouts) {
    for (names, value) in [(&HIDDEN[..], dropouts.hidden), (&ATTENTION[..], dropouts.attention)] {
        let Some(value) = value else { continue };
        for name in names
            .iter()
            .filter(|name| !folder.raw_config()[**name].is_null())
            .copied()
            .collect::<Vec<_>>()
        {
            folder.set(name, json!(value));
        }
    }
    // Absent, it is the family's default, not 0.
    if let Some(value) = dropouts.attention {
        let family = folder.raw_config()["model_type"].as_str();
        let of_family = match family.map(|name| name.trim_start_matches("bert4rs-")) {
            Some("distilbert" | "modernbert") => "attention_dropout",
            Some("gpt2") => "attn_pdrop",
            Some("t5") => "attention_dropout_rate",
            _ => "attention_probs_dropout_prob",
        };
        folder.set(of_family, json!(value));
    }
}

/// The token that fills rows up. A GPT has none as published: its end of text serves, as in
/// transformers' examples, and the folder says so.
fn pad_token(folder: &mut Folder, tokenizer: &ModelTokenizer) -> i64 {
    let names = tokenizer.names();
    let named = |name: &Option<String>| tokenizer.id(name.as_ref()?).map(i64::from);
    let known = folder.raw_config()["pad_token_id"].as_i64().or_else(|| named(&names.pad));
    let pad = known.or_else(|| named(&names.eos)).unwrap_or(0);
    folder.set("pad_token_id", json!(pad));
    pad
}
