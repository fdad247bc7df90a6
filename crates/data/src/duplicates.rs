//! Documents that occur more than once: equal ones, and near ones by MinHash.
//!
//! Broder 1997, "On the resemblance and containment of documents": the share of equal minima of
//! hashes estimates how much two sets of shingles have in common. Shingles here are five words, and
//! fourteen bands of eight minima decide, as in Penedo et al. 2024 (FineWeb),
//! <https://arxiv.org/abs/2406.17557>: two documents that share 75% of their shingles are found
//! with a probability of 0.77, 85% with 0.99, 50% with 0.05.
//!
//! The first of several stays. Memory is bounded by [`MOST_KEYS`]: documents beyond are compared
//! with those that are remembered, and not remembered themselves.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::corpus::{Chunk, Corpus};
use crate::error::{Error, Result};
use crate::ordered_parallel::ordered_parallel;
use crate::progress::{Phase, Progress, ProgressMeter};
use crate::random::split_mix;
use crate::tokenizer::words;

/// What becomes of documents that occur more than once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duplicates {
    /// They are not looked for.
    #[default]
    Keep,
    /// They are counted and listed, and all stay.
    Count,
    /// Of equal ones, the first stays.
    DropExact,
    /// Of equal and near ones, the first stays.
    DropNear,
}

/// Keys that are remembered, of 16 bytes: one a document for equal ones, `BANDS` for near ones.
pub const MOST_KEYS: usize = 1 << 25;
const BANDS: usize = 14;
const ROWS: usize = 8;
/// Words of a shingle.
const SHINGLE: usize = 5;
/// Longer words, as in scripts without spaces, are cut into parts of so many characters.
const PART_CHARACTERS: usize = 4;
const LONGEST_WORD: usize = 24;
/// Characters of a document in the list.
const LISTED_CHARACTERS: usize = 80;

/// Documents of several corpora that occur more than once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    /// Of each corpus, the numbers of the documents to leave out, ascending.
    pub(crate) dropped: Vec<Vec<u64>>,
    pub(crate) counts: DuplicateCounts,
}

/// How many documents occur more than once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuplicateCounts {
    /// Those that are equal to an earlier one.
    pub equal: u64,
    /// Others that are near an earlier one.
    pub near: u64,
    /// Whether they were left out.
    pub dropped: bool,
    /// Whether there were more documents than are remembered.
    pub forgot: bool,
}

/// A document, or a part of one, as it is compared.
#[derive(Debug, Clone)]
struct Print {
    begins_document: bool,
    hash: [u8; 32],
    /// The least hash of its shingles, for each row of each band; empty where only equal ones
    /// matter.
    minima: Vec<u32>,
    begin: String,
}

