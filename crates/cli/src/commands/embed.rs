//! `bert4rs embed`: a vector for each text.

use std::path::Path;
use std::process::ExitCode;

use bert4rs_data::ModelTokenizer;
use bert4rs_models::bert::{BertInput, BertModel};
use bert4rs_models::mask;
use bert4rs_models::pretrained::Pretrained;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Tensor, no_grad, safetensors};
use bert4rs_train::Result;
use serde_json::{Value, json};

use super::{output_file, refuse, remark, say, texts_of};
use crate::model_flags::EmbedFlags;

pub(crate) fn run(flags: &EmbedFlags) -> Result<ExitCode> {
    let texts = texts_of(&flags.text, flags.file.as_deref())?;
    check_output(flags)?;
    let path = flags.model.model.as_path();
    let compute = flags.model.compute()?;
    let pretrained = Pretrained::load(path, compute)?;
    let Some(model) = pretrained.encoder() else {
        let name = pretrained.architecture().name();
        return Err(refuse(path, format!("{name} has no sentence vectors; use a BERT")));
    };
    let tokenizer = ModelTokenizer::load(path)?;
    let longest = longest(path, model, &tokenizer)?;
    let mut ids: Vec<Vec<u32>> =
        texts.iter().map(|text| tokenizer.encode(text)).collect::<std::result::Result<_, _>>()?;
    let cut = ids.iter_mut().filter_map(|ids| truncate(ids, longest)).count();
    if cut > 0 {
        remark(&format!("{cut} of {} texts were cut to {longest} tokens", texts.len()));
    }
    let pad = tokenizer.names().pad.as_deref().and_then(|name| tokenizer.id(name)).unwrap_or(0);
    let embeddings = no_grad(|| embed(model, &ids, pad, flags, compute.device))?;
    write(flags, &texts, &embeddings)?;
    Ok(ExitCode::SUCCESS)
}

fn check_output(flags: &EmbedFlags) -> Result<()> {
    if flags.batch_size == 0 {
        let (found, expected) = ("0".into(), "at least 1".into());
        return Err(bert4rs_models::Error::Input { name: "--batch-size", found, expected }.into());
    }
    let Some(output) = &flags.output else { return Ok(()) };
    let input: Vec<&Path> = flags.file.as_deref().into_iter().collect();
    output_file(output, flags.overwrite, &input)?;
    match output.extension().and_then(|ending| ending.to_str()) {
        Some("safetensors" | "json") => Ok(()),
        _ => Err(refuse(output, "--output must end in .safetensors or .json")),
    }
}

/// The most tokens of a text: what the model has positions for, its tokenizer allows, and, for
/// models of sentence-transformers, what they were trained with.
fn longest(path: &Path, model: &BertModel, tokenizer: &ModelTokenizer) -> Result<usize> {
    let positions = match model.config().overrides.rotary {
        None => model.config().max_position_embeddings as usize,
        Some(_) => usize::MAX,
    };
    let file = path.join("sentence_bert_config.json");
    let trained: Value = match std::fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text)
            .map_err(|error| refuse(&file, format!("not JSON: {error}")))?,
        Err(_) => Value::Null,
    };
    let trained = trained["max_seq_length"].as_u64().map_or(usize::MAX, |length| length as usize);
    let allowed = match trained {
        usize::MAX => tokenizer.max_length().unwrap_or(usize::MAX),
        trained => trained,
    };
    Ok(positions.min(allowed).max(2))
}

/// Cuts a text that is too long before its last token, which ends every text.
fn truncate(ids: &mut Vec<u32>, longest: usize) -> Option<()> {
    if ids.len() <= longest {
        return None;
    }
    let last = ids.pop()?;
    ids.truncate(longest - 1);
    ids.push(last);
    Some(())
}

/// `[texts, d]` in FP32, in the order of `ids`. Texts of like length are computed together.
fn embed(
    model: &BertModel,
    ids: &[Vec<u32>],
    pad: u32,
    flags: &EmbedFlags,
    device: Device,
) -> Result<Tensor> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|&index| ids[index].len());
    let mut parts = Vec::new();
    for batch in order.chunks(flags.batch_size) {
        let time = batch.iter().map(|&index| ids[index].len()).max().unwrap_or(0);
        let (mut tokens, mut keep) = (Vec::new(), Vec::new());
        for &index in batch {
            let real = ids[index].len();
            tokens.extend(ids[index].iter().map(|&id| i64::from(id)));
            tokens.extend(std::iter::repeat_n(i64::from(pad), time - real));
            keep.extend((0..time).map(|place| place < real));
        }
        let shape = [batch.len() as i64, time as i64];
        let ids_bt = Tensor::from_slice(&tokens).view(shape).to_device(device);
        let keep_bt = Tensor::from_slice(&keep).view(shape).to_device(device);
        let padding = mask::padding(&keep_bt);
        let input = BertInput { mask: Some(&padding), ..BertInput::new(&ids_bt) };
        input.check_values(model.config())?;
        let hidden_btd = model.forward(&input, false)?;
        parts.push(flags.pooling.forward(&hidden_btd, &keep_bt, flags.normalize)?);
    }
    let sorted = Tensor::f_cat(&parts, 0).during("embeddings")?.to_device(Device::Cpu);
    let order: Vec<i64> = order.into_iter().map(|index| index as i64).collect();
    let places = Tensor::from_slice(&order).argsort(-1, false);
    Ok(sorted.index_select(0, &places).to_kind(Kind::Float))
}

fn write(flags: &EmbedFlags, texts: &[String], embeddings: &Tensor) -> Result<()> {
    let (count, features) = (embeddings.size()[0], embeddings.size()[1]);
    let wrote = |path: &Path| {
        say(&format!("{count} vectors of {features} features written to {}", path.display()));
    };
    if let Some(path) = &flags.output
        && path.extension().is_some_and(|ending| ending == "safetensors")
    {
        safetensors::save(path, &[("embeddings".into(), embeddings)], None)?;
        wrote(path);
        return Ok(());
    }
    let values = Vec::<f32>::try_from(embeddings.flatten(0, 1)).during("embeddings")?;
    let objects: Vec<Value> = texts
        .iter()
        .zip(values.chunks(features as usize))
        .map(|(text, embedding)| json!({ "text": text, "embedding": embedding }))
        .collect();
    match &flags.output {
        None => objects.iter().for_each(|object| say(&object.to_string())),
        Some(path) => {
            let text = Value::from(objects).to_string() + "\n";
            safetensors::write_atomic(path, text.as_bytes())?;
            wrote(path);
        }
    }
    Ok(())
}
