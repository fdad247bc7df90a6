//! F1 of entities, whose type and both ends must be right. Tags may be of IOB1, IOB2 or IOBES:
//! entities are found by the rules of CoNLL's `conlleval`, which takes all of them, and a wrong
//! beginning such as `O I-PER` for an entity's. Reference: seqeval's `f1_score` and
//! `classification_report`, in its default mode.

use std::collections::{BTreeMap, HashSet};

use super::{f1, ratio};

/// A stretch of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entity {
    /// What it is, such as `PER`.
    pub kind: String,
    /// Its first token.
    pub start: usize,
    /// Its last token.
    pub last: usize,
}

/// The part of a tag before its type, and the type.
fn split(tag: &str) -> (char, &str) {
    let mut letters = tag.chars();
    let prefix = letters.next().unwrap_or('O');
    let rest = letters.as_str();
    let kind = rest.split_once('-').map_or(rest, |(_, kind)| kind);
    (prefix, if kind.is_empty() { "_" } else { kind })
}

fn ends(before: (char, &str), now: (char, &str)) -> bool {
    match (before.0, now.0) {
        ('E' | 'S', _) | ('B' | 'I', 'B' | 'S' | 'O') => true,
        ('O' | '.', _) => false,
        _ => before.1 != now.1,
    }
}

fn starts(before: (char, &str), now: (char, &str)) -> bool {
    match (before.0, now.0) {
        (_, 'B' | 'S') | ('E' | 'S' | 'O', 'E' | 'I') => true,
        (_, 'O' | '.') => false,
        _ => before.1 != now.1,
    }
}

/// The entities of one sentence's tags.
pub fn entities<T: AsRef<str>>(tags: &[T]) -> Vec<Entity> {
    let mut found = Vec::new();
    let (mut before, mut start) = (('O', ""), 0);
    let after = std::iter::once("O");
    for (index, tag) in tags.iter().map(AsRef::as_ref).chain(after).enumerate() {
        let now = split(tag);
        if ends(before, now) && index > 0 {
            found.push(Entity { kind: before.1.to_owned(), start, last: index - 1 });
        }
        if starts(before, now) {
            start = index;
        }
        before = now;
    }
    found
}

/// Counts of entities: found rightly, predicted, there.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EntityCounts {
    hits: f64,
    predicted: f64,
    actual: f64,
}

impl EntityCounts {
    /// Of those predicted, the share that is right.
    pub fn precision(&self) -> f64 {
        ratio(self.hits, self.predicted)
    }

    /// Of those there are, the share that was found.
    pub fn recall(&self) -> f64 {
        ratio(self.hits, self.actual)
    }

    /// The harmonic mean of both.
    pub fn f1(&self) -> f64 {
        f1(self.hits, self.predicted, self.actual)
    }

    /// How many there are.
    pub fn support(&self) -> u64 {
        self.actual as u64
    }
}

/// Counts by type, over sentences.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EntityScores {
    by_kind: BTreeMap<String, EntityCounts>,
}

impl EntityScores {
    /// Adds a sentence's tags, right ones and predicted.
    pub fn add<L: AsRef<str>, R: AsRef<str>>(&mut self, right: &[L], predicted: &[R]) {
        let (right, predicted) = (entities(right), entities(predicted));
        let known: HashSet<&Entity> = right.iter().collect();
        for entity in &predicted {
            let counts = self.by_kind.entry(entity.kind.clone()).or_default();
            counts.predicted += 1.0;
            counts.hits += f64::from(u8::from(known.contains(entity)));
        }
        for entity in right {
            self.by_kind.entry(entity.kind).or_default().actual += 1.0;
        }
    }

    /// By type.
    pub fn by_kind(&self) -> &BTreeMap<String, EntityCounts> {
        &self.by_kind
    }

    /// Over all types' counts together: seqeval's `micro avg`, and CoNLL's score.
    pub fn overall(&self) -> EntityCounts {
        self.by_kind.values().fold(EntityCounts::default(), |sum, counts| EntityCounts {
            hits: sum.hits + counts.hits,
            predicted: sum.predicted + counts.predicted,
            actual: sum.actual + counts.actual,
        })
    }

    /// The mean of all types' F1.
    pub fn f1_macro(&self) -> f64 {
        let sum: f64 = self.by_kind.values().map(EntityCounts::f1).sum();
        ratio(sum, self.by_kind.len() as f64)
    }
}
