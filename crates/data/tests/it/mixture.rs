//! Batches of several corpora.

use std::collections::BTreeMap;
use std::sync::Arc;

use bert4rs_data::{
    BatchSource, Dataset, DatasetOptions, Fit, Layout, MaskUnit, Mixture, MlmBatches, MlmOptions,
    TokenizerChoice, TokenizerTraining, prepare,
};
use tempfile::tempdir;

use crate::sample::{assert_error, dataset, options, text, write};

const OPTIONS: MlmOptions = MlmOptions {
    batch_size: 8,
    sequence_length: 32,
    mask_rate: 0.15,
    unit: MaskUnit::Tokens,
    layout: Layout::Packed,
    fit: Fit::EndToEnd,
    seed: 5,
};

/// Two corpora by one tokenizer, the second of other documents and half as long.
fn two(folder: &std::path::Path) -> [Dataset; 2] {
    let first = dataset(folder, 300);
    let other: String = text(700).split("\n\n").skip(500).collect::<Vec<_>>().join("\n\n");
    let corpus = write(folder, "other.txt", other);
    let tokenizer = TokenizerChoice::Load(first.folder.clone());
    let second = prepare(&DatasetOptions { tokenizer, ..options(folder, corpus) }, &mut |_| {});
    [first, second.unwrap()]
}

/// What a sequence showed before it was masked.
fn shown(batch: &bert4rs_data::MlmBatch) -> Vec<Vec<i64>> {
    let mut ids = batch.input_ids.clone();
    for (position, label) in batch.masked_positions.iter().zip(&batch.masked_labels) {
        ids[*position as usize] = *label;
    }
    ids.chunks(batch.columns).map(<[i64]>::to_vec).collect()
}

#[test]
fn each_corpus_has_its_share_and_shows_all_before_any_twice() {
    let folder = tempdir().unwrap();
    let [first, second] = two(folder.path());
    let vocabulary = first.tokenizer.vocabulary().unwrap();
    let of = |weights: [f64; 2]| {
        let parts =
            vec![(Arc::clone(&first.train), weights[0]), (Arc::clone(&second.train), weights[1])];
        MlmBatches::train(Mixture::new(parts).unwrap(), vocabulary, OPTIONS).unwrap()
    };
    let alone = |store| MlmBatches::train(Arc::clone(store), vocabulary, OPTIONS).unwrap();
    let counts = [alone(&first.train), alone(&second.train)].map(|b| b.sequence_count());
    let mixed = of([1.0, 3.0]);
    let (mut tokens, mut times) = ([0, 0], BTreeMap::new());
    // As many as show the second corpus three times at most.
    let batches = (counts[1] * 4 * 2 / 3 / OPTIONS.batch_size) as u64;
    for index in 0..batches {
        let batch = mixed.batch(index).unwrap();
        assert_eq!(batch, mixed.batch(index).unwrap(), "made anew");
        assert_eq!(batch.part_tokens.iter().sum::<u64>(), batch.real_tokens as u64);
        tokens.iter_mut().zip(&batch.part_tokens).for_each(|(sum, part)| *sum += part);
        shown(&batch).into_iter().for_each(|ids| *times.entry(ids).or_insert(0) += 1);
    }
    let share = tokens[1] as f64 / tokens.iter().sum::<u64>() as f64;
    assert!((share - 0.75).abs() < 0.05, "{share}");
    assert!(times.values().all(|&count| count <= 2), "without replacement within an epoch");
    assert!(times.values().filter(|&&count| count == 2).count() > counts[1] / 2);
    // A position decides, not what was asked for before.
    assert_eq!(of([1.0, 3.0]).batch(batches - 1).unwrap(), mixed.batch(batches - 1).unwrap());
    assert_ne!(of([3.0, 1.0]).batch(0).unwrap(), mixed.batch(0).unwrap());
}

