//! The pieces to begin with: all characters, and the parts of words that cover most of them.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{CountedWord, MAX_PIECE_CHARS, ScoredPiece};

/// What parts words from one another.
const END: char = '\0';

/// At most `count` pieces: characters by their counts, then parts that occur more than once by how
/// many characters they cover, each word taken once.
pub(super) fn seeds(words: &[CountedWord], count: usize) -> Vec<ScoredPiece> {
    let mut characters = BTreeMap::<char, f64>::new();
    let mut joined = String::new();
    for word in words {
        for &character in &word.chars {
            *characters.entry(character).or_default() += word.count;
            joined.push(character);
        }
        joined.push(END);
    }
    let mut single: Vec<(char, f64)> = characters.into_iter().collect();
    single.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let room = count.saturating_sub(single.len());
    let mut seeds: Vec<(String, f64)> =
        single.into_iter().map(|(c, count)| (c.to_string(), count)).collect();
    seeds.extend(repeated_parts(&joined, room));
    let log_sum = seeds.iter().map(|(_, score)| score).sum::<f64>().ln();
    seeds.iter_mut().for_each(|(_, score)| *score = score.ln() - log_sum);
    seeds
}

/// The `count` parts of `joined` that cover the most characters.
fn repeated_parts(joined: &str, count: usize) -> Vec<(String, f64)> {
    // The error is of text longer than 32 bits can number, which is not given.
    let Ok(suffixes) = esaxx_rs::suffix_rs(joined) else { return Vec::new() };
    let mut parts: Vec<(u64, &[char])> = suffixes
        .iter()
        .filter(|(part, _)| (2..=MAX_PIECE_CHARS).contains(&part.len()) && !part.contains(&END))
        .map(|(part, times)| (u64::from(times) * part.len() as u64, part))
        .collect();
    parts.sort_unstable_by_key(|&part| Reverse(part));
    parts.truncate(count);
    parts.into_iter().map(|(covered, part)| (part.iter().collect(), covered as f64)).collect()
}
