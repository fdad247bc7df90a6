//! Which tokens go into which sequence: documents packed end to end, with nothing lost.
//!
//! A sequence of `t` positions holds pieces of documents, each [framed](Framing). A document that
//! does not fit goes on as another piece in the next sequence. Fewer than [`MIN_PIECE`] positions
//! left over are padding.

use std::ops::Range;

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

/// Where each sequence begins; the rest follows from the documents. 8 bytes a sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Packing {
    framing: Framing,
    sequence_length: usize,
    starts: Vec<u64>,
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
        last: LastSequence,
    ) -> Result<Self> {
        if sequence_length < MIN_PIECE {
            let expected = format!("at least {MIN_PIECE}");
            return Err(Error::setting("the sequence length", sequence_length, expected));
        }
        let mut starts = Vec::new();
        let mut left = 0;
        for document in offsets.windows(2) {
            let (mut token, end) = (document[0], document[1]);
            while token < end {
                if left < MIN_PIECE as u64 {
                    starts.push(token);
                    left = sequence_length as u64;
                }
                let piece = framing.max_tokens(left).min(end - token);
                token += piece;
                left -= framing.length(piece);
            }
        }
        if starts.is_empty() && last == LastSequence::DropPartial {
            return Err(Error::setting("the number of tokens", 0, "at least 1"));
        }
        let partial = left >= MIN_PIECE as u64;
        if partial && last == LastSequence::DropPartial && starts.len() > 1 {
            starts.pop();
        }
        Ok(Self { framing, sequence_length, starts })
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is none: of documents without a token, where the last sequence is padded.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
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
        &self,
        offsets: &'a [u64],
        sequence: usize,
    ) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let framing = self.framing;
        let mut token = self.starts[sequence];
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
