//! A forward pass by names, with the losses of transformers.
//!
//! Axes: `b` batch, `t` time, `d` features, `v` vocabulary, `c` classes.

use bert4rs_tensor_core::{Kind, Reduction, Tensor, autograd};

use super::{Inputs, Model, Pretrained, Problem};
use crate::bert::{BertForPreTraining, BertInput, BertModel, replaced_loss};
use crate::error::Result;
use crate::gpt::{Gpt, GptForSequenceClassification, GptInput};
use crate::hugging_face::Architecture;
use crate::input::{self, refuse};
use crate::loss::{IGNORED, cross_entropy};
use crate::t5::{T5, T5Encoder, T5EncoderForSequenceClassification, T5Input};

/// What a forward pass gives.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Tensors under transformers' names: `logits` where there is a head, `last_hidden_state`,
    /// and what else the architecture has.
    pub named: Vec<(&'static str, Tensor)>,
    /// The loss of the labels, a scalar in FP32, where there are any.
    pub loss: Option<Tensor>,
}

impl Pretrained {
    /// Computes everything that `inputs` allow, without dropout.
    ///
    /// # Errors
    /// Inputs of shapes or values that the model can't take.
    pub fn forward(&self, inputs: &Inputs) -> Result<Outputs> {
        match (&self.model, self.encoder()) {
            (Model::Gpt(model), _) => self.forward_gpt(model, inputs),
            (Model::GptClasses(model, problem), _) => forward_gpt_classes(model, *problem, inputs),
            (Model::T5(model), _) => forward_t5(model, inputs),
            (Model::T5Encoder(encoder), _) => {
                let hidden_btd = encode_t5(encoder, inputs)?;
                let named = vec![("last_hidden_state", hidden_btd)];
                Ok(Outputs { named, loss: None })
            }
            (Model::T5Classes(model, problem), _) => forward_t5_classes(model, *problem, inputs),
            (_, Some(encoder)) => self.forward_bert(encoder, inputs),
            (_, None) => Ok(Outputs::default()),
        }
    }

    /// Hidden states `[b, t, d]` of tokens `ids_bt`, I64, of which `keep_bt` is true for real ones,
    /// without dropout: of T5, the encoder's.
    ///
    /// # Errors
    /// Shapes and values that the model can't take.
    pub fn hidden_states(&self, ids_bt: &Tensor, keep_bt: &Tensor) -> Result<Tensor> {
        let inputs = Inputs::tokens(self.architecture, ids_bt, keep_bt);
        match (&self.model, self.encoder()) {
            (Model::Gpt(model), _) => encode_gpt(model, &inputs),
            (Model::GptClasses(model, _), _) => encode_gpt(model.gpt(), &inputs),
            (Model::T5(model), _) => encode_t5(model.encoder(), &inputs),
            (Model::T5Encoder(encoder), _) => encode_t5(encoder, &inputs),
            (Model::T5Classes(model, _), _) => encode_t5(model.encoder(), &inputs),
            (_, Some(encoder)) => encode(encoder, &inputs),
            (_, None) => Err(inputs.lacks("an encoder", "hidden states")),
        }
    }

    fn forward_bert(&self, encoder: &BertModel, inputs: &Inputs) -> Result<Outputs> {
        let hidden_btd = encode(encoder, inputs)?;
        let mut outputs = self.bert_head(&hidden_btd, inputs)?;
        outputs.named.push(("last_hidden_state", hidden_btd));
        Ok(outputs)
    }

