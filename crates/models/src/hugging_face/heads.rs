//! What a folder's weights tell where its configuration says nothing.

use std::collections::BTreeMap;

use bert4rs_tensor_core::Tensor;

use super::architecture::HeadKind::{
    self, ConditionalGeneration, MaskedLm, PreTraining, QuestionAnswering, SequenceClassification,
    TokenClassification,
};
use super::{Architecture, ModelType};

type Tensors = BTreeMap<String, Tensor>;

/// Weights that tell a head, the most telling heads first.
fn signatures(model_type: ModelType) -> &'static [(HeadKind, &'static [&'static str])] {
    match model_type {
        ModelType::Bert => &[
            (PreTraining, &["cls.seq_relationship.weight"]),
            (MaskedLm, &["cls.predictions.transform.dense.weight"]),
            (SequenceClassification, &["classifier.weight", "bert.pooler.dense.weight"]),
            (TokenClassification, &["classifier.weight"]),
            (QuestionAnswering, &["qa_outputs.weight"]),
        ],
        ModelType::Roberta | ModelType::XlmRoberta => &[
            (MaskedLm, &["lm_head.dense.weight"]),
            (SequenceClassification, &["classifier.out_proj.weight"]),
            (TokenClassification, &["classifier.weight"]),
            (QuestionAnswering, &["qa_outputs.weight"]),
        ],
        ModelType::DistilBert => &[
            (MaskedLm, &["vocab_transform.weight"]),
            (SequenceClassification, &["pre_classifier.weight"]),
            (TokenClassification, &["classifier.weight"]),
            (QuestionAnswering, &["qa_outputs.weight"]),
        ],
        ModelType::Electra => &[
            (PreTraining, &["discriminator_predictions.dense.weight"]),
            (MaskedLm, &["generator_predictions.dense.weight"]),
            (SequenceClassification, &["classifier.out_proj.weight"]),
            (TokenClassification, &["classifier.weight"]),
            (QuestionAnswering, &["qa_outputs.weight"]),
        ],
        // Its three classifiers have the same weights.
        ModelType::ModernBert => {
            &[(SequenceClassification, &["classifier.weight"]), (MaskedLm, &["head.dense.weight"])]
        }
        ModelType::Gpt2 => &[(SequenceClassification, &["score.weight"])],
        ModelType::T5 => &[
            (ConditionalGeneration, &["decoder.block.0.layer.0.SelfAttention.q.weight"]),
            (SequenceClassification, &["classification_head.out_proj.weight"]),
        ],
    }
}

/// The family's class with the first head whose weights are there; without a head if none is.
pub(super) fn present(model_type: ModelType, tensors: &Tensors) -> Architecture {
    let mut signatures = signatures(model_type).iter();
    let found = signatures.find(|(_, names)| names.iter().all(|name| tensors.contains_key(*name)));
    let named = found.and_then(|(head, _)| model_type.with(*head));
    named.unwrap_or_else(|| Architecture::without_head(model_type))
}

/// The family of weights that say it by their names.
pub(super) fn family(tensors: &Tensors) -> Option<ModelType> {
    let telling = [
        ("bert.encoder.layer.0.attention.self.query.weight", ModelType::Bert),
        ("roberta.encoder.layer.0.attention.self.query.weight", ModelType::Roberta),
        // Without a head, only the first BERTs say no family.
        ("encoder.layer.0.attention.self.query.weight", ModelType::Bert),
        ("distilbert.transformer.layer.0.attention.q_lin.weight", ModelType::DistilBert),
        ("transformer.h.0.attn.c_attn.weight", ModelType::Gpt2),
        ("h.0.attn.c_attn.weight", ModelType::Gpt2),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", ModelType::T5),
    ];
    telling.into_iter().find(|(name, _)| tensors.contains_key(*name)).map(|(_, family)| family)
}
