//! Which tokens go into which sequence: documents packed end to end, or so that few are split, with
//! nothing lost.
//!
//! A sequence of `t` positions holds pieces of documents, each [framed](Framing). A document that
//! does not fit goes on as another piece in the next sequence. Fewer than [`MIN_PIECE`] positions
//! left over are padding.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::best_fit::BestFit;
use crate::error::{Error, Result};
use crate::noise::Noise;

/// The fewest positions for which a piece is begun, with its frame.
pub const MIN_PIECE: usize = 8;

/// What is made of a piece's tokens, and so how many positions they take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Framing {
    /// `[CLS] tokens [SEP]`, for BERT.
    ClsSep,
    /// `<|endoftext|> tokens`, for GPT.
    Bos,
    /// What the encoder of T5 sees of them, for which a part of them is one sentinel.
    Spans(Noise),
}

impl Framing {
    /// Positions that `tokens` take.
    pub fn length(&self, tokens: u64) -> u64 {
        match self {
            Self::ClsSep => tokens + 2,
            Self::Bos => tokens + 1,
            Self::Spans(noise) => noise.source_length(tokens as usize) as u64,
        }
    }

    /// The most tokens that `positions` hold.
    pub fn max_tokens(&self, positions: u64) -> u64 {
        match self {
            Self::ClsSep => positions - 2,
            Self::Bos => positions - 1,
            Self::Spans(noise) => noise.max_tokens(positions as usize) as u64,
        }
    }
}

/// What becomes of a last sequence that the documents don't fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastSequence {
    /// It is left out, unless it is the only one.
    DropPartial,
    /// It is padded.
    Pad,
}

/// Where documents are split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// Wherever a sequence ends: nothing is left over.
    #[default]
    EndToEnd,
    /// Only where they are longer than a sequence: sequences end in padding.
    Best,
}

/// What packing did to documents.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PackingReport {
    /// Documents with tokens.
    pub documents: u64,
    /// Those that are in more than one piece.
    pub split: u64,
    /// Those that are longer than a sequence, and so are split in any case.
    pub too_long: u64,
    /// Share of positions that hold no token.
    pub padding: f64,
}

/// Which pieces each sequence holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Packing {
    framing: Framing,
    sequence_length: usize,
    plan: Plan,
    report: PackingReport,
}

#[derive(Debug, Clone, PartialEq)]
enum Plan {
    /// Where each sequence begins; the rest follows from the documents. 8 bytes a sequence.
    EndToEnd(Vec<u64>),
    /// All pieces. 16 bytes a piece.
    BestFit(BestFit),
}

impl Packing {
    /// Packs documents, of which number `i` has the tokens `offsets[i]..offsets[i + 1]`.
    ///
    /// # Errors
    /// A length below [`MIN_PIECE`], and documents without a token to train on.
    pub fn new(
        offsets: &[u64],
        framing: Framing,
        sequence_length: usize,
        fit: Fit,
        last: LastSequence,
    ) -> Result<Self> {
        if sequence_length < MIN_PIECE {
            let expected = format!("at least {MIN_PIECE}");
            return Err(Error::setting("the sequence length", sequence_length, expected));
        }
        let (plan, report) = match fit {
            Fit::EndToEnd => end_to_end(offsets, framing, sequence_length, last),
            Fit::Best => best_fit(offsets, framing, sequence_length),
        };
        let packing = Self { framing, sequence_length, plan, report };
        if packing.is_empty() && last == LastSequence::DropPartial {
            return Err(Error::setting("the number of tokens", 0, "at least 1"));
        }
        Ok(packing)
    }

    /// What it did to the documents.
    pub fn report(&self) -> PackingReport {
        self.report
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        match &self.plan {
            Plan::EndToEnd(starts) => starts.len(),
            Plan::BestFit(sequences) => sequences.len(),
        }
    }

    /// Whether there is none: of documents without a token, where the last sequence is padded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions of a sequence.
    pub fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    /// The tokens of each piece of a sequence, in order. `offsets` are those it was made from.
    ///
    /// # Panics
    /// If there is no such sequence.
    pub fn pieces<'a>(
        &'a self,
        offsets: &'a [u64],
        sequence: usize,
    ) -> Box<dyn Iterator<Item = Range<usize>> + 'a> {
        match &self.plan {
            Plan::BestFit(sequences) => Box::new(sequences.pieces(sequence)),
            Plan::EndToEnd(starts) => Box::new(self.pieces_from(offsets, starts[sequence])),
        }
    }

    /// The pieces of a sequence that begins with `token` and ends where it is full.
    fn pieces_from(&self, offsets: &[u64], mut token: u64) -> impl Iterator<Item = Range<usize>> {
        let framing = self.framing;
        let mut left = self.sequence_length as u64;
        // The first offset beyond the token: where its document ends.
        let mut end = offsets.partition_point(|&offset| offset <= token);
        std::iter::from_fn(move || {
            while offsets.get(end).is_some_and(|&offset| offset == token) {
                end += 1;
            }
            if left < MIN_PIECE as u64 || end == offsets.len() {
                return None;
            }
            let piece = token..offsets[end].min(token + framing.max_tokens(left));
            token = piece.end;
            left -= framing.length(piece.end - piece.start);
            Some(piece.start as usize..piece.end as usize)
        })
    }
}

fn end_to_end(
    offsets: &[u64],
    framing: Framing,
    length: usize,
    last: LastSequence,
) -> (Plan, PackingReport) {
    let mut starts = Vec::new();
    let (mut left, mut filled) = (0, 0);
    let mut report = PackingReport::default();
    let most = framing.max_tokens(length as u64);
    for document in offsets.windows(2) {
        let (mut token, end) = (document[0], document[1]);
        report.documents += u64::from(token < end);
        report.too_long += u64::from(end - token > most);
        let mut pieces = 0u32;
        while token < end {
            if left < MIN_PIECE as u64 {
                starts.push(token);
                left = length as u64;
            }
            let piece = framing.max_tokens(left).min(end - token);
            token += piece;
            left -= framing.length(piece);
            filled += framing.length(piece);
            pieces += 1;
        }
        report.split += u64::from(pieces > 1);
    }
    report.padding = padding(filled, starts.len(), length);
    let partial = left >= MIN_PIECE as u64;
    if partial && last == LastSequence::DropPartial && starts.len() > 1 {
        starts.pop();
    }
    (Plan::EndToEnd(starts), report)
}

fn best_fit(offsets: &[u64], framing: Framing, length: usize) -> (Plan, PackingReport) {
    let most = framing.max_tokens(length as u64);
    let sequences = BestFit::new(offsets, length, most, |tokens| framing.length(tokens));
    let mut report = PackingReport::default();
    let mut filled = 0;
    for document in offsets.windows(2).map(|pair| pair[1] - pair[0]) {
        report.documents += u64::from(document > 0);
        report.too_long += u64::from(document > most);
        let rest = document % most;
        filled += document / most * framing.length(most);
        filled += if rest > 0 { framing.length(rest) } else { 0 };
    }
    report.split = report.too_long;
    report.padding = padding(filled, sequences.len(), length);
    (Plan::BestFit(sequences), report)
}

fn padding(filled: u64, sequences: usize, length: usize) -> f64 {
    1.0 - filled as f64 / (sequences as f64 * length as f64).max(1.0)
}
