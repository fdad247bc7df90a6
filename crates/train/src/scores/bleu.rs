//! BLEU of a whole corpus (Papineni et al. 2002): the geometric mean of the precisions of one to
//! four words, times `e^(1 - r/c)` where the translations' length `c` is below the references' `r`.
//! Reference: sacreBLEU's `corpus_bleu` with its tokenizer `13a` and exponential smoothing.

use std::ops::{AddAssign, RangeInclusive};

use super::ngrams;

const LONGEST: usize = 4;

/// What BLEU is of: counts that add up over texts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BleuCounts {
    /// Runs that the reference has too, by their length.
    hits: [usize; LONGEST],
    /// All runs.
    totals: [usize; LONGEST],
    length: usize,
    reference_length: usize,
}

impl BleuCounts {
    /// Of one translation and its reference.
    pub fn of(translation: &str, reference: &str) -> Self {
        let (found, right) = (words(translation), words(reference));
        let mut counts =
            Self { length: found.len(), reference_length: right.len(), ..Self::default() };
        for order in 0..LONGEST {
            let (found_runs, right_runs) =
                (ngrams::count(&found, order + 1), ngrams::count(&right, order + 1));
            counts.hits[order] = ngrams::shared(&found_runs, &right_runs);
            counts.totals[order] = found.len().saturating_sub(order);
        }
        counts
    }

    /// BLEU, 0 to 100.
    pub fn score(&self) -> f64 {
        if self.hits.iter().all(|&hits| hits == 0) || self.totals.contains(&0) {
            return 0.0;
        }
        let mut smooth = 1.0;
        let log_precision = |(&hits, &total): (&usize, &usize)| {
            let hits = if hits == 0 {
                smooth *= 2.0;
                1.0 / smooth
            } else {
                hits as f64
            };
            (100.0 * hits / total as f64).ln()
        };
        let precisions = self.hits.iter().zip(&self.totals).map(log_precision);
        let mean = precisions.sum::<f64>() / LONGEST as f64;
        let ratio = self.reference_length as f64 / self.length as f64;
        (1.0 - ratio).min(0.0).exp() * mean.exp()
    }
}

impl AddAssign for BleuCounts {
    fn add_assign(&mut self, other: Self) {
        for order in 0..LONGEST {
            self.hits[order] += other.hits[order];
            self.totals[order] += other.totals[order];
        }
        self.length += other.length;
        self.reference_length += other.reference_length;
    }
}

/// BLEU, 0 to 100, of translations with a reference each.
pub fn bleu(pairs: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> f64 {
    let mut counts = BleuCounts::default();
    for (translation, reference) in pairs {
        counts += BleuCounts::of(translation.as_ref(), reference.as_ref());
    }
    counts.score()
}

/// Words as NIST's `mteval-v13a` cuts them.
fn words(text: &str) -> Vec<String> {
    let text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    let text = if text.contains('&') { unescape(&text) } else { text };
    let text: Vec<char> = format!(" {text} ").chars().collect();
    let text = apart(&text);
    let text = marks_apart(&text, true);
    let text = marks_apart(&text, false);
    let text = dashes_apart(&text);
    let text: String = text.into_iter().collect();
    text.split_whitespace().map(str::to_owned).collect()
}

fn unescape(text: &str) -> String {
    [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Puts spaces around ASCII's marks but `'`, `,`, `-` and `.`.
fn apart(text: &[char]) -> Vec<char> {
    const RANGES: [RangeInclusive<char>; 6] =
        ['{'..='~', '['..='`', ' '..='&', '('..='+', ':'..='@', '/'..='/'];
    let is_mark = |letter: char| RANGES.iter().any(|range| range.contains(&letter));
    let part = |&letter: &char| if is_mark(letter) { vec![' ', letter, ' '] } else { vec![letter] };
    text.iter().flat_map(part).collect()
}

/// Puts spaces around full stops and commas with no digit before them, or none behind.
fn marks_apart(text: &[char], before: bool) -> Vec<char> {
    let is_mark = |letter: char| matches!(letter, '.' | ',');
    let (mut out, mut index) = (Vec::with_capacity(text.len()), 0);
    while index < text.len() {
        // A match takes both characters, so that the next begins after them.
        match text.get(index..index + 2) {
            Some(&[other, mark]) if before && !other.is_ascii_digit() && is_mark(mark) => {
                out.extend([other, ' ', mark, ' ']);
                index += 2;
            }
            Some(&[mark, other]) if !before && is_mark(mark) && !other.is_ascii_digit() => {
                out.extend([' ', mark, ' ', other]);
                index += 2;
            }
            _ => {
                out.push(text[index]);
                index += 1;
            }
        }
    }
    out
}

/// Puts spaces around dashes behind digits.
fn dashes_apart(text: &[char]) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    for (index, &letter) in text.iter().enumerate() {
        match index.checked_sub(1).map(|before| text[before]) {
            Some(before) if letter == '-' && before.is_ascii_digit() => {
                out.extend([' ', '-', ' ']);
            }
            _ => out.push(letter),
        }
    }
    out
}
