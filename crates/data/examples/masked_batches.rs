//! Text of one's own to batches of masked tokens, made ahead by threads:
//! `cargo run -p bert4rs-data --example masked_batches`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use bert4rs_data::{
    CorpusReading, DatasetOptions, HeldOut, Layout, MlmBatches, MlmOptions, Objective, Prefetcher,
    TokenizerChoice, TokenizerTraining, prepare,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let text = folder.path().join("corpus.txt");
    std::fs::write(&text, "A cat sat on a mat.\n\nThe cat saw the mat.\n\n".repeat(50))?;

    let options = DatasetOptions {
        corpus: vec![text],
        reading: CorpusReading::default(),
        objective: Objective::MaskedTokens,
        tokenizer: TokenizerChoice::Train(TokenizerTraining::new(100)),
        held_out: HeldOut::Share(0.1),
        cache: folder.path().join("cache"),
        shard_tokens: bert4rs_data::SHARD_TOKENS,
        duplicates: bert4rs_data::Duplicates::Keep,
    };
    let dataset = prepare(&options, &mut |_progress| {})?;
    let layout = Layout::Packed;
    let options = MlmOptions {
        batch_size: 2,
        sequence_length: 64,
        mask_rate: 0.15,
        unit: bert4rs_data::MaskUnit::Tokens,
        layout,
        fit: bert4rs_data::Fit::EndToEnd,
        seed: 1,
    };
    let batches = MlmBatches::train(dataset.train, dataset.tokenizer.vocabulary()?, options)?;

    let mut prefetcher = Prefetcher::new(Arc::new(batches), 0, 4, 2)?;
    for number in 0..3 {
        let batch = prefetcher.next()?;
        println!(
            "batch {number}: {} rows of {} tokens, {} of them masked",
            batch.rows,
            batch.columns,
            batch.masked_positions.len()
        );
    }
    Ok(())
}