/// Looks for duplicates in `corpora`, one after the other, and lists them in the file `list`, with
/// the corpora's names.
///
/// # Errors
/// A corpus that can't be read; a place that can't be written.
pub(crate) fn find(
    corpora: &[(&str, &Corpus)],
    duplicates: Duplicates,
    list: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Found> {
    let io = || Error::io("write", list);
    let near = matches!(duplicates, Duplicates::Count | Duplicates::DropNear);
    let mut seen = Seen::new(MOST_KEYS);
    let mut list = BufWriter::new(File::create(list).map_err(io())?);
    let mut found = Found::default();
    let meter =
        ProgressMeter::new(Phase::Compare, corpora.iter().map(|(_, corpus)| corpus.bytes()).sum());
    for (number, (name, corpus)) in corpora.iter().enumerate() {
        let mut documents = Documents { open: None, next: 0 };
        let mut dropped = Vec::new();
        let mut end = |documents: &mut Documents, found: &mut Found| -> Result<()> {
            let Some(document) = documents.open.take() else { return Ok(()) };
            let index = documents.next;
            documents.next += 1;
            let Some((kind, like)) = seen.look(&document, (number, index)) else { return Ok(()) };
            *match kind {
                Kind::Equal => &mut found.counts.equal,
                Kind::Near => &mut found.counts.near,
            } += 1;
            if duplicates != Duplicates::Count {
                dropped.push(index);
            }
            let line = json!({
                "corpus": name, "document": index, "kind": kind.name(),
                "like": {"corpus": corpora[like.0].0, "document": like.1}, "text": document.begin,
            });
            writeln!(list, "{line}").map_err(io())
        };
        ordered_parallel(
            corpus.chunks(),
            |chunk| Ok((prints(&chunk, near), chunk.bytes)),
            |(prints, bytes)| {
                for print in prints {
                    if print.begins_document {
                        end(&mut documents, &mut found)?;
                    }
                    documents.add(print);
                }
                meter.advance(bytes, progress);
                Ok(())
            },
        )?;
        end(&mut documents, &mut found)?;
        found.dropped.push(dropped);
    }
    found.counts.forgot = seen.keys.len() >= seen.most;
    found.counts.dropped = duplicates != Duplicates::Count;
    list.flush().map_err(io())?;
    Ok(found)
}

/// The document that is open, and the number of the next that ends.
struct Documents {
    open: Option<Print>,
    next: u64,
}

impl Documents {
    /// Adds a part: of the whole, hashes are hashed together, and minima are the least.
    fn add(&mut self, part: Print) {
        let Some(open) = &mut self.open else {
            self.open = Some(part);
            return;
        };
        let both = [open.hash, part.hash].concat();
        open.hash = *blake3::hash(&both).as_bytes();
        open.minima
            .iter_mut()
            .zip(part.minima)
            .for_each(|(least, other)| *least = other.min(*least));
    }
}

/// How two documents are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Equal,
    Near,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Near => "near",
        }
    }
}

/// A document: its corpus, and its number there.
type Place = (usize, u64);

/// What was seen, by its keys.
struct Seen {
    keys: HashMap<u64, (u32, u64)>,
    most: usize,
}

impl Seen {
    fn new(most: usize) -> Self {
        Self { keys: HashMap::new(), most }
    }

    /// The earlier document that this one is like, which else is remembered.
    fn look(&mut self, document: &Print, place: Place) -> Option<(Kind, Place)> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&document.hash[..8]);
        let whole = u64::from_le_bytes(bytes);
        let at = |&(corpus, index): &(u32, u64)| (corpus as usize, index);
        if let Some(known) = self.keys.get(&whole) {
            return Some((Kind::Equal, at(known)));
        }
        let bands: Vec<u64> = document.minima.chunks(ROWS).zip(1..).map(band_key).collect();
        let known = bands.iter().find_map(|key| self.keys.get(key)).map(at);
        if known.is_none() && self.keys.len() < self.most {
            for key in bands.into_iter().chain([whole]) {
                self.keys.insert(key, (place.0 as u32, place.1));
            }
        }
        known.map(|known| (Kind::Near, known))
    }
}

/// A key of a band's minima and number.
fn band_key((minima, band): (&[u32], u64)) -> u64 {
    minima.iter().fold(split_mix(band), |key, &least| split_mix(key ^ u64::from(least)))
}

fn prints(chunk: &Chunk, near: bool) -> Vec<Print> {
    let print = |fragment: &crate::corpus::Fragment| Print {
        begins_document: fragment.begins_document,
        hash: *blake3::hash(fragment.text.as_bytes()).as_bytes(),
        minima: if near { minima(&fragment.text) } else { Vec::new() },
        begin: fragment.text.chars().take(LISTED_CHARACTERS).collect(),
    };
    chunk.fragments.iter().map(print).collect()
}

/// The least hash of the shingles of `text` under each of the hash functions.
fn minima(text: &str) -> Vec<u32> {
    let hashes: Vec<u64> = words(text).flat_map(parts).map(hash_word).collect();
    let shingle = |words: &[u64]| words.iter().fold(7, |key, word| split_mix(key ^ word));
    let mut minima = vec![u32::MAX; BANDS * ROWS];
    let factors: Vec<u64> = (0..minima.len() as u64).map(|row| split_mix(row) | 1).collect();
    for words in hashes.windows(SHINGLE.min(hashes.len()).max(1)) {
        let shingle = shingle(words);
        for (least, factor) in minima.iter_mut().zip(&factors) {
            // Multiplication by an odd number, of which the upper bits are taken: Dietzfelbinger
            // et al. 1997.
            *least = (*least).min((shingle.wrapping_mul(*factor) >> 32) as u32);
        }
    }
    minima
}

