//! `bert4rs generate`: text from a GPT or a T5, shown as it comes.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use bert4rs_data::ModelTokenizer;
use bert4rs_data::tokenizer::TextStream;
use bert4rs_models::generation::{
    self, BeamSearch, EarlyStopping, GenerationConfig, Generator, Sampling, Strategy,
};
use bert4rs_models::hugging_face::Folder;
use bert4rs_models::pretrained::{Model, Pretrained};
use bert4rs_train::output::{print_line, print_part};
use bert4rs_train::{Error, Result, capacity, in_units};
use serde_json::{Value, json};

use super::{of_flag, refuse, remark, texts_of};
use crate::model_flags::GenerateFlags;

/// Without --max-new-tokens.
const USUAL_TOKENS: usize = 64;

pub(crate) fn run(flags: &GenerateFlags) -> Result<ExitCode> {
    let texts = texts_of(&flags.prompt, flags.prompt_file.as_deref())?;
    let load = flags.model.options()?;
    let path = flags.model.model.as_path();
    let folder = Folder::open(path)?;
    let model = Pretrained::from_folder(&folder, load)?;
    let generator = match model.model() {
        Model::Gpt(model) => Generator::Gpt(model),
        Model::T5(model) => Generator::T5(model),
        _ => return Err(no_generator(path, &model)),
    };
    let tokenizer = ModelTokenizer::load(path)?;
    let begin = folder.raw_config()["bos_token_id"].as_i64();
    let prompts: Vec<Vec<i64>> =
        texts.iter().map(|text| encode(&tokenizer, text, begin)).collect::<Result<_>>()?;
    let room = generation::room(generator, &prompts).unwrap_or(usize::MAX);
    let options = GenerationConfig {
        max_new_tokens: flags.max_new_tokens.unwrap_or(USUAL_TOKENS.min(room.max(1))),
        strategy: strategy(flags),
        repetition_penalty: flags.repetition_penalty,
        ends: ends(path, &folder, &tokenizer)?,
        cache: !flags.no_cache,
    };
    // Before the prompt is shown.
    generation::check(generator, &prompts, &options).map_err(name_flag)?;
    check_memory(generator, &prompts, &options)?;
    let clock = Instant::now();
    let shows_prompts = matches!(generator, Generator::Gpt(_));
    let mut output = Output::new(&tokenizer, &prompts, shows_prompts, !flags.json)?;
    let made = generation::generate(generator, &prompts, &options, &mut |row, token| {
        output.push(row, token);
    })?;
    output.finish(&texts, &made)?;
    let count = made.iter().map(Vec::len).sum::<usize>();
    let rate = count as f64 / clock.elapsed().as_secs_f64();
    let seed = match options.strategy {
        Strategy::Sample(Sampling { seed, .. }) => format!("; --seed {seed} draws this again"),
        _ => String::new(),
    };
    remark(&format!("{count} tokens, {rate:.0} tokens/s{seed}"));
    Ok(ExitCode::SUCCESS)
}

/// Refuses what this machine can't hold in any case, by the larger of the two flags that decide it.
fn check_memory(
    generator: Generator,
    prompts: &[Vec<i64>],
    options: &GenerationConfig,
) -> Result<()> {
    let Some(memory) = capacity::memory_bytes() else { return Ok(()) };
    let needed = generation::least_bytes(generator, prompts, options);
    if needed <= memory.into() {
        return Ok(());
    }
    let count = options.max_new_tokens;
    let (flag, value) = match options.strategy {
        Strategy::Beam(search) if search.beams >= count => ("--beams", search.beams),
        _ => ("--max-new-tokens", count),
    };
    let reason = format!(
        "{value} takes at least {} for {} prompts, and this machine has {}; lower it",
        in_units(u64::try_from(needed).unwrap_or(u64::MAX)),
        prompts.len(),
        in_units(memory)
    );
    let (origin, key) = ("command line".into(), flag.into());
    Err(Error::Config { origin, key, reason })
}

/// The flag of an option in an error about its value.
fn name_flag(error: bert4rs_models::Error) -> bert4rs_models::Error {
    let bert4rs_models::Error::Input { name, .. } = &error else { return error };
    let flag = match *name {
        "max_new_tokens" => "--max-new-tokens",
        "repetition_penalty" => "--repetition-penalty",
        "temperature" => "--temperature",
        "top_k" => "--top-k",
        "top_p" => "--top-p",
        "beams" => "--beams",
        "length_penalty" => "--length-penalty",
        "prompt" => "--prompt",
        _ => return error,
    };
    of_flag(flag, error)
}

fn no_generator(path: &Path, model: &Pretrained) -> bert4rs_train::Error {
    let name = model.architecture();
    let reason = format!(
        "{name} does not generate text: it sees both sides of a token; use a GPT or a T5, or \
         `bert4rs fill-mask`"
    );
    refuse(path, reason)
}

