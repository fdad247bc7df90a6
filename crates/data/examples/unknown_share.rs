//! Trains each kind of tokenizer on one text and says how well it spells another.
//!
//! `cargo run -p bert4rs-data --example unknown_share -- TRAIN.txt HELD_OUT.txt 8000`
//! prints, for WordPiece, byte-level pairs and Unigram, the size of the vocabulary, the share of
//! unknown tokens and characters a token. docs/reliability.md has them beside SentencePiece's.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use bert4rs_data::tokenizer::train_tokenizer;
use bert4rs_data::{Corpus, CorpusReading, Objective, TokenizerTraining, read_text};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [train, held_out, vocab_size] = arguments.as_slice() else {
        return Err("expected TRAIN.txt HELD_OUT.txt VOCAB_SIZE".into());
    };
    let corpus = Corpus::open(&[PathBuf::from(train)], CorpusReading::default())?;
    let text = read_text(held_out.as_ref())?;
    let kinds = [
        ("WordPiece", Objective::MaskedTokens),
        ("byte-level pairs", Objective::NextTokens),
        ("Unigram", Objective::Spans),
    ];
    for (name, objective) in kinds {
        let started = Instant::now();
        let training = TokenizerTraining::new(vocab_size.parse()?);
        let tokenizer = train_tokenizer(&corpus, objective, training, &mut |_| {})?;
        let seconds = started.elapsed().as_secs_f64();
        let (mut tokens, mut unknown) = (0, 0);
        for document in text.split("\n\n") {
            let ids = tokenizer.encode(document)?;
            tokens += ids.len();
            unknown += ids.iter().filter(|&&id| Some(id) == tokenizer.unknown_id()).count();
        }
        let characters = text.chars().filter(|character| !character.is_whitespace()).count();
        report(&format!(
            "{name:17} {:6} tokens, {:.3}% unknown, {:.2} characters a token, {seconds:.1} s",
            tokenizer.vocab_size(),
            100.0 * unknown as f64 / tokens as f64,
            characters as f64 / tokens as f64
        ));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what this example is for")]
fn report(line: &str) {
    println!("{line}");
}