/// A word, or the parts of one that is no word of letters between spaces.
fn parts(word: &str) -> impl Iterator<Item = &str> {
    let length = if word.len() > LONGEST_WORD { PART_CHARACTERS } else { word.len().max(1) };
    let mut rest = word;
    std::iter::from_fn(move || {
        let end = rest.char_indices().nth(length).map_or(rest.len(), |(at, _)| at);
        let (part, after) = rest.split_at(end);
        rest = after;
        (!part.is_empty()).then_some(part)
    })
}

/// FNV-1a, mixed.
fn hash_word(word: &str) -> u64 {
    split_mix(word.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(text: &str) -> Print {
        Print {
            begins_document: true,
            hash: *blake3::hash(text.as_bytes()).as_bytes(),
            minima: minima(text),
            begin: String::new(),
        }
    }

    fn text(seed: u64, words: u64) -> Vec<String> {
        (0..words).map(|word| format!("w{}", split_mix(seed * 10_000 + word) % 5000)).collect()
    }

    /// Of pairs that have about the share `alike` of their shingles in common, those that are
    /// found.
    fn found_share(changed: u64) -> f64 {
        let mut found = 0;
        for pair in 0..200 {
            let mut words = text(pair, 400);
            let mut seen = Seen::new(MOST_KEYS);
            assert_eq!(seen.look(&print(&words.join(" ")), (0, 0)), None);
            for change in 0..changed {
                let at = (split_mix(pair * 977 + change) % 400) as usize;
                words[at] = format!("x{change}");
            }
            found += u64::from(seen.look(&print(&words.join(" ")), (0, 1)).is_some());
        }
        found as f64 / 200.0
    }

    #[test]
    fn the_more_is_alike_the_more_is_found() {
        // Each changed word changes five shingles of 396: of n changed words, about 5n are new, and
        // (396 - 5n) / (396 + 5n) are shared.
        assert!(found_share(3) > 0.97, "0.93 alike: {}", found_share(3));
        assert!(found_share(40) < 0.1, "0.35 alike: {}", found_share(40));
        let half = found_share(11);
        assert!((0.5..0.98).contains(&half), "0.76 alike: {half}");
    }

    #[test]
    fn equal_and_near_documents_are_told_apart() {
        let mut seen = Seen::new(MOST_KEYS);
        let words = text(1, 300);
        let whole = words.join(" ");
        assert_eq!(seen.look(&print(&whole), (0, 3)), None);
        assert_eq!(seen.look(&print(&whole), (1, 0)), Some((Kind::Equal, (0, 3))));
        let near = whole.clone() + " more";
        assert_eq!(seen.look(&print(&near), (1, 1)), Some((Kind::Near, (0, 3))));
        assert_eq!(seen.look(&print(&text(2, 300).join(" ")), (1, 2)), None);
        for short in ["a", "a b", "中文中文"] {
            assert_eq!(seen.look(&print(short), (2, 0)), None, "{short}");
            assert_eq!(seen.look(&print(short), (2, 1)), Some((Kind::Equal, (2, 0))));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = Seen::new(100);
        for number in 0..50 {
            seen.look(&print(&text(number, 50).join(" ")), (0, number));
        }
        assert!(seen.keys.len() < 100 + BANDS + 1, "{}", seen.keys.len());
        assert!(seen.look(&print(&text(0, 50).join(" ")), (0, 99)).is_some());
    }

    #[test]
    fn text_without_spaces_has_words_of_four_characters() {
        let parts: Vec<&str> = parts("一二三四五六七八九").collect();
        assert_eq!(parts, ["一二三四", "五六七八", "九"]);
        assert_eq!(super::parts("word").collect::<Vec<_>>(), ["word"]);
    }
}
