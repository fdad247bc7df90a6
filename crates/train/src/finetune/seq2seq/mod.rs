//! `seq2seq`: a T5 reads a text and writes another, such as a translation or a summary.

mod read;
mod worth;

use std::path::Path;

use bert4rs_data::{EncodedText, Layout, PairTokenizer, read_text};
use bert4rs_models::generation::{
    BeamSearch, EarlyStopping, GenerationConfig, Generator, Strategy, generate,
};
use bert4rs_models::loss::{Labels, LossOptions};
use bert4rs_models::pretrained::Model;
use bert4rs_models::t5::{T5, T5Input};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::safetensors::write_atomic;
use bert4rs_tensor_core::{Device, Kind, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use read::{SourceColumns, SourceText, read_sources};
pub use worth::TextWorth;

use super::example::{Example, bad_file, encode};
use super::head::TaskModel;
use super::rows::Rows;
use super::{FinetuneTask, NamedScores};
use crate::batch::NamedTensors;
use crate::error::Result;

/// The key of `config.json` with what stands before each source.
pub const PREFIX_KEY: &str = "prefix";

/// The file that says how a model writes, in transformers' keys.
pub const GENERATION_FILE: &str = "generation_config.json";

/// What is read, and how the model writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WritingOptions {
    /// What stands before each source, such as `summarize: `.
    pub prefix: String,
    /// The most tokens of a target, its end included: longer ones are cut, and no more are written.
    pub max_target_length: usize,
    /// Candidates of a beam search; 1 takes the most probable token each time.
    pub beams: usize,
    /// Candidates' log-probabilities are divided by their length to this power.
    pub length_penalty: f64,
    /// The score that decides which weights are best.
    pub best_by: WritingScore,
}

impl Default for WritingOptions {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            max_target_length: 128,
            beams: 1,
            length_penalty: 1.0,
            best_by: WritingScore::RougeL,
        }
    }
}

/// A score of written texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WritingScore {
    /// Shared words.
    Rouge1,
    /// Shared pairs of words.
    Rouge2,
    /// The longest common subsequence.
    RougeL,
    /// Shared runs of up to four words.
    Bleu,
    /// Shared runs of letters.
    Chrf,
    /// The same text.
    ExactMatch,
}

impl WritingScore {
    fn name(self) -> &'static str {
        match self {
            Self::Rouge1 => "rouge1",
            Self::Rouge2 => "rouge2",
            Self::RougeL => "rouge_l",
            Self::Bleu => "bleu",
            Self::Chrf => "chrf",
            Self::ExactMatch => "exact_match",
        }
    }
}

/// A text that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetText {
    /// The text.
    pub text: String,
    /// Its tokens, with the one that ends it.
    pub tokens: EncodedText,
}

/// A text that the model wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenText {
    /// The text.
    pub text: String,
    /// What it is worth, where the right one is known.
    pub worth: Option<TextWorth>,
}

/// The task.
#[derive(Debug)]
pub struct Seq2Seq {
    model: TaskModel,
    /// Cuts targets.
    targets: PairTokenizer,
    columns: SourceColumns,
    options: WritingOptions,
    /// What is learned by; what is measured is the plain loss.
    loss: LossOptions,
}

impl Seq2Seq {
    /// The task of a T5.
    ///
    /// # Errors
    /// Targets of less than a token.
    pub fn new(model: TaskModel, columns: SourceColumns, options: WritingOptions) -> Result<Self> {
        let targets = model.tokenizer.tokenizer().with_longest(options.max_target_length)?;
        Ok(Self { model, targets, columns, options, loss: LossOptions::default() })
    }

    /// The task, learned by this loss.
    pub fn with_loss(self, loss: LossOptions) -> Self {
        Self { loss, ..self }
    }

