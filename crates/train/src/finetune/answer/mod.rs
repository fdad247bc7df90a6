//! `answer`: the stretch of a text that answers a question, or that there is none. A text that is
//! longer than the model reads is read in windows that overlap.
//!
//! Axes: `n` windows, `t` tokens of the longest.

mod read;
mod spans;

use std::path::Path;
use std::rc::Rc;

use bert4rs_data::{TextWindow, WindowTokenizer};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Reduction, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use read::{AnswerText, Question, read_questions};
pub use spans::{AnswerPrediction, AnswerSpan, AnswerWorth, SEARCHED, shares, spans_of_window};

use super::example::{Example, bad_file};
use super::head::TaskModel;
use super::rows::{Rows, sequence_rows, split_by_counts};
use super::{FinetuneTask, NamedScores};
use crate::batch::NamedTensors;
use crate::error::{Error, Result};
use crate::scores::answers::{self, ScoredAnswer, best_threshold};

/// The key of `config.json` that says when a model gives no answer.
pub const THRESHOLD_KEY: &str = "no_answer_threshold";

/// How questions are answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerOptions {
    /// Tokens that a window shares with the one before.
    pub stride: usize,
    /// The most tokens of an answer.
    pub longest: usize,
    /// How much surer a model must be that there is no answer than of the best one to give none;
    /// for models that learned questions without answers.
    pub no_answer_threshold: f64,
}

impl Default for AnswerOptions {
    /// Those of transformers' `run_qa.py`.
    fn default() -> Self {
        Self { stride: 128, longest: 30, no_answer_threshold: 0.0 }
    }
}

/// A window of a text, and where in it the answer lies.
#[derive(Debug, Clone)]
pub struct AnswerWindow {
    context: Rc<str>,
    /// Where each token of the text stands in it, in bytes; absent for all others.
    places: Vec<Option<(usize, usize)>>,
    /// All right answers of the question; absent where they are not known.
    answers: Option<Rc<[AnswerText]>>,
    /// The answer's first and last token; the first token twice where the window does not hold it.
    span: (usize, usize),
}

impl AnswerWindow {
    fn new(
        context: &Rc<str>,
        places: Vec<Option<(usize, usize)>>,
        answers: Option<Rc<[AnswerText]>>,
    ) -> Self {
        let first = answers.as_ref().and_then(|answers| answers.first());
        let span = first.and_then(|answer| span_of(&places, answer)).unwrap_or((0, 0));
        Self { context: Rc::clone(context), places, answers, span }
    }

    /// The text that a span's tokens stand for.
    fn text_of(&self, span: &AnswerSpan) -> String {
        let place = |at: usize| self.places.get(at).copied().flatten();
        let bytes = place(span.first).zip(place(span.last));
        let text = bytes.and_then(|(first, last)| self.context.get(first.0..last.1));
        text.unwrap_or_default().to_owned()
    }
}

/// The first and last token of `answer`, if all of it is in the window: of several tokens that
/// begin or end there, as transformers' `run_qa.py` has it, the fewest that hold it.
fn span_of(places: &[Option<(usize, usize)>], answer: &AnswerText) -> Option<(usize, usize)> {
    let (start, end) = (answer.start, answer.start + answer.text.len());
    let first = places.iter().rposition(|place| place.is_some_and(|place| place.0 <= start))?;
    let last = places.iter().position(|place| place.is_some_and(|place| place.1 >= end))?;
    (first <= last).then_some((first, last))
}

/// The task.
#[derive(Debug)]
pub struct Answer {
    model: TaskModel,
    windows: WindowTokenizer,
    options: AnswerOptions,
    /// Whether there may be no answer.
    may_be_none: bool,
    /// Answers that are listed for each question, beside the one that is given.
    listed: usize,
}

impl Answer {
    /// The task of a model with a head for answers; `may_be_none` if it may give none.
    ///
    /// # Errors
    /// Windows that share more than they hold.
    pub fn new(model: TaskModel, options: AnswerOptions, may_be_none: bool) -> Result<Self> {
        if options.stride >= model.longest {
            let (stride, longest) = (options.stride, model.longest);
            let reason = format!(
                "windows of {longest} tokens can't share {stride}; lower --stride or raise \
                 --max-length"
            );
            let (origin, key) = ("configuration".into(), "answer.stride".into());
            return Err(Error::Config { origin, key, reason });
        }
        let windows = model.tokenizer.tokenizer().with_windows(model.longest, options.stride)?;
        Ok(Self { model, windows, options, may_be_none, listed: 0 })
    }

