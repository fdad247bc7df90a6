//! Pieces found at each place of a word.

use ahash::AHashMap;

use super::ScoredPiece;

/// What an unknown character costs more than the least likely piece.
const UNKNOWN_PENALTY: f64 = 10.0;
const ROOT: u32 = 0;

/// A piece in a word.
#[derive(Debug, Clone, Copy)]
pub(super) struct PieceMatch {
    /// Characters before it, and until its end.
    pub(super) begin: usize,
    pub(super) end: usize,
    /// Its place among the pieces; none for an unknown character.
    pub(super) piece: Option<u32>,
    /// The logarithm of its probability.
    pub(super) score: f64,
}

/// Pieces by their first characters.
pub(super) struct PieceTrie {
    children: AHashMap<(u32, char), u32>,
    /// The piece that ends at each node.
    ends: Vec<Option<u32>>,
    scores: Vec<f64>,
    unknown: f64,
}

impl PieceTrie {
    pub(super) fn new(pieces: &[ScoredPiece]) -> Self {
        let (mut children, mut ends) = (AHashMap::new(), vec![None]);
        for (number, (text, _)) in pieces.iter().enumerate() {
            let mut node = ROOT;
            for character in text.chars() {
                node = *children.entry((node, character)).or_insert_with(|| {
                    ends.push(None);
                    (ends.len() - 1) as u32
                });
            }
            ends[node as usize] = Some(number as u32);
        }
        let scores: Vec<f64> = pieces.iter().map(|(_, score)| *score).collect();
        let unknown = scores.iter().copied().fold(0.0, f64::min) - UNKNOWN_PENALTY;
        Self { children, ends, scores, unknown }
    }

    /// The log-probability of a piece.
    pub(super) fn score(&self, piece: usize) -> f64 {
        self.scores[piece]
    }

    /// Appends the pieces that begin at `begin`, shortest first: at least one of one character.
    pub(super) fn find(&self, word: &[char], begin: usize, found: &mut Vec<PieceMatch>) {
        let first = found.len();
        let mut node = ROOT;
        for (length, character) in word[begin..].iter().enumerate() {
            let end = begin + length + 1;
            let child = self.children.get(&(node, *character));
            let piece = child.and_then(|child| self.ends[*child as usize]);
            match piece {
                Some(piece) => {
                    let score = self.scores[piece as usize];
                    found.push(PieceMatch { begin, end, piece: Some(piece), score });
                }
                None if found.len() == first && length == 0 => {
                    found.push(PieceMatch { begin, end, piece: None, score: self.unknown });
                }
                None => {}
            }
            let Some(child) = child else { break };
            node = *child;
        }
    }
}