    /// Examples of what was read.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn examples(
        &self,
        path: &Path,
        texts: Vec<SourceText>,
    ) -> Result<Vec<Example<TargetText>>> {
        let row = |text: String, line: u64| (line, text, None);
        let prefix = &self.options.prefix;
        let sources: Vec<_> =
            texts.iter().map(|one| row(format!("{prefix}{}", one.source), one.line)).collect();
        let targets: Vec<_> =
            texts.iter().filter_map(|one| Some(row(one.target.clone()?, one.line))).collect();
        let sources = encode(&self.model.tokenizer, path, &sources)?;
        let targets = encode(&self.targets, path, &targets)?;
        let mut targets = targets.into_iter().map(|tokens| self.ended(tokens));
        let example = |(text, tokens): (SourceText, EncodedText)| Example {
            line: text.line,
            part: 0,
            source: json!({ "source": text.source }),
            text: self.ended(tokens),
            others: Vec::new(),
            label: text.target.and_then(|text| Some(TargetText { text, tokens: targets.next()? })),
        };
        Ok(texts.into_iter().zip(sources).map(example).collect())
    }

    /// With the token that ends a text, which not every tokenizer adds.
    fn ended(&self, mut tokens: EncodedText) -> EncodedText {
        let end = self.t5().map(|model| model.config().eos_token_id as u32);
        if let Some(end) = end.filter(|end| tokens.ids.last() != Some(end)) {
            if tokens.is_cut {
                tokens.ids.pop();
            } else {
                tokens.types.push(0);
                tokens.words.push(None);
            }
            tokens.ids.push(end);
        }
        tokens
    }

    fn t5(&self) -> Option<&T5> {
        match self.model.model.model() {
            Model::T5(model) => Some(model),
            _ => None,
        }
    }

    /// The model, which must be one that writes.
    fn writer(&self) -> Result<&T5> {
        let class = self.model.model.architecture();
        self.t5().ok_or_else(|| bad_file(Path::new("model"), format!("is a {class}, no T5")))
    }

    /// The sum of the losses of all tokens of the targets, a scalar in FP32.
    fn loss_of(&self, batch: &NamedTensors, train: bool) -> Result<Tensor> {
        let (model, input) = (self.writer()?, input(batch)?);
        let labels_bt = batch.get("labels")?;
        let one = Tensor::ones([], (Kind::Int64, labels_bt.device()));
        let counted_n = Some(batch.get("counted")?);
        let labels = Labels { ids_bt: labels_bt, counted_n, divisor: Some(&one) };
        if train {
            return Ok(model.lm_loss(&input, labels, &self.loss, true)?);
        }
        Ok(model.lm_score(&input, labels)?.loss)
    }

    /// What the model writes after each source of a batch.
    fn write(&self, batch: &NamedTensors) -> Result<Vec<WrittenText>> {
        let numbers = |name: &str| {
            let flat = batch.get(name)?.to_device(Device::Cpu).reshape([-1]);
            Ok::<_, crate::Error>(Vec::<i64>::try_from(flat).during("read sources")?)
        };
        let (ids, first, lengths) = (numbers("input_ids")?, numbers("first")?, numbers("lengths")?);
        let places = first.iter().zip(&lengths);
        let source = |(&first, &length): (&i64, &i64)| {
            let (first, length) = (first as usize, length as usize);
            ids[first..first + length].to_vec()
        };
        let sources: Vec<Vec<i64>> = places.map(source).collect();
        let model = self.writer()?;
        let options = self.generation(model.config().eos_token_id);
        let written = generate(Generator::T5(model), &sources, &options, &mut |_, _| {})?;
        let text = |tokens: Vec<i64>| {
            let tokens: Vec<u32> =
                tokens.into_iter().filter_map(|token| u32::try_from(token).ok()).collect();
            let text = self.model.tokenizer.tokenizer().decode(&tokens)?;
            Ok(WrittenText { text, worth: None })
        };
        written.into_iter().map(text).collect()
    }

    fn generation(&self, end: i64) -> GenerationConfig {
        let WritingOptions { beams, length_penalty, max_target_length, .. } = self.options;
        let strategy = match beams {
            1 => Strategy::Greedy,
            beams => Strategy::Beam(BeamSearch {
                beams,
                length_penalty,
                early_stopping: EarlyStopping::Heuristic,
            }),
        };
        GenerationConfig {
            max_new_tokens: max_target_length,
            strategy,
            repetition_penalty: 1.0,
            ends: vec![end],
            cache: true,
        }
    }
}

/// What the model reads of a batch.
fn input(batch: &NamedTensors) -> Result<T5Input<'_>> {
    let source = batch.get("sequence_ids")?;
    Ok(T5Input {
        input_ids: batch.get("input_ids")?,
        mask: Some(source),
        decoder_input_ids: batch.get("decoder_input_ids")?,
        decoder_mask: Some(batch.get("decoder_sequence_ids")?),
        cross_mask: Some(source),
    })
}

impl FinetuneTask for Seq2Seq {
    type Label = TargetText;
    type Prediction = WrittenText;