    /// The gradient of `loss` for every parameter, under its name and in its layout in
    /// transformers. A tied weight has one.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn gradients(&self, loss: &Tensor) -> Result<Vec<(String, Tensor)>> {
        let params = self.params.params();
        let weights: Vec<_> = params.iter().map(|param| &param.weight).collect();
        let found = autograd::gradients(loss, &weights)?;
        let named = params.iter().zip(found).map(|(param, gradient)| {
            let gradient = if gradient.defined() { gradient } else { param.weight.zeros_like() };
            (param.name.clone(), self.as_stored(param, gradient))
        });
        Ok(named.collect())
    }

    fn forward_gpt(&self, model: &Gpt, inputs: &Inputs) -> Result<Outputs> {
        let (b, t) = input::batch_and_time("input_ids", inputs.ids())?;
        let hidden_btd = encode_gpt(model, inputs)?;
        let mut outputs = Outputs::default();
        if self.architecture == Architecture::GPT2_LM_HEAD_MODEL {
            let v = model.config().vocab_size;
            let logits_btv = model.logits(&hidden_btd);
            if let Some(labels_bt) = inputs.classes("labels", &[b, t], v)? {
                if t < 2 {
                    return Err(refuse("labels", labels_bt, "at least two tokens a row"));
                }
                let before = logits_btv.narrow(1, 0, t - 1);
                outputs.loss = Some(of_tokens(&before, &labels_bt.narrow(1, 1, t - 1)));
            }
            outputs.named.push(("logits", logits_btv));
        }
        outputs.named.push(("last_hidden_state", hidden_btd));
        Ok(outputs)
    }

    /// What the head makes of hidden states `[b, t, d]`.
    fn bert_head(&self, hidden_btd: &Tensor, inputs: &Inputs) -> Result<Outputs> {
        let (b, t) = input::batch_and_time("input_ids", inputs.ids())?;
        let mut outputs = Outputs::default();
        match &self.model {
            Model::Bert(_, Some(pooler)) => {
                outputs.named.push(("pooler_output", pooler.forward(hidden_btd)));
            }
            Model::MaskedLm(model) => {
                let logits_btv = model.logits(hidden_btd)?;
                let labels = inputs.classes("labels", &[b, t], model.config().vocab_size)?;
                outputs.loss = labels.map(|labels_bt| of_tokens(&logits_btv, labels_bt));
                outputs.named.push(("logits", logits_btv));
            }
            Model::PreTraining(model) => return pretraining_head(model, hidden_btd, inputs),
            Model::ReplacedTokens(model) => {
                let logits_bt = model.classify(hidden_btd)?;
                if let Some(labels_bt) = inputs.classes("labels", &[b, t], 2)? {
                    input::check_range("labels", labels_bt, ("kept or replaced", 2))?;
                    let real_bt = inputs.get("attention_mask");
                    outputs.loss = Some(replaced_loss(&logits_bt, labels_bt, real_bt));
                }
                outputs.named.push(("logits", logits_bt));
            }
            Model::Classes(model, problem) => {
                let padding = inputs.padding("attention_mask", inputs.ids())?;
                let logits_bc = model.classify(hidden_btd, padding.as_ref(), false)?;
                if let Some(labels) = inputs.get("labels") {
                    outputs.loss = Some(of_classes(&logits_bc, labels, *problem, inputs)?);
                }
                outputs.named.push(("logits", logits_bc));
            }
            Model::TokenClasses(model) => {
                let logits_btc = model.classify(hidden_btd, false)?;
                let classes = logits_btc.size()[2];
                let labels = inputs.classes("labels", &[b, t], classes)?;
                outputs.loss = labels.map(|labels_bt| of_tokens(&logits_btc, labels_bt));
                outputs.named.push(("logits", logits_btc));
            }
            Model::Answers(model) => {
                let logits_bt2 = model.spans(hidden_btd, false)?;
                let (start_bt, end_bt) = (logits_bt2.select(2, 0), logits_bt2.select(2, 1));
                outputs.loss = of_spans(&start_bt, &end_bt, inputs)?;
                outputs.named.push(("start_logits", start_bt));
                outputs.named.push(("end_logits", end_bt));
                outputs.named.push(("logits", logits_bt2));
            }
            Model::Bert(_, None)
            | Model::Gpt(_)
            | Model::GptClasses(..)
            | Model::T5(_)
            | Model::T5Encoder(_)
            | Model::T5Classes(..) => {}
        }
        Ok(outputs)
    }
}