fn strategy(flags: &GenerateFlags) -> Strategy {
    let GenerateFlags { temperature, top_k, top_p, seed, .. } = *flags;
    let early_stopping =
        if flags.early_stopping { EarlyStopping::WhenFull } else { EarlyStopping::Heuristic };
    match flags.beams {
        Some(beams) => {
            let length_penalty = flags.length_penalty;
            Strategy::Beam(BeamSearch { beams, length_penalty, early_stopping })
        }
        None if temperature.is_none() && top_k.is_none() && top_p.is_none() && seed.is_none() => {
            Strategy::Greedy
        }
        None => Strategy::Sample(Sampling {
            temperature: temperature.unwrap_or(1.0),
            top_k,
            top_p,
            // A number to remember and to type again.
            seed: seed.unwrap_or_else(|| RandomState::new().hash_one(0) % 1_000_000),
        }),
    }
}

/// The tokens of a prompt; an empty one is the token that begins a text.
fn encode(tokenizer: &ModelTokenizer, text: &str, begin: Option<i64>) -> Result<Vec<i64>> {
    let ids: Vec<i64> = tokenizer.encode(text)?.into_iter().map(i64::from).collect();
    Ok(if ids.is_empty() { begin.into_iter().collect() } else { ids })
}

/// The tokens that end a text: of `generation_config.json`, else of `config.json`, else the
/// tokenizer's.
fn ends(path: &Path, folder: &Folder, tokenizer: &ModelTokenizer) -> Result<Vec<i64>> {
    let file = path.join("generation_config.json");
    let own = match std::fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text)
            .map_err(|error| refuse(&file, format!("not JSON: {error}")))?,
        Err(_) => Value::Null,
    };
    let listed = [&own, folder.raw_config()].into_iter().map(|config| {
        let value = &config["eos_token_id"];
        let many = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        many.iter().filter_map(Value::as_i64).collect::<Vec<_>>()
    });
    let named = || {
        let id = tokenizer.names().eos.as_deref().and_then(|name| tokenizer.id(name));
        id.map(i64::from).into_iter().collect()
    };
    Ok(listed.into_iter().find(|ids| !ids.is_empty()).unwrap_or_else(named))
}

/// What is shown: the first text as it comes, the others after it.
struct Output<'a> {
    tokenizer: &'a ModelTokenizer,
    streams: Vec<TextStream<'a>>,
    texts: Vec<String>,
    live: bool,
    /// The first, after which nothing more is shown.
    failure: Option<bert4rs_train::Error>,
}

impl<'a> Output<'a> {
    fn new(
        tokenizer: &'a ModelTokenizer,
        prompts: &[Vec<i64>],
        shows_prompts: bool,
        live: bool,
    ) -> Result<Self> {
        let count = prompts.len();
        let streams = (0..count).map(|_| TextStream::new(tokenizer)).collect();
        let texts = vec![String::new(); count];
        let mut output = Self { tokenizer, streams, texts, live, failure: None };
        if shows_prompts {
            for (row, prompt) in prompts.iter().enumerate() {
                prompt.iter().for_each(|&token| output.push(row, token));
            }
        }
        output.check()?;
        Ok(output)
    }

    fn push(&mut self, row: usize, token: i64) {
        if self.failure.is_none() {
            self.failure = self.show(row, token).err();
        }
    }

    fn show(&mut self, row: usize, token: i64) -> Result<()> {
        let text = self.streams[row].push(u32::try_from(token).unwrap_or(u32::MAX))?;
        if self.live && row == 0 {
            print_part(&text)?;
        }
        self.texts[row] += &text;
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Shows what is left of the first text, and the others.
    fn finish(mut self, prompts: &[String], made: &[Vec<i64>]) -> Result<()> {
        self.check()?;
        for (row, stream) in std::mem::take(&mut self.streams).into_iter().enumerate() {
            let rest = stream.finish()?;
            let whole = format!("{}{rest}", self.texts[row]);
            if !self.live {
                let (prompt, tokens) = (&prompts[row], &made[row]);
                let known: Vec<_> = tokens.iter().map(|&id| self.token(id)).collect();
                let line = json!({
                    "prompt": prompt, "text": whole, "token_ids": tokens, "tokens": known,
                });
                print_line(&line.to_string())?;
            } else if row == 0 {
                print_line(&rest)?;
            } else {
                print_line(&format!("---\n{whole}"))?;
            }
        }
        Ok(())
    }

    fn token(&self, id: i64) -> String {
        let id = u32::try_from(id).ok();
        id.and_then(|id| self.tokenizer.token(id)).unwrap_or_default()
    }
}