    fn name(&self) -> &'static str {
        "seq2seq"
    }

    fn read(&self, path: &Path, labelled: bool) -> Result<Vec<Example<TargetText>>> {
        self.examples(path, read_sources(path, &self.columns, labelled)?)
    }

    fn model(&self) -> &TaskModel {
        &self.model
    }

    fn model_mut(&mut self) -> &mut TaskModel {
        &mut self.model
    }

    fn rows(&self, examples: &[&Example<TargetText>], layout: Layout) -> Rows {
        let sources: Vec<&EncodedText> = examples.iter().map(|example| &example.text).collect();
        let targets: Option<Vec<&EncodedText>> = examples
            .iter()
            .map(|example| example.label.as_ref().map(|label| &label.tokens))
            .collect();
        Rows::of_pairs(&sources, targets.as_deref(), layout, self.model.frame)
    }

    fn tensors(
        &self,
        _: &[&Example<TargetText>],
        rows: &Rows,
    ) -> Result<(Vec<(&'static str, Tensor)>, u64)> {
        let Some(targets) = &rows.targets else { return Ok((Vec::new(), 0)) };
        let start = self.writer()?.config().pad_token_id;
        Ok((targets.tensors_of_decoder(start), targets.real()))
    }

    fn loss(&self, batch: &NamedTensors) -> Result<Tensor> {
        self.loss_of(batch, true)
    }

    fn predict(&self, batch: &NamedTensors) -> Result<(Vec<WrittenText>, Option<Tensor>)> {
        let loss = match batch.find("labels") {
            Some(_) => Some(self.loss_of(batch, false)?),
            None => None,
        };
        Ok((self.write(batch)?, loss))
    }

    fn finish(&self, parts: &[Example<TargetText>], said: Vec<WrittenText>) -> Option<WrittenText> {
        let WrittenText { text, .. } = said.into_iter().next()?;
        let right = parts.first().and_then(|part| part.label.as_ref());
        let worth = right.map(|right| TextWorth::of(&text, &right.text));
        Some(WrittenText { text, worth })
    }

    fn scores(&self, pairs: &[(&TargetText, &WrittenText)]) -> NamedScores {
        let all: Vec<TextWorth> = pairs.iter().filter_map(|(_, said)| said.worth).collect();
        worth::scores(&all)
    }

    fn main_score(&self) -> &'static str {
        self.options.best_by.name()
    }

    fn balance(&self, labels: &[&TargetText]) -> Vec<String> {
        let lengths = || labels.iter().map(|label| label.tokens.ids.len());
        let mean = lengths().sum::<usize>() as f64 / labels.len().max(1) as f64;
        let cut = labels.iter().filter(|label| label.tokens.is_cut).count();
        vec![format!(
            "targets of {mean:.1} tokens on average, the longest {}; {cut} of {} cut at {}",
            lengths().max().unwrap_or_default(),
            labels.len(),
            self.options.max_target_length
        )]
    }

    fn label_text(&self, label: &TargetText) -> String {
        label.text.clone()
    }

    fn prediction_json(&self, prediction: &WrittenText) -> Value {
        json!({ "generated_text": prediction.text })
    }

    /// The folder also says how the model writes, for transformers' `generate` too.
    fn export(&self, folder: &Path, params: &ParamStore) -> Result<()> {
        self.model.export(folder, params)?;
        let config = self.writer()?.config();
        let mut keys = generation_keys(folder)?;
        keys["decoder_start_token_id"] = config.pad_token_id.into();
        keys["pad_token_id"] = config.pad_token_id.into();
        keys["eos_token_id"] = config.eos_token_id.into();
        keys["max_new_tokens"] = self.options.max_target_length.into();
        keys["num_beams"] = self.options.beams.into();
        keys["length_penalty"] = self.options.length_penalty.into();
        let text = format!("{keys:#}\n");
        Ok(write_atomic(&folder.join(GENERATION_FILE), text.as_bytes())?)
    }
}

/// What the folder says of how its model writes; nothing where it has no such file.
///
/// # Errors
/// A file that is no JSON object.
pub(super) fn generation_keys(folder: &Path) -> Result<Value> {
    let path = folder.join(GENERATION_FILE);
    if !path.exists() {
        return Ok(json!({}));
    }
    let keys: Value = serde_json::from_str(&read_text(&path)?)
        .map_err(|error| bad_file(&path, format!("is no JSON: {error}")))?;
    if keys.is_object() { Ok(keys) } else { Err(bad_file(&path, "is no JSON object")) }
}
