//! Vectors of two texts, and how near they are, by a model folder such as all-MiniLM-L6-v2's:
//!
//! ```text
//! cargo run --example embed_texts -- FOLDER "A man is eating food." "A man eats bread."
//! ```

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::path::Path;

use bert4rs_data::ModelTokenizer;
use bert4rs_models::embedding::SentenceEncoder;
use bert4rs_models::pretrained::LoadOptions;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, first, second] = &arguments[..] else {
        return Err("give a model folder and two texts".into());
    };
    let tokenizer = ModelTokenizer::load(Path::new(folder))?;
    let mut encoder = SentenceEncoder::load(Path::new(folder), LoadOptions::default())?;
    encoder.normalize();
    let ids = vec![tokenizer.encode(first)?, tokenizer.encode(second)?];
    let vectors = encoder.embed(&ids, 32)?;
    let cosine = vectors.get(0).dot(&vectors.get(1)).double_value(&[]);
    println!("{:?} features, cosine {cosine:.4}", vectors.size()[1]);
    Ok(())
}
