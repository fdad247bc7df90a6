//! Saves a GPT as transformers would, loads it as one would a published model, and lets it go on
//! from a prompt: `cargo run -p bert4rs-models --example generation`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use bert4rs_models::generation::{GenerationConfig, Generator, Strategy, generate};
use bert4rs_models::gpt::{Gpt, GptConfig};
use bert4rs_models::hugging_face::{Architecture, save};
use bert4rs_models::pretrained::{LoadOptions, Model, Pretrained};
use bert4rs_tensor_core::attention::AttentionImplementation::Fused;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let config =
        GptConfig { vocab_size: 100, n_embd: 32, n_layer: 2, n_head: 4, ..GptConfig::default() };
    let params = ParamStore::new(Device::Cpu, Kind::Float);
    Gpt::new(&params.root(), &config, Fused)?;
    let architecture = Architecture::GPT2_LM_HEAD_MODEL;
    save(folder.path(), &config, architecture, &params, serde_json::json!({}))?;

    let pretrained = Pretrained::load(folder.path(), LoadOptions::default())?;
    let Model::Gpt(gpt) = pretrained.model() else { return Err("it is no GPT".into()) };
    let generation = GenerationConfig {
        max_new_tokens: 10,
        strategy: Strategy::Greedy,
        repetition_penalty: 1.0,
        ends: Vec::new(),
        cache: true,
    };
    let prompt = vec![3, 14, 15];
    let made = generate(Generator::Gpt(gpt), &[prompt], &generation, &mut |_row, token| {
        println!("token {token}");
    })?;
    println!("{:?}", made[0]);
    Ok(())
}