#[test]
fn one_corpus_in_a_mixture_is_that_corpus() {
    let folder = tempdir().unwrap();
    let made = dataset(folder.path(), 100);
    let vocabulary = made.tokenizer.vocabulary().unwrap();
    let mixture = Mixture::new(vec![(Arc::clone(&made.train), 7.0)]).unwrap();
    let mixed = MlmBatches::train(mixture, vocabulary, OPTIONS).unwrap();
    let alone = MlmBatches::train(made.train, vocabulary, OPTIONS).unwrap();
    for index in [0, 3, 50] {
        assert_eq!(mixed.batch(index).unwrap(), alone.batch(index).unwrap());
    }
}

#[test]
fn weights_that_can_not_be_used_are_refused() {
    let folder = tempdir().unwrap();
    let made = dataset(folder.path(), 20);
    assert_error(Mixture::new(Vec::new()), &["number of corpora is 0"]);
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mixture = Mixture::new(vec![(Arc::clone(&made.train), weight)]);
        assert_error(mixture, &["weight is", "above 0"]);
    }
}

#[test]
fn words_are_masked_whole_in_batches() {
    let folder = tempdir().unwrap();
    let corpus = write(folder.path(), "corpus.txt", text(300));
    let tokenizer = TokenizerChoice::Train(TokenizerTraining::new(64));
    let small = DatasetOptions { tokenizer, ..options(folder.path(), corpus) };
    let made = prepare(&small, &mut |_| {}).unwrap();
    let vocabulary = made.tokenizer.vocabulary().unwrap();
    let goes_on: Arc<[bool]> = made.tokenizer.continuations().into();
    let mut several = 0;
    for unit in [MaskUnit::Words, MaskUnit::Spans] {
        let options = MlmOptions { unit, ..OPTIONS };
        let batches = MlmBatches::train(Arc::clone(&made.train), vocabulary, options).unwrap();
        let batches = batches.with_words(Arc::clone(&goes_on));
        let (mut masked, mut positions) = (0, 0);
        for index in 0..20 {
            let batch = batches.batch(index).unwrap();
            assert_eq!(batch, batches.batch(index).unwrap());
            assert!(batch.masked_positions.is_sorted_by(|a, b| a < b));
            let ids = shown(&batch).concat();
            let is_masked = |at: usize| batch.masked_positions.contains(&(at as i64));
            let is_special = |id: i64| vocabulary.special.contains(id as u32);
            for at in 1..ids.len() {
                // A row may begin within a word.
                let is_split = is_special(ids[at - 1]);
                if goes_on[ids[at] as usize] && !is_special(ids[at]) && !is_split {
                    assert_eq!(is_masked(at), is_masked(at - 1), "a word is masked in part");
                    several += 1;
                }
            }
            masked += batch.masked_positions.len();
            positions += batch.real_tokens;
        }
        let rate = masked as f64 / positions as f64;
        assert!((0.13..0.17).contains(&rate), "{unit:?}: {rate}");
    }
    assert!(several > 20, "few words have several tokens: {several}");
}

#[test]
fn the_mask_rate_changes_with_the_batch() {
    let folder = tempdir().unwrap();
    let made = dataset(folder.path(), 300);
    let vocabulary = made.tokenizer.vocabulary().unwrap();
    let options = MlmOptions { mask_rate: 0.5, ..OPTIONS };
    let batches = MlmBatches::train(Arc::clone(&made.train), vocabulary, options).unwrap();
    let batches = batches.with_mask_rate_to(0.25, 11, 0).unwrap();
    let masked = |index| batches.batch(index).unwrap().masked_positions.len() / OPTIONS.batch_size;
    assert_eq!([masked(0), masked(5), masked(10), masked(90)], [16, 12, 8, 8]);
    let later = MlmBatches::train(made.train, vocabulary, options).unwrap();
    let later = later.with_mask_rate_to(0.25, 11, 5).unwrap();
    assert_eq!(later.batch(0).unwrap().masked_positions.len(), 12 * OPTIONS.batch_size);
}