    /// Lets predictions list so many answers with their probabilities.
    pub fn listing(mut self, count: usize) -> Self {
        self.listed = count;
        self
    }

    /// Examples of what was read: one for each window.
    ///
    /// # Errors
    /// A question that leaves no room for its text in a window, and a text without any token.
    pub fn examples(
        &self,
        path: &Path,
        questions: Vec<Question>,
    ) -> Result<Vec<Example<AnswerWindow>>> {
        let texts: Vec<&str> = questions.iter().map(|one| one.question.as_str()).collect();
        let stride = self.options.stride;
        let full = self.windows.room(&texts)?.into_iter().position(|room| room <= stride);
        if let Some(at) = full {
            let (question, longest) = (&questions[at], self.model.longest);
            let reason = format!(
                "has a question that leaves no room for its text in {longest} tokens, of which \
                 windows share {stride}; shorten it, lower --stride or raise --max-length"
            );
            return Err(bad_file(path, format!("{} {reason}", question.place)));
        }
        let pairs: Vec<(&str, &str)> =
            questions.iter().map(|one| (one.question.as_str(), &*one.context)).collect();
        let encoded = self.windows.encode(&pairs)?;
        let mut examples = Vec::new();
        for (question, windows) in questions.iter().zip(encoded) {
            if windows.iter().all(|window| window.places.iter().all(Option::is_none)) {
                let reason = format!("{} has a text without any token", question.place);
                return Err(bad_file(path, reason));
            }
            examples.extend(examples_of(question, windows));
        }
        Ok(examples)
    }

    /// Logits `[n, t, 2]` in FP32 of each window's tokens; minus infinity beyond its end.
    fn logits(&self, batch: &NamedTensors, train: bool) -> Result<Tensor> {
        let logits = self.model.model.answer_logits(&sequence_rows(batch)?, train)?;
        let (index_nt, beyond_nt) = (batch.get("window_tokens")?, batch.get("beyond_end")?);
        let (n, t) = (index_nt.size()[0], index_nt.size()[1]);
        let logits_nt2 = logits.index_select(0, &index_nt.flatten(0, 1)).view([n, t, 2]);
        let logits_nt2 = logits_nt2.to_kind(Kind::Float);
        Ok(logits_nt2.masked_fill(&beyond_nt.unsqueeze(-1), f64::NEG_INFINITY))
    }

    /// The mean of the losses of first and last tokens, summed over windows.
    fn loss_of(&self, logits_nt2: &Tensor, batch: &NamedTensors) -> Result<Tensor> {
        let loss = |name: &str, output: i64| -> Result<Tensor> {
            let (logits_nt, all) = (logits_nt2.select(-1, output), None::<Tensor>);
            let labels_n = batch.get(name)?;
            let sum = logits_nt.f_cross_entropy_loss(labels_n, all, Reduction::Sum, -100, 0.0);
            Ok(sum.during("loss of answers")?)
        };
        Ok((loss("start_positions", 0)? + loss("end_positions", 1)?) / 2.0)
    }

    /// What is answered: nothing where the model is surer of that.
    fn said<'a>(&self, prediction: &'a AnswerPrediction) -> &'a str {
        let is_none = prediction.no_answer() > self.options.no_answer_threshold;
        if self.may_be_none && is_none { "" } else { prediction.best() }
    }
}

fn examples_of(
    question: &Question,
    windows: Vec<TextWindow>,
) -> impl Iterator<Item = Example<AnswerWindow>> {
    let answers: Option<Rc<[AnswerText]>> = question.answers.clone().map(Into::into);
    windows.into_iter().enumerate().map(move |(part, window)| Example {
        line: question.line,
        part,
        source: json!({ "id": question.id, "question": question.question }),
        text: window.tokens,
        others: Vec::new(),
        label: Some(AnswerWindow::new(&question.context, window.places, answers.clone())),
    })
}

/// What `answer` is worth.
fn worth(answer: &str, right: &[AnswerText]) -> AnswerWorth {
    // As SQuAD's script: what has no words but articles is no answer.
    let right = right.iter().map(|right| right.text.as_str());
    let right: Vec<&str> = right.filter(|right| !answers::words(right).is_empty()).collect();
    AnswerWorth {
        has_answer: !right.is_empty(),
        exact: answers::exact_match(answer, &right),
        f1: answers::word_f1(answer, &right),
    }
}

