//! The model of an architecture, its parameters not yet loaded.

use bert4rs_tensor_core::param::ParamStore;

use super::{LoadOptions, Model, Problem};
use crate::bert::{
    BertConfig, BertForMaskedLm, BertForPreTraining, BertForQuestionAnswering,
    BertForReplacedTokens, BertForSequenceClassification, BertForTokenClassification, BertModel,
    Pooler,
};
use crate::error::{Error, Result};
use crate::gpt::{Gpt, GptConfig, GptForSequenceClassification};
use crate::hugging_face::{Architecture, Folder, HeadKind, ModelType};
use crate::t5::{T5, T5Config, T5Encoder, T5EncoderForSequenceClassification};

/// BERT or a relative.
pub(super) fn bert(
    architecture: Architecture,
    folder: &Folder,
    config: &BertConfig,
    params: &ParamStore,
    LoadOptions { attention, .. }: LoadOptions,
) -> Result<Model> {
    let root = &params.root();
    Ok(match architecture.head() {
        HeadKind::MaskedLm => Model::MaskedLm(BertForMaskedLm::new(root, config, attention)?),
        HeadKind::PreTraining if architecture.model_type() == ModelType::Electra => {
            Model::ReplacedTokens(BertForReplacedTokens::new(root, config, attention)?)
        }
        HeadKind::PreTraining => {
            Model::PreTraining(BertForPreTraining::new(root, config, attention)?)
        }
        HeadKind::SequenceClassification => {
            let classes = classes(folder);
            let model = BertForSequenceClassification::new(root, config, classes, attention)?;
            Model::Classes(model, problem(folder)?)
        }
        HeadKind::TokenClassification => {
            let classes = classes(folder);
            let model = BertForTokenClassification::new(root, config, classes, attention)?;
            Model::TokenClasses(model)
        }
        HeadKind::QuestionAnswering => {
            Model::Answers(BertForQuestionAnswering::new(root, config, attention)?)
        }
        _ => {
            let base = config.variant.names().base;
            let encoder = BertModel::under_root(root, config, attention)?;
            let names = ["pooler.dense.weight".to_owned(), format!("{base}.pooler.dense.weight")];
            let pooler = match names.iter().any(|name| folder.tensors().contains_key(name)) {
                true => Some(Pooler::new(&(root / base / "pooler"), config)?),
                false => None,
            };
            Model::Bert(encoder, pooler)
        }
    })
}

/// A GPT.
pub(super) fn gpt(
    architecture: Architecture,
    folder: &Folder,
    config: &GptConfig,
    params: &ParamStore,
    LoadOptions { attention, .. }: LoadOptions,
) -> Result<Model> {
    let root = &params.root();
    if architecture.head() != HeadKind::SequenceClassification {
        return Ok(Model::Gpt(Gpt::new(root, config, attention)?));
    }
    let model = GptForSequenceClassification::new(root, config, classes(folder), attention)?;
    Ok(Model::GptClasses(model, problem(folder)?))
}

/// A T5.
pub(super) fn t5(
    architecture: Architecture,
    folder: &Folder,
    config: &T5Config,
    params: &ParamStore,
    LoadOptions { attention, .. }: LoadOptions,
) -> Result<Model> {
    let root = &params.root();
    Ok(match architecture.head() {
        HeadKind::Encoder => Model::T5Encoder(T5Encoder::new(root, config, attention)?),
        HeadKind::SequenceClassification => {
            let classes = classes(folder);
            let model = T5EncoderForSequenceClassification::new(root, config, classes, attention)?;
            Model::T5Classes(model, problem(folder)?)
        }
        _ => Model::T5(T5::new(root, config, attention)?),
    })
}

/// How many classes a head has; transformers' default is 2.
fn classes(folder: &Folder) -> i64 {
    let config = folder.raw_config();
    let named = config["id2label"].as_object().map(|labels| labels.len() as i64);
    named.or_else(|| config["num_labels"].as_i64()).unwrap_or(2)
}

fn problem(folder: &Folder) -> Result<Problem> {
    let value = &folder.raw_config()["problem_type"];
    match value.as_str() {
        None if value.is_null() => Ok(Problem::Unsaid),
        Some("regression") => Ok(Problem::Regression),
        Some("single_label_classification") => Ok(Problem::SingleLabel),
        Some("multi_label_classification") => Ok(Problem::MultiLabel),
        _ => {
            let reason = "must be regression, single_label_classification or \
                          multi_label_classification";
            Err(Error::config("problem_type", value, reason))
        }
    }
}
