//! What a model is given to read, checked.

use std::collections::BTreeMap;

use bert4rs_tensor_core::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::hugging_face::{Architecture, HeadKind, ModelType};
use crate::input::refuse;
use crate::loss::IGNORED;
use crate::mask;

/// Tensors under the names that transformers has for them, each of a dtype that models take.
#[derive(Debug)]
pub struct Inputs {
    architecture: Architecture,
    tensors: BTreeMap<&'static str, Tensor>,
}

/// What each architecture reads.
fn names(architecture: Architecture) -> Vec<&'static str> {
    let mut names = vec!["input_ids", "attention_mask"];
    match architecture.model_type() {
        ModelType::Bert | ModelType::Roberta | ModelType::XlmRoberta | ModelType::Electra => {
            names.extend(["token_type_ids", "position_ids"]);
        }
        ModelType::DistilBert | ModelType::ModernBert | ModelType::Gpt2 => {
            names.push("position_ids");
        }
        ModelType::T5 => {}
    }
    match architecture.head() {
        HeadKind::Base | HeadKind::Encoder => {}
        HeadKind::PreTraining if architecture.model_type() == ModelType::Bert => {
            names.extend(["labels", "next_sentence_label"]);
        }
        HeadKind::QuestionAnswering => names.extend(["start_positions", "end_positions"]),
        HeadKind::ConditionalGeneration => {
            names.extend(["decoder_input_ids", "decoder_attention_mask", "labels"]);
        }
        HeadKind::MaskedLm
        | HeadKind::PreTraining
        | HeadKind::SequenceClassification
        | HeadKind::TokenClassification
        | HeadKind::CausalLm => names.push("labels"),
    }
    names
}

impl Inputs {
    /// Takes `tensors` by name onto `device`. Whole numbers may be of any width.
    ///
    /// # Errors
    /// A name that the architecture does not read; no `input_ids`; a dtype that does not fit.
    pub fn new(
        architecture: Architecture,
        tensors: &BTreeMap<String, Tensor>,
        device: Device,
    ) -> Result<Self> {
        let known = names(architecture);
        let mut taken = BTreeMap::new();
        for (name, tensor) in tensors {
            let Some(name) = known.iter().find(|known| *known == name) else {
                return Err(Error::UnknownInput {
                    name: name.clone(),
                    architecture: architecture.to_string(),
                    known: known.join(", "),
                });
            };
            taken.insert(*name, of_kind(name, tensor)?.to_device(device));
        }
        let inputs = Self { architecture, tensors: taken };
        match inputs.get("input_ids") {
            Some(_) => Ok(inputs),
            None => Err(inputs.lacks("input_ids", "tokens of shape [batch, time]")),
        }
    }

    /// Tokens I64 `[b, t]`, and which of them are real.
    pub(super) fn tokens(architecture: Architecture, ids_bt: &Tensor, keep_bt: &Tensor) -> Self {
        let tensors = [("input_ids", ids_bt), ("attention_mask", keep_bt)];
        let tensors = tensors.map(|(name, tensor)| (name, tensor.shallow_clone()));
        Self { architecture, tensors: tensors.into() }
    }

    /// The tensor of that name, if it was given.
    pub fn get(&self, name: &'static str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The tokens.
    pub(super) fn ids(&self) -> &Tensor {
        &self.tensors["input_ids"]
    }

    /// `[b, 1, 1, t]`, true for real tokens, from the mask `[b, t]` of that name.
    pub(super) fn padding(&self, name: &'static str, ids: &Tensor) -> Result<Option<Tensor>> {
        match self.get(name) {
            None => Ok(None),
            Some(keep) if keep.size() == ids.size() => Ok(Some(mask::padding(keep))),
            Some(keep) => Err(refuse(name, keep, format!("shape {:?}", ids.size()))),
        }
    }

    /// The classes of that name, I64 of `shape`: each in `0..classes`, or [`IGNORED`].
    pub(super) fn classes(
        &self,
        name: &'static str,
        shape: &[i64],
        classes: i64,
    ) -> Result<Option<&Tensor>> {
        let Some(labels) = self.get(name) else { return Ok(None) };
        if labels.kind() != Kind::Int64 || labels.size() != shape {
            return Err(refuse(name, labels, format!("Int64 of shape {shape:?}")));
        }
        let known = labels.ge(0).logical_and(&labels.lt(classes));
        if bool::try_from(known.logical_or(&labels.eq(IGNORED)).all()).unwrap_or(false) {
            return Ok(Some(labels));
        }
        let (low, high) = (labels.min().int64_value(&[]), labels.max().int64_value(&[]));
        let found = format!("values from {low} to {high}");
        let expected = format!("0 to {}, or {IGNORED} where nothing counts", classes - 1);
        Err(Error::Input { name, found, expected })
    }

    /// The error for an input that is not there.
    pub(super) fn lacks(&self, name: &'static str, expected: &str) -> Error {
        let found = format!("is missing for {}", self.architecture);
        Error::Input { name, found, expected: expected.into() }
    }
}

/// True where a mask is 1. transformers adds other numbers to attention's scores in one version
/// and takes them for 1 in another.
fn of_mask(name: &'static str, tensor: &Tensor) -> Result<Tensor> {
    let known = tensor.eq(0).logical_or(&tensor.eq(1));
    if bool::try_from(known.all()).unwrap_or(false) {
        return Ok(tensor.ne(0));
    }
    Err(refuse(name, tensor, "1 for tokens and 0 for padding, no other values"))
}

/// Whole numbers as I64; masks as booleans, true where they are not 0; labels may be numbers.
fn of_kind(name: &'static str, tensor: &Tensor) -> Result<Tensor> {
    let kind = tensor.kind();
    let whole = matches!(kind, Kind::Int64 | Kind::Int | Kind::Int16 | Kind::Int8 | Kind::Uint8);
    let fraction = matches!(kind, Kind::Double | Kind::Float | Kind::BFloat16 | Kind::Half);
    if name.ends_with("attention_mask") {
        return of_mask(name, tensor);
    }
    match name {
        _ if whole => Ok(tensor.to_kind(Kind::Int64)),
        "labels" if fraction => Ok(tensor.to_kind(Kind::Float)),
        _ => Err(refuse(name, tensor, "whole numbers")),
    }
}