/// Logits of masked tokens and of the next sentence, and the sum of both losses.
fn pretraining_head(
    model: &BertForPreTraining,
    hidden_btd: &Tensor,
    inputs: &Inputs,
) -> Result<Outputs> {
    let (b, t) = input::batch_and_time("input_ids", inputs.ids())?;
    let logits_btv = model.masked().logits(hidden_btd)?;
    let next_b2 = model.next_sentence_logits(hidden_btd);
    let labels = inputs.classes("labels", &[b, t], model.masked().config().vocab_size)?;
    let next = inputs.classes("next_sentence_label", &[b], 2)?;
    let loss = match (labels, next) {
        (Some(labels_bt), Some(next_b)) => {
            Some(of_tokens(&logits_btv, labels_bt) + cross_entropy(&next_b2, next_b))
        }
        (None, None) => None,
        (Some(_), None) => return Err(inputs.lacks("next_sentence_label", "beside labels")),
        (None, Some(_)) => return Err(inputs.lacks("labels", "beside next_sentence_label")),
    };
    let named = vec![("logits", logits_btv), ("seq_relationship_logits", next_b2)];
    Ok(Outputs { named, loss })
}

fn encode(encoder: &BertModel, inputs: &Inputs) -> Result<Tensor> {
    let ids = inputs.ids();
    input::batch_and_time("input_ids", ids)?;
    let padding = inputs.padding("attention_mask", ids)?;
    let input = BertInput {
        token_type_ids: inputs.get("token_type_ids"),
        position_ids: inputs.get("position_ids"),
        mask: padding.as_ref(),
        ..BertInput::new(ids)
    };
    input.check_values(encoder.config())?;
    encoder.forward(&input, false)
}

fn encode_gpt(model: &Gpt, inputs: &Inputs) -> Result<Tensor> {
    let ids = inputs.ids();
    input::batch_and_time("input_ids", ids)?;
    let padding = inputs.padding("attention_mask", ids)?;
    let position_ids = inputs.get("position_ids");
    let input = GptInput { position_ids, mask: padding.as_ref(), ..GptInput::new(ids) };
    input.check_values(model.config())?;
    model.forward(&input, false)
}

fn forward_gpt_classes(
    model: &GptForSequenceClassification,
    problem: Problem,
    inputs: &Inputs,
) -> Result<Outputs> {
    let hidden_btd = encode_gpt(model.gpt(), inputs)?;
    let logits_bc = model.classify(&hidden_btd, inputs.ids())?;
    with_classes(logits_bc, hidden_btd, problem, inputs)
}

fn forward_t5_classes(
    model: &T5EncoderForSequenceClassification,
    problem: Problem,
    inputs: &Inputs,
) -> Result<Outputs> {
    let hidden_btd = encode_t5(model.encoder(), inputs)?;
    let padding = inputs.padding("attention_mask", inputs.ids())?;
    let logits_bc = model.classify(&hidden_btd, padding.as_ref())?;
    with_classes(logits_bc, hidden_btd, problem, inputs)
}

/// What a classifier gives, with the loss where there are labels.
fn with_classes(
    logits_bc: Tensor,
    hidden_btd: Tensor,
    problem: Problem,
    inputs: &Inputs,
) -> Result<Outputs> {
    let loss = match inputs.get("labels") {
        Some(labels) => Some(of_classes(&logits_bc, labels, problem, inputs)?),
        None => None,
    };
    let named = vec![("logits", logits_bc), ("last_hidden_state", hidden_btd)];
    Ok(Outputs { named, loss })
}

fn encode_t5(encoder: &T5Encoder, inputs: &Inputs) -> Result<Tensor> {
    let ids = inputs.ids();
    input::batch_and_time("input_ids", ids)?;
    let padding = inputs.padding("attention_mask", ids)?;
    input::check_range("input_ids", ids, ("vocab_size", encoder.config().vocab_size))?;
    encoder.forward(ids, padding.as_ref(), false)
}

