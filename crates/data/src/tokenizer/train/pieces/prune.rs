//! Which pieces are missed least: those whose words are nearly as likely without them.

use rayon::prelude::*;

use super::lattice::Lattice;
use super::trie::PieceTrie;
use super::{CountedWord, ScoredPiece, sum_of_parts};

/// What takes a piece's place.
enum Substitute {
    /// Nothing does: it stays.
    None,
    /// The best cut of its text does not use it.
    Better,
    /// These pieces together.
    Pieces(Vec<u32>),
}

/// The pieces that can't be done without, and of the others those that are missed most, as many as
/// make `count`; most missed first.
pub(super) fn prune(
    pieces: &[ScoredPiece],
    words: &[CountedWord],
    count: usize,
) -> Vec<ScoredPiece> {
    let trie = PieceTrie::new(pieces);
    let texts: Vec<Vec<char>> = pieces.iter().map(|(text, _)| text.chars().collect()).collect();
    let substitutes: Vec<Substitute> =
        texts.par_iter().enumerate().map(|(piece, text)| substitute(&trie, piece, text)).collect();
    let uses = uses(&trie, pieces.len(), words);
    let all_uses: f64 = uses.iter().sum();
    let all_words: f64 = words.iter().map(|word| word.count).sum();
    let (mut kept, mut losses) = (Vec::new(), Vec::new());
    for (piece, substitute) in substitutes.iter().enumerate() {
        match substitute {
            Substitute::None => kept.push(pieces[piece].clone()),
            _ if uses[piece] == 0.0 => {}
            Substitute::Better => kept.push(pieces[piece].clone()),
            Substitute::Pieces(instead) => {
                let loss = loss(&uses, piece, instead, all_uses) * uses[piece] / all_words;
                losses.push((loss, piece));
            }
        }
    }
    losses.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let room = count.saturating_sub(kept.len());
    kept.extend(losses.into_iter().take(room).map(|(_, piece)| pieces[piece].clone()));
    kept
}

fn substitute(trie: &PieceTrie, piece: usize, text: &[char]) -> Substitute {
    let mut lattice = Lattice::default();
    lattice.fill(trie, text);
    lattice.without_whole();
    match lattice.best() {
        None => Substitute::None,
        Some((score, _)) if score > trie.score(piece) => Substitute::Better,
        Some((_, cut)) => {
            let known: Option<Vec<u32>> = cut.iter().map(|found| found.piece).collect();
            // A character that no other piece spells.
            known.map_or(Substitute::None, Substitute::Pieces)
        }
    }
}

/// How often each piece is in the best cuts of all words.
fn uses(trie: &PieceTrie, pieces: usize, words: &[CountedWord]) -> Vec<f64> {
    let of_part = |words: &[CountedWord]| {
        let (mut uses, mut lattice) = (vec![0.0; pieces], Lattice::default());
        for word in words {
            lattice.fill(trie, &word.chars);
            let (_, cut) = lattice.best().unwrap_or_default();
            let found = cut.iter().filter_map(|found| found.piece);
            found.for_each(|piece| uses[piece as usize] += word.count);
        }
        uses
    };
    sum_of_parts(words, of_part)
}

/// How much less likely each use of `piece` would be with others `instead`, as a logarithm.
fn loss(uses: &[f64], piece: usize, instead: &[u32], all: f64) -> f64 {
    let own = uses[piece];
    let all_then = (all + own * (instead.len() as f64 - 1.0)).ln();
    let then = |other: &u32| (uses[*other as usize] + own).ln() - all_then;
    own.ln() - all.ln() - instead.iter().map(then).sum::<f64>()
}
