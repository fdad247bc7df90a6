//! `bert4rs tokenizer`: training one by itself, and holding one against another.

use std::path::Path;
use std::process::ExitCode;

use bert4rs_data::tokenizer::{SAMPLE_BYTES, STRESS_TEXT, train_tokenizer};
use bert4rs_data::{
    Corpus, CorpusReading, ModelTokenizer, Objective, TokenizerTraining, read_text,
};
use bert4rs_tensor_core::safetensors::write_atomic;
use bert4rs_train::console::Console;
use bert4rs_train::output::print_line;
use bert4rs_train::{Error, Result};
use serde_json::{Value, json};

use super::refuse;
use super::train::of_corpus;
use crate::flags::{
    CheckTokenizerFlags, TokenizerCommand, TokenizerFlags, TokenizerKind, TrainTokenizerFlags,
};

/// Differences that are shown.
const SHOWN: usize = 10;

pub(crate) fn run(flags: &TokenizerFlags) -> Result<ExitCode> {
    match &flags.command {
        TokenizerCommand::Train(flags) => train(flags),
        TokenizerCommand::Check(flags) => check(flags),
    }
}

fn train(flags: &TrainTokenizerFlags) -> Result<ExitCode> {
    let out = &flags.out;
    if out.exists() {
        return Err(refuse(out, "exists; choose another folder with --out"));
    }
    let paths = flags.corpus.iter().map(|path| Ok(of_corpus(path)?.into()));
    let paths: Vec<_> = paths.collect::<Result<_>>()?;
    let text_field = flags.text_field.clone();
    let reading = CorpusReading { text_field, ..CorpusReading::default() };
    let corpus = Corpus::open(&paths, reading)?;
    let objective = match flags.kind {
        TokenizerKind::Wordpiece => Objective::MaskedTokens,
        TokenizerKind::Bpe => Objective::NextTokens,
        TokenizerKind::Unigram => Objective::Spans,
    };
    let training = TokenizerTraining {
        vocab_size: flags.vocab_size,
        character_coverage: flags.character_coverage,
        byte_fallback: flags.byte_fallback,
    };
    let console = Console::default();
    corpus.notes().iter().for_each(|note| console.line(&format!("note       {note}")));
    if corpus.bytes() > SAMPLE_BYTES {
        let (all, sample) = (corpus.bytes() >> 20, SAMPLE_BYTES >> 20);
        console.line(&format!("sample     about {sample} MiB of {all} MiB, evenly spread"));
    }
    let mut progress = console.preparation();
    let tokenizer = train_tokenizer(&corpus, objective, training, &mut progress)?;
    console.end();
    std::fs::create_dir_all(out).map_err(|source| Error::Io { path: out.clone(), source })?;
    tokenizer.save_folder(out, flags.max_length)?;
    console.line(&format!("tokens     {}", tokenizer.vocab_size()));
    console.line(&format!("folder     {}; use it by --tokenizer", out.display()));
    console.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Ends with 1 where the two differ.
fn check(flags: &CheckTokenizerFlags) -> Result<ExitCode> {
    let tokenizer = ModelTokenizer::load(&flags.tokenizer)?;
    if let Some(path) = &flags.ids {
        let case = |(text, ids): (String, Vec<u32>)| json!({"text": text, "ids": ids});
        let cases: Vec<Value> = tokenizer.stress_ids()?.into_iter().map(case).collect();
        write_atomic(path, format!("{:#}\n", Value::from(cases)).as_bytes())?;
        print_line(&format!("{} texts with their ids in {}", STRESS_TEXT.len(), path.display()))?;
    }
    let Some(against) = &flags.against else { return Ok(ExitCode::SUCCESS) };
    let expected = match against.extension().is_some_and(|ending| ending == "json")
        && against.file_name().is_some_and(|name| name != "tokenizer.json")
    {
        true => read_ids(against)?,
        false => ModelTokenizer::load(against)?.stress_ids()?,
    };
    let differences = tokenizer.differences(&expected)?;
    for difference in differences.iter().take(SHOWN) {
        let first = difference.first();
        let around = |ids: &[u32]| {
            let end = (first + 5).min(ids.len());
            format!("{:?}", &ids[first.min(end)..end])
        };
        print_line(&format!(
            "{:?}: token {first} on: {} here, {} there",
            difference.text,
            around(&difference.found),
            around(&difference.expected)
        ))?;
    }
    let (differ, all) = (differences.len(), expected.len());
    print_line(&format!("{} of {all} texts have the same ids", all - differ))?;
    Ok(ExitCode::from(u8::from(differ > 0)))
}

/// Texts with the ids that another program gave them: `[{"text": …, "ids": […]}, …]`.
fn read_ids(path: &Path) -> Result<Vec<(String, Vec<u32>)>> {
    let expected = r#"expected [{"text": "…", "ids": [1, 2]}, …]"#;
    let cases: Vec<Value> = serde_json::from_str(&read_text(path)?)
        .map_err(|error| refuse(path, format!("{error}; {expected}")))?;
    let case = |case: &Value| {
        let ids = case.get("ids")?.as_array()?.iter();
        let ids = ids.map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
        Some((case.get("text")?.as_str()?.to_owned(), ids.collect::<Option<Vec<_>>>()?))
    };
    let all = cases.iter().map(|value| case(value).ok_or_else(|| refuse(path, expected)));
    all.collect()
}
