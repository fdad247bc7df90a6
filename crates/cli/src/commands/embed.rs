//! `bert4rs embed`: a vector for each text.

use std::path::Path;
use std::process::ExitCode;

use bert4rs_data::ModelTokenizer;
use bert4rs_models::embedding::{Pooling, SentenceEncoder};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Tensor, safetensors};
use bert4rs_train::Result;
use bert4rs_train::output::print_line;
use serde_json::{Value, json};

use super::{at_least_one, of_flag, output_file, refuse, remark, texts_of};
use crate::model_flags::EmbedFlags;

pub(crate) fn run(flags: &EmbedFlags) -> Result<ExitCode> {
    let texts = texts_of(&flags.text, flags.file.as_deref())?;
    check_output(flags)?;
    let pooling = flags.pooling.as_ref().map(|modes| modes.parse::<Pooling>()).transpose();
    let pooling = pooling.map_err(|error| of_flag("--pooling", error))?;
    let path = flags.model.model.as_path();
    let mut encoder = SentenceEncoder::load(path, flags.model.options()?)?;
    if let Some(pooling) = pooling {
        encoder.set_pooling(pooling);
    }
    if flags.normalize {
        encoder.normalize();
    }
    let tokenizer = ModelTokenizer::load(&path.join(encoder.transformer_folder()))?;
    let prompt = encoder.prompt(flags.prompt_name.as_deref());
    let prompt = prompt.map_err(|error| of_flag("--prompt-name", error))?;
    let longest = encoder.max_tokens(tokenizer.max_length());
    let mut ids: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| tokenizer.encode(&encoder.text(prompt, text)))
        .collect::<std::result::Result<_, _>>()?;
    let cut = ids.iter_mut().filter_map(|ids| truncate(ids, longest)).count();
    if cut > 0 {
        remark(&format!("{cut} of {} texts were cut to {longest} tokens", texts.len()));
    }
    let prompt_tokens = prompt_tokens(&tokenizer, &encoder.text(prompt, ""))?;
    let embeddings = encoder.embed_prompted(&ids, prompt_tokens, flags.batch_size)?;
    write(flags, &texts, &embeddings)?;
    Ok(ExitCode::SUCCESS)
}

/// How many tokens of a text are its prompt's: all that the prompt has alone, but the last, which
/// ends every text.
fn prompt_tokens(tokenizer: &ModelTokenizer, prompt: &str) -> Result<usize> {
    if prompt.is_empty() {
        return Ok(0);
    }
    let ids = tokenizer.encode(prompt)?;
    let names = tokenizer.names();
    let ends = [&names.sep, &names.eos].map(|name| tokenizer.id(name.as_ref()?));
    let is_ended = ids.last().is_some_and(|last| ends.contains(&Some(*last)));
    Ok(ids.len() - usize::from(is_ended))
}

fn check_output(flags: &EmbedFlags) -> Result<()> {
    at_least_one("--batch-size", flags.batch_size)?;
    let Some(output) = &flags.output else { return Ok(()) };
    let input: Vec<&Path> = flags.file.as_deref().into_iter().collect();
    output_file(output, flags.overwrite, &flags.model.model, &input)?;
    match output.extension().and_then(|ending| ending.to_str()) {
        Some("safetensors" | "json") => Ok(()),
        _ => Err(refuse(output, "--output must end in .safetensors or .json")),
    }
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

fn write(flags: &EmbedFlags, texts: &[String], embeddings: &Tensor) -> Result<()> {
    let (count, features) = (embeddings.size()[0], embeddings.size()[1]);
    let wrote = |path: &Path| {
        print_line(&format!("{count} vectors of {features} features written to {}", path.display()))
    };
    if let Some(path) = &flags.output
        && path.extension().is_some_and(|ending| ending == "safetensors")
    {
        safetensors::save(path, &[("embeddings".into(), embeddings)], None)?;
        return wrote(path);
    }
    let values = Vec::<f32>::try_from(embeddings.flatten(0, 1)).during("embeddings")?;
    let objects: Vec<Value> = texts
        .iter()
        .zip(values.chunks(features as usize))
        .map(|(text, embedding)| json!({ "text": text, "embedding": embedding }))
        .collect();
    match &flags.output {
        None => objects.iter().try_for_each(|object| print_line(&object.to_string())),
        Some(path) => {
            let text = Value::from(objects).to_string() + "\n";
            safetensors::write_atomic(path, text.as_bytes())?;
            wrote(path)
        }
    }
}
