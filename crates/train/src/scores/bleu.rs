//! BLEU of a whole corpus (Papineni et al. 2002): the geometric mean of the precisions of one to
//! four words, times `e^(1 - r/c)` where the translations' length `c` is below the references' `r`.
//! Reference: sacreBLEU's `corpus_bleu` with its tokenizer `13a` and exponential smoothing.

use std::ops::RangeInclusive;

use super::ngrams;

const LONGEST: usize = 4;

/// BLEU, 0 to 100, of translations with a reference each.
pub fn bleu(pairs: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> f64 {
    let (mut hits, mut totals) = ([0usize; LONGEST], [0usize; LONGEST]);
    let (mut length, mut reference_length) = (0, 0);
    for (translation, reference) in pairs {
        let (found, right) = (words(translation.as_ref()), words(reference.as_ref()));
        length += found.len();
        reference_length += right.len();
        for order in 0..LONGEST {
            let (found_runs, right_runs) =
                (ngrams::count(&found, order + 1), ngrams::count(&right, order + 1));
            hits[order] += ngrams::shared(&found_runs, &right_runs);
            totals[order] += found.len().saturating_sub(order);
        }
    }
    if hits.iter().all(|&hits| hits == 0) || totals.contains(&0) {
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
    let mean = hits.iter().zip(&totals).map(log_precision).sum::<f64>() / LONGEST as f64;
    let brevity = (1.0 - reference_length as f64 / length as f64).min(0.0).exp();
    brevity * mean.exp()
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
