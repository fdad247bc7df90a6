//! A text that goes on from a prompt, by a GPT's model folder:
//!
//! ```text
//! cargo run --example generate_text -- FOLDER "It was"
//! ```

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::path::Path;

use bert4rs_data::ModelTokenizer;
use bert4rs_models::generation::{GenerationConfig, Generator, Sampling, Strategy, generate};
use bert4rs_models::pretrained::{LoadOptions, Model, Pretrained};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, prompt] = &arguments[..] else {
        return Err("give a model folder and a prompt".into());
    };
    let tokenizer = ModelTokenizer::load(Path::new(folder))?;
    let pretrained = Pretrained::load(Path::new(folder), LoadOptions::default())?;
    let Model::Gpt(gpt) = pretrained.model() else { return Err("expected a GPT".into()) };
    let sampling = Sampling { temperature: 0.8, top_k: None, top_p: Some(0.9), seed: 1 };
    let generation = GenerationConfig {
        max_new_tokens: 40,
        strategy: Strategy::Sample(sampling),
        repetition_penalty: 1.0,
        ends: gpt.config().eos_token_id.into_iter().collect(),
        cache: true,
    };
    let prompt: Vec<i64> = tokenizer.encode(prompt)?.into_iter().map(i64::from).collect();
    let mut show = |_row, _token| {};
    let made =
        generate(Generator::Gpt(gpt), std::slice::from_ref(&prompt), &generation, &mut show)?;
    let ids: Vec<u32> =
        prompt.iter().chain(&made[0]).map(|&id| u32::try_from(id)).collect::<Result<_, _>>()?;
    println!("{}", tokenizer.decode(&ids)?);
    Ok(())
}
