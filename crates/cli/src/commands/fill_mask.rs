//! `bert4rs fill-mask`: what a BERT, or a relative, expects where its mask token stands.

use std::path::Path;
use std::process::ExitCode;

use bert4rs_data::ModelTokenizer;
use bert4rs_models::bert::{BertForMaskedLm, BertInput};
use bert4rs_models::pretrained::{Model, Pretrained};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Tensor, no_grad};
use bert4rs_train::Result;
use bert4rs_train::output::print_line;
use serde_json::json;

use super::{at_least_one, refuse};
use crate::model_flags::FillMaskFlags;

/// A token that a mask may stand for.
struct Guess {
    token: String,
    id: i64,
    probability: f64,
}

pub(crate) fn run(flags: &FillMaskFlags) -> Result<ExitCode> {
    at_least_one("--top-k", flags.top_k)?;
    let path = flags.model.model.as_path();
    let options = flags.model.options()?;
    let pretrained = Pretrained::load(path, options)?;
    let model = match pretrained.model() {
        Model::MaskedLm(model) => model,
        Model::PreTraining(model) => model.masked(),
        _ => return Err(no_head(path, &pretrained)),
    };
    let tokenizer = ModelTokenizer::load(path)?;
    let name = tokenizer.names().mask.clone();
    let Some((name, mask)) = name.and_then(|name| Some((name.clone(), tokenizer.id(&name)?)))
    else {
        return Err(refuse(path, "its tokenizer has no mask token, such as [MASK]"));
    };
    let longest = pretrained.longest().unwrap_or(usize::MAX);
    let ids: Vec<Vec<i64>> = flags
        .text
        .iter()
        .map(|text| encode(&tokenizer, text, (&name, mask), longest))
        .collect::<Result<_>>()?;
    for (text, ids) in flags.text.iter().zip(&ids) {
        let guesses = guess(model, &tokenizer, ids, mask, flags.top_k, options.device)?;
        if flags.json { print_json(text, &guesses)? } else { print_text(text, &guesses)? }
    }
    Ok(ExitCode::SUCCESS)
}

fn no_head(path: &Path, model: &Pretrained) -> bert4rs_train::Error {
    let name = model.architecture();
    let reason = format!("{name} has no head for masked tokens; use a BertForMaskedLM");
    refuse(path, reason)
}

/// The tokens of a text that has a mask, of which the model takes `longest`.
fn encode(
    tokenizer: &ModelTokenizer,
    text: &str,
    (name, mask): (&str, u32),
    longest: usize,
) -> Result<Vec<i64>> {
    let ids = tokenizer.encode(text)?;
    let refuse = |what: &str, expected: String| {
        let found = format!("{:?} {what}", shortened(text));
        Err(bert4rs_models::Error::Input { name: "--text", found, expected }.into())
    };
    if !ids.contains(&mask) {
        return refuse("has no mask token", format!("{name} where a token is to be filled in"));
    }
    if ids.len() > longest {
        // Cutting it could cut off a mask.
        let what = format!("has {} tokens", ids.len());
        return refuse(&what, format!("at most {longest}, for which the model has positions"));
    }
    Ok(ids.into_iter().map(i64::from).collect())
}

/// The beginning of a long text.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The `count` most probable tokens for each mask in `ids`, most probable first.
fn guess(
    model: &BertForMaskedLm,
    tokenizer: &ModelTokenizer,
    ids: &[i64],
    mask: u32,
    count: usize,
    device: Device,
) -> Result<Vec<Vec<Guess>>> {
    let ids_bt = Tensor::from_slice(ids).unsqueeze(0).to_device(device);
    let input = BertInput::new(&ids_bt);
    input.check_values(model.config())?;
    let positions: Vec<i64> = (0i64..)
        .zip(ids)
        .filter(|(_, id)| **id == i64::from(mask))
        .map(|(position, _)| position)
        .collect();
    let probabilities_mv = no_grad(|| -> Result<Tensor> {
        let hidden_btd = model.encode(&input, false)?;
        let masked = Tensor::from_slice(&positions).to_device(device);
        let logits_mv = model.logits(&hidden_btd.select(0, 0).index_select(0, &masked))?;
        Ok(logits_mv.softmax(-1, Kind::Float))
    })?;
    let count = (count as i64).min(probabilities_mv.size()[1]);
    let (best_mk, ids_mk) = probabilities_mv.topk(count, -1, true, true);
    let best = Vec::<f32>::try_from(best_mk.flatten(0, 1)).during("probabilities")?;
    let ids = Vec::<i64>::try_from(ids_mk.flatten(0, 1)).during("tokens")?;
    let guesses: Vec<Guess> = best
        .into_iter()
        .zip(ids)
        .map(|(probability, id)| {
            let token = u32::try_from(id).ok().and_then(|id| tokenizer.token(id));
            Guess { token: token.unwrap_or_default(), id, probability: probability.into() }
        })
        .collect();
    let mut guesses = guesses.into_iter();
    Ok(positions.iter().map(|_| guesses.by_ref().take(count as usize).collect()).collect())
}

fn print_text(text: &str, guesses: &[Vec<Guess>]) -> Result<()> {
    print_line(text)?;
    for (number, guesses) in guesses.iter().enumerate() {
        if number > 0 {
            print_line("")?;
        }
        for Guess { token, probability, .. } in guesses {
            print_line(&format!("  {probability:.4}  {token}"))?;
        }
    }
    Ok(())
}

fn print_json(text: &str, guesses: &[Vec<Guess>]) -> Result<()> {
    let masks: Vec<Vec<_>> = guesses
        .iter()
        .map(|guesses| {
            let object = |guess: &Guess| {
                let Guess { token, id, probability } = guess;
                json!({ "token": token, "token_id": id, "probability": probability })
            };
            guesses.iter().map(object).collect()
        })
        .collect();
    print_line(&json!({ "text": text, "masks": masks }).to_string())
}
