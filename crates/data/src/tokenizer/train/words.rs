//! How often each word occurs, in memory that does not grow with the corpus.
//!
//! A run of characters between spaces is counted first, then cut as the tokenizer in question
//! does. Long runs, as in scripts without spaces, are counted in parts; none is left out. Where
//! there are too many different ones, some of the rarest stand for all of them.

use std::collections::{BTreeMap, HashMap};

use compact_str::CompactString;
use rayon::prelude::*;

use super::ORIGIN;
use crate::corpus::{Chunk, Corpus};
use crate::error::Result;
use crate::ordered_parallel::ordered_parallel;
use crate::progress::{Phase, Progress, ProgressMeter};
use crate::random::unit_hash;
use crate::tokenizer::bad;
use crate::tokenizer::encoder::words;

/// The most characters of a run, and of a word: WordPiece's `max_input_chars_per_word`.
pub(super) const MAX_CHARS: usize = 100;
/// Of a larger corpus, a sample of about this size is counted.
pub const SAMPLE_BYTES: u64 = 200 << 20;
/// The most bytes of different runs, and of different words; trainers hold 40 bytes for each of
/// the latter.
const MAX_RUN_BYTES: usize = 64 << 20;
const MAX_WORD_BYTES: usize = 16 << 20;

/// Words and how often they occur, in an order that depends on nothing else.
pub(super) type Words = BTreeMap<CompactString, u64>;

/// What lies between spaces, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Run {
    pub(super) text: CompactString,
    /// Whether there is a space before it.
    pub(super) follows_space: bool,
}

/// How often each run of characters between spaces occurs.
pub(super) fn count_runs(
    corpus: &Corpus,
    progress: &mut dyn FnMut(Progress),
) -> Result<HashMap<Run, u64>> {
    let share = SAMPLE_BYTES as f64 / corpus.bytes() as f64;
    let mut index = 0;
    let sampled = corpus.chunks().map(|chunk| {
        let chunk = chunk?;
        let counted = unit_hash(index) < share;
        index += 1;
        Ok(if counted { chunk } else { Chunk { fragments: Vec::new(), ..chunk } })
    });
    let mut total = HashMap::new();
    let mut total_bytes = 0;
    let meter = ProgressMeter::new(Phase::CountWords, corpus.bytes());
    ordered_parallel(
        sampled,
        |chunk| Ok((count_chunk(&chunk), chunk.bytes)),
        |(counts, bytes)| {
            for (run, count) in counts {
                let length = run.text.len();
                let known = total.entry(run).or_insert_with(|| {
                    total_bytes += length;
                    0
                });
                *known += count;
            }
            if total_bytes > MAX_RUN_BYTES {
                let runs = std::mem::take(&mut total).into_iter().collect();
                let kept = thin(runs, |run: &Run| run.text.len(), MAX_RUN_BYTES / 2);
                total_bytes = kept.iter().map(|(run, _)| run.text.len()).sum();
                total = kept.into_iter().collect();
            }
            meter.advance(bytes, progress);
            Ok(())
        },
    )?;
    Ok(total)
}

fn count_chunk(chunk: &Chunk) -> Vec<(Run, u64)> {
    let mut counts = HashMap::<(&str, bool), u64>::new();
    for fragment in &chunk.fragments {
        for word in words(&fragment.text) {
            for (index, part) in parts(word).enumerate() {
                *counts.entry((part, index == 0)).or_default() += 1;
            }
        }
    }
    let owned = |((text, follows_space), count)| {
        (Run { text: CompactString::from(text), follows_space }, count)
    };
    counts.into_iter().map(owned).collect()
}

/// A text in parts of at most [`MAX_CHARS`] characters.
pub(super) fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.char_indices().nth(MAX_CHARS).map_or(rest.len(), |(at, _)| at);
        let (part, after) = rest.split_at(end);
        rest = after;
        (!part.is_empty()).then_some(part)
    })
}

/// Counts of what `split` makes of each run: the words that a model is trained on.
pub(super) fn split_runs(
    runs: HashMap<Run, u64>,
    split: fn(&Run) -> tokenizers::Result<Vec<CompactString>>,
) -> Result<Words> {
    let runs: Vec<(Run, u64)> = runs.into_iter().collect();
    let counted = runs
        .par_chunks(4096)
        .map(|runs| {
            let mut counts = HashMap::<CompactString, u64>::new();
            for (run, count) in runs {
                for word in split(run).map_err(|error| bad(ORIGIN, error.to_string()))? {
                    for part in parts(&word) {
                        *counts.entry(part.into()).or_default() += count;
                    }
                }
            }
            Ok(counts)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut total = Words::new();
    for (word, count) in counted.into_iter().flatten() {
        *total.entry(word).or_default() += count;
    }
    let kept = thin(total.into_iter().collect(), CompactString::len, MAX_WORD_BYTES);
    Ok(kept.into_iter().collect())
}

/// Leaves some of the rarest items out until all take at most `limit` bytes.
///
/// Of items that occur at most once, then of those that occur at most twice, four times and so
/// on, every second one in sorted order goes, and the others count twice: what a trainer counts in
/// them stays about the same, whatever the text.
fn thin<T: Ord>(
    mut items: Vec<(T, u64)>,
    bytes: impl Fn(&T) -> usize,
    limit: usize,
) -> Vec<(T, u64)> {
    let size = |items: &[(T, u64)]| items.iter().map(|(item, _)| bytes(item)).sum::<usize>();
    if size(&items) <= limit {
        return items;
    }
    items.sort_unstable();
    let mut rare = 1;
    while size(&items) > limit && items.len() > 1 {
        let mut goes = true;
        items.retain_mut(|(_, count)| {
            if *count > rare {
                return true;
            }
            *count *= 2;
            goes = !goes;
            !goes
        });
        rare *= 2;
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_are_counted_in_parts() {
        let text = "ab".repeat(120) + "中";
        let found: Vec<&str> = parts(&text).collect();
        assert_eq!(found.concat(), text);
        let lengths: Vec<usize> = found.iter().map(|part| part.chars().count()).collect();
        assert_eq!(lengths, [100, 100, 41]);
        assert_eq!(parts("").count(), 0);
    }

    #[test]
    fn rare_items_stand_for_others_and_frequent_ones_stay() {
        let mut items: Vec<(u32, u64)> = (0..1000).map(|item| (item, 1)).collect();
        items.extend([(2000, 50), (3000, 900)]);
        let kept = thin(items, |_| 1, 100);
        assert!(kept.len() <= 100 && kept.len() > 40, "{} items", kept.len());
        assert!(kept.contains(&(2000, 50)) && kept.contains(&(3000, 900)));
        let rare: u64 = kept.iter().filter(|(item, _)| *item < 1000).map(|(_, count)| count).sum();
        assert!((900..=1100).contains(&rare), "1000 items count as {rare}");
    }
}
