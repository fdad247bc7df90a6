//! Which single characters a vocabulary has: those that a text needs, by the room there is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use compact_str::CompactString;

use super::words::Words;

/// Characters that a vocabulary spells.
pub(super) type Alphabet = BTreeSet<char>;

/// A character's occurrences, at words' begins and inside.
#[derive(Debug, Clone, Copy, Default)]
struct Occurrences {
    first: u64,
    inside: u64,
}

impl Occurrences {
    fn total(self) -> u64 {
        self.first + self.inside
    }
}

/// The most frequent characters of `words`: as many as cover the share `coverage` of all, at most
/// three quarters of `room` tokens; and more, as long as all take less than a quarter of it.
///
/// A character takes one token, or, where vocabularies tell a word's begin from its inside
/// (`by_place`), one for each of the two that it occurs at.
pub(super) fn choose(words: &Words, coverage: f64, room: usize, by_place: bool) -> Alphabet {
    let mut counts = BTreeMap::<char, Occurrences>::new();
    for (word, count) in words {
        for (index, character) in word.chars().enumerate() {
            let occurrences = counts.entry(character).or_default();
            *if index == 0 { &mut occurrences.first } else { &mut occurrences.inside } += count;
        }
    }
    let total: u64 = counts.values().map(|occurrences| occurrences.total()).sum();
    let mut by_count: Vec<(char, Occurrences)> = counts.into_iter().collect();
    by_count.sort_by_key(|&(character, count)| (Reverse(count.total()), character));
    let (mut tokens, mut covered) = (0, 0);
    let mut alphabet = Alphabet::new();
    for (character, count) in by_count {
        tokens += match by_place {
            true => usize::from(count.first > 0) + usize::from(count.inside > 0),
            false => 1,
        };
        let is_needed = (covered as f64) < coverage * total as f64;
        let limit = if is_needed { room / 4 * 3 } else { room / 4 };
        if tokens > limit {
            break;
        }
        covered += count.total();
        alphabet.insert(character);
    }
    alphabet
}

/// What of `words` the alphabet spells: a word with another character becomes the parts around it.
pub(super) fn keep_spellable(words: Words, alphabet: &Alphabet) -> Words {
    let mut kept = Words::new();
    for (word, count) in words {
        for part in word.split(|character| !alphabet.contains(&character)) {
            if !part.is_empty() {
                *kept.entry(CompactString::from(part)).or_default() += count;
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(counts: &[(&str, u64)]) -> Words {
        counts.iter().map(|&(word, count)| (word.into(), count)).collect()
    }

    fn chosen(counts: &[(&str, u64)], coverage: f64, room: usize, by_place: bool) -> String {
        choose(&words(counts), coverage, room, by_place).into_iter().collect()
    }

    #[test]
    fn rare_characters_are_kept_where_there_is_room() {
        let counts = [("ab", 900), ("c", 90), ("d", 9), ("e", 1)];
        assert_eq!(chosen(&counts, 0.9, 400, false), "abcde");
        // A quarter of 12 is 3 tokens, three quarters are 9.
        assert_eq!(chosen(&counts, 0.9, 12, false), "abc");
        assert_eq!(chosen(&counts, 0.9995, 12, false), "abcde");
        // Three quarters of 4.
        assert_eq!(chosen(&counts, 1.0, 4, false), "abc");
    }

    #[test]
    fn a_character_at_two_places_takes_two_tokens() {
        let counts = [("aa", 9), ("b", 8), ("c", 7)];
        assert_eq!(chosen(&counts, 1.0, 4, false), "abc");
        assert_eq!(chosen(&counts, 1.0, 4, true), "ab");
    }

    #[test]
    fn words_are_split_at_unknown_characters() {
        let alphabet = Alphabet::from(['a', 'b']);
        let kept = keep_spellable(words(&[("ab", 9), ("axb", 5), ("xx", 1), ("b", 1)]), &alphabet);
        assert_eq!(kept, words(&[("a", 5), ("ab", 9), ("b", 6)]));
    }
}