/// The decoder's tokens are made of the labels where they are not given.
fn forward_t5(model: &T5, inputs: &Inputs) -> Result<Outputs> {
    let ids = inputs.ids();
    let (b, _) = input::batch_and_time("input_ids", ids)?;
    let v = model.config().vocab_size;
    let shape = |name| inputs.get(name).map(Tensor::size);
    let Some(shape) = shape("decoder_input_ids").or(shape("labels")) else {
        return Err(inputs.lacks("decoder_input_ids", "it, or labels that it can be made of"));
    };
    let labels = inputs.classes("labels", &shape, v)?;
    let decoder_ids = match (inputs.get("decoder_input_ids"), labels) {
        (None, Some(labels_bt)) => model.shift_right(labels_bt)?,
        (given, _) => given.map(Tensor::shallow_clone).unwrap_or_default(),
    };
    if shape.len() != 2 || shape[0] != b {
        return Err(refuse("decoder_input_ids", &decoder_ids, format!("shape [{b}, time]")));
    }
    let padding = inputs.padding("attention_mask", ids)?;
    let decoder_padding = inputs.padding("decoder_attention_mask", &decoder_ids)?;
    let input = T5Input {
        mask: padding.as_ref(),
        decoder_mask: decoder_padding.as_ref(),
        cross_mask: padding.as_ref(),
        ..T5Input::new(ids, &decoder_ids)
    };
    input.check_values(model.config())?;
    let memory_bsd = model.encode(ids, input.mask, false)?;
    let hidden_btd = model.decode(
        &decoder_ids,
        input.decoder_mask,
        &memory_bsd,
        input.cross_mask,
        None,
        false,
    )?;
    let logits_btv = model.logits(&hidden_btd);
    let loss = labels.map(|labels_bt| of_tokens(&logits_btv, labels_bt));
    let named = vec![
        ("logits", logits_btv),
        ("last_hidden_state", hidden_btd),
        ("encoder_last_hidden_state", memory_bsd),
    ];
    Ok(Outputs { named, loss })
}

/// Mean cross-entropy of `[b, t, c]` for labels `[b, t]`.
fn of_tokens(logits_btc: &Tensor, labels_bt: &Tensor) -> Tensor {
    cross_entropy(&logits_btc.flatten(0, 1), &labels_bt.flatten(0, 1))
}

/// The loss of sequences' classes `[b, c]`, by what they mean.
fn of_classes(
    logits_bc: &Tensor,
    labels: &Tensor,
    problem: Problem,
    inputs: &Inputs,
) -> Result<Tensor> {
    let (b, c) = (logits_bc.size()[0], logits_bc.size()[1]);
    let problem = match problem {
        Problem::Unsaid if c == 1 => Problem::Regression,
        Problem::Unsaid if labels.kind() == Kind::Int64 => Problem::SingleLabel,
        Problem::Unsaid => Problem::MultiLabel,
        said => said,
    };
    if problem == Problem::SingleLabel {
        let labels_b = inputs.classes("labels", &[b], c)?.unwrap_or(labels);
        return Ok(cross_entropy(logits_bc, labels_b));
    }
    let logits_bc = logits_bc.to_kind(Kind::Float);
    let numbers = labels.to_kind(Kind::Float);
    let is_column = problem == Problem::Regression && c == 1 && numbers.size() == [b];
    let numbers_bc = if is_column { numbers.unsqueeze(1) } else { numbers };
    if numbers_bc.size() != [b, c] {
        return Err(refuse("labels", labels, format!("shape [{b}, {c}]")));
    }
    Ok(match problem {
        Problem::Regression => logits_bc.mse_loss(&numbers_bc, Reduction::Mean),
        _ => logits_bc.binary_cross_entropy_with_logits::<Tensor>(
            &numbers_bc,
            None,
            None,
            Reduction::Mean,
        ),
    })
}

/// The mean of the losses of first and last tokens, of which those outside the text don't count.
fn of_spans(start_bt: &Tensor, end_bt: &Tensor, inputs: &Inputs) -> Result<Option<Tensor>> {
    let (b, t) = (start_bt.size()[0], start_bt.size()[1]);
    let loss = |name: &'static str, logits_bt: &Tensor| match inputs.get(name) {
        None => Ok(None),
        Some(position) if position.size() == [b] || position.size() == [b, 1] => {
            let position_b = position.reshape([b]).clamp(0, t);
            let position_b = position_b.masked_fill(&position_b.eq(t), IGNORED);
            Ok(Some(cross_entropy(logits_bt, &position_b)))
        }
        Some(position) => Err(refuse(name, position, format!("Int64 of shape [{b}]"))),
    };
    match (loss("start_positions", start_bt)?, loss("end_positions", end_bt)?) {
        (Some(start), Some(end)) => Ok(Some((start + end) / 2.0)),
        (None, None) => Ok(None),
        (Some(_), None) => Err(inputs.lacks("end_positions", "beside start_positions")),
        (None, Some(_)) => Err(inputs.lacks("start_positions", "beside end_positions")),
    }
}