impl FinetuneTask for Answer {
    type Label = AnswerWindow;
    type Prediction = AnswerPrediction;

    fn name(&self) -> &'static str {
        "answer"
    }

    fn read(&self, path: &Path, labelled: bool) -> Result<Vec<Example<AnswerWindow>>> {
        self.examples(path, read_questions(path, labelled)?)
    }

    fn model(&self) -> &TaskModel {
        &self.model
    }

    fn model_mut(&mut self) -> &mut TaskModel {
        &mut self.model
    }

    fn tensors(
        &self,
        examples: &[&Example<AnswerWindow>],
        rows: &Rows,
    ) -> Result<(Vec<(&'static str, Tensor)>, u64)> {
        let longest = rows.lengths.iter().copied().max().unwrap_or(0);
        let (mut index, mut beyond) = (Vec::new(), Vec::new());
        for (first, &length) in rows.first.iter().zip(&rows.lengths) {
            index.extend((0..longest).map(|at| first + at.min(length - 1)));
            beyond.extend((0..longest).map(|at| at >= length));
        }
        let shape = [examples.len() as i64, longest];
        let windows = || examples.iter().filter_map(|example| example.label.as_ref());
        let in_text = windows().zip(&rows.lengths).flat_map(|(window, &length)| {
            let beyond = (longest - length) as usize;
            let of_text = window.places.iter().map(Option::is_some);
            of_text.chain(std::iter::repeat_n(false, beyond))
        });
        let in_text: Vec<bool> = in_text.collect();
        let mut tensors = vec![
            ("window_tokens", Tensor::from_slice(&index).view(shape)),
            ("beyond_end", Tensor::from_slice(&beyond).view(shape)),
            ("in_text", Tensor::from_slice(&in_text).view(shape)),
        ];
        if windows().any(|window| window.answers.is_none()) {
            return Ok((tensors, 0));
        }
        let ends = |end: fn(&AnswerWindow) -> usize| {
            Tensor::from_slice(&windows().map(|window| end(window) as i64).collect::<Vec<_>>())
        };
        tensors.push(("start_positions", ends(|window| window.span.0)));
        tensors.push(("end_positions", ends(|window| window.span.1)));
        Ok((tensors, examples.len() as u64))
    }

    fn loss(&self, batch: &NamedTensors) -> Result<Tensor> {
        self.loss_of(&self.logits(batch, true)?, batch)
    }

    fn predict(&self, batch: &NamedTensors) -> Result<(Vec<AnswerPrediction>, Option<Tensor>)> {
        let logits_nt2 = self.logits(batch, false)?;
        let loss = match batch.find("start_positions") {
            Some(_) => Some(self.loss_of(&logits_nt2, batch)?),
            None => None,
        };
        let (n, t) = (logits_nt2.size()[0] as usize, logits_nt2.size()[1] as usize);
        let read = |tensor: Tensor| {
            let flat = tensor.to_device(Device::Cpu).contiguous().flatten(0, 1);
            Vec::<f32>::try_from(flat).during("read predictions")
        };
        let (first, last) = (read(logits_nt2.select(-1, 0))?, read(logits_nt2.select(-1, 1))?);
        let in_text = read(batch.get("in_text")?.to_kind(Kind::Float))?;
        let counts = vec![t as i64; n];
        let rows = split_by_counts(&first, &counts).into_iter();
        let rows = rows.zip(split_by_counts(&last, &counts));
        let spans = |((first, last), in_text): ((&[f32], &[f32]), &[f32])| {
            spans_of_window(first, last, |at| in_text[at] > 0.0, self.options.longest)
        };
        let found = rows.zip(split_by_counts(&in_text, &counts)).map(spans).collect();
        Ok((found, loss))
    }

    fn finish(
        &self,
        parts: &[Example<AnswerWindow>],
        said: Vec<AnswerPrediction>,
    ) -> Option<AnswerPrediction> {
        let windows: Vec<&AnswerWindow> =
            parts.iter().filter_map(|part| part.label.as_ref()).collect();
        let mut joined = spans::join(&windows, said);
        let known = windows.first().and_then(|window| window.answers.as_ref());
        joined.worth = known.map(|right| worth(joined.best(), right));
        Some(joined)
    }

    fn scores(&self, pairs: &[(&AnswerWindow, &AnswerPrediction)]) -> NamedScores {
        let known: Vec<(&AnswerPrediction, AnswerWorth)> =
            pairs.iter().filter_map(|(_, said)| Some((*said, said.worth?))).collect();
        let mean = |values: &mut dyn Iterator<Item = f64>| {
            let (sum, count) = values.fold((0.0, 0), |(sum, n), value| (sum + value, n + 1));
            if count == 0 { 0.0 } else { sum / f64::from(count) }
        };
        let given = |(said, worth): &(&AnswerPrediction, AnswerWorth), score: f64| {
            let is_none = self.said(said).is_empty();
            if is_none { f64::from(u8::from(!worth.has_answer)) } else { score }
        };
        let mut scores = vec![
            ("f1".to_owned(), mean(&mut known.iter().map(|one| given(one, one.1.f1)))),
            ("exact_match".to_owned(), mean(&mut known.iter().map(|one| given(one, one.1.exact)))),
        ];
        if known.iter().all(|(_, worth)| worth.has_answer) {
            return scores;
        }
        let with = |has: bool| known.iter().filter(move |(_, worth)| worth.has_answer == has);
        let answered = mean(&mut with(true).map(|one| given(one, one.1.f1)));
        let silent = mean(&mut with(false).map(|one| given(one, 0.0)));
        let scored = known.iter().map(|(said, worth)| ScoredAnswer {
            score: worth.f1,
            has_answer: worth.has_answer,
            is_empty: said.best().is_empty(),
            no_answer: said.no_answer(),
        });
        let (threshold, best) = best_threshold(&scored.collect::<Vec<_>>());
        scores.extend([
            ("has_answer_f1".to_owned(), answered),
            ("no_answer_accuracy".to_owned(), silent),
            ("best_f1".to_owned(), best),
            ("best_f1_threshold".to_owned(), threshold),
        ]);
        scores
    }

    fn main_score(&self) -> &'static str {
        "f1"
    }

    fn balance(&self, labels: &[&AnswerWindow]) -> Vec<String> {
        let with = labels.iter().filter(|window| window.span != (0, 0)).count();
        let none = |window: &&&AnswerWindow| {
            window.answers.as_ref().is_some_and(|answers| answers.is_empty())
        };
        let without = labels.iter().filter(none).count();
        vec![format!(
            "{with} of {} windows hold their answer, {without} are of questions without one",
            labels.len()
        )]
    }

    fn label_text(&self, label: &AnswerWindow) -> String {
        match label.answers.as_ref().and_then(|answers| answers.first()) {
            Some(answer) if label.span != (0, 0) => {
                format!("{:?}, tokens {} to {}", answer.text, label.span.0, label.span.1)
            }
            _ => "no answer here".into(),
        }
    }

    fn prediction_json(&self, prediction: &AnswerPrediction) -> Value {
        let said = self.said(prediction);
        let scores: Vec<f64> = prediction.spans.iter().map(|span| span.score).collect();
        let shares = shares(&scores);
        let mut object = json!({ "answer": said });
        if self.may_be_none {
            object["no_answer_score"] = json!(prediction.no_answer());
        }
        if self.listed > 0 {
            let spans = prediction.spans.iter().zip(shares).take(self.listed);
            let listed = spans.map(|(span, share)| json!({ "text": span.text, "score": share }));
            object["answers"] = listed.collect();
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_by_the_tokens_that_hold_it() {
        // "Whom?" before "Zoë saw Émile.", the last word in two tokens.
        let text = [(0, 4), (5, 8), (9, 11), (11, 15), (15, 16)].map(Some);
        let places: Vec<_> = [None, None, None].into_iter().chain(text).chain([None]).collect();
        let answer = |text: &str, start| AnswerText { text: text.into(), start };
        assert_eq!(span_of(&places, &answer("Émile", 9)), Some((5, 6)));
        assert_eq!(span_of(&places, &answer("Zoë saw", 0)), Some((3, 4)));
        // Part of a token: all of it is taken.
        assert_eq!(span_of(&places, &answer("ile", 12)), Some((6, 6)));
        assert_eq!(span_of(&places[..6], &answer("Émile", 9)), None, "it ends beyond the window");
        assert_eq!(span_of(&places[5..], &answer("saw", 5)), None, "it begins before the window");
    }

    #[test]
    fn articles_alone_are_no_answer() {
        let right = |text: &str| [AnswerText { text: text.into(), start: 0 }];
        let found = worth("a film", &right("The film!"));
        assert_eq!(found, AnswerWorth { has_answer: true, exact: 1.0, f1: 1.0 });
        assert!(!worth("", &right("the")).has_answer);
        assert_eq!(worth("", &[]).f1, 1.0);
    }
}
