//! What the documents and tokens of a prepared dataset are like, for people to look at.

use crate::error::Result;
use crate::shard::TokenStore;
use crate::tokenizer::TextTokenizer;

/// Tokens that are read at a time.
const BLOCK_TOKENS: usize = 1 << 20;
/// Parts that are decoded to see how much text a token is, evenly spread, and their tokens.
const DECODED_PARTS: usize = 16;
const DECODED_TOKENS: usize = 1 << 12;

/// Numbers of one token file.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardStatistics {
    /// Number of documents.
    pub documents: u64,
    /// Number of tokens.
    pub tokens: u64,
    /// Number `i` counts the documents of `2^i` to `2^(i+1) - 1` tokens.
    pub lengths: Vec<u64>,
    /// The share of tokens that stand for text that the vocabulary can't spell.
    pub unknown_share: f64,
    /// Bytes of text a token, as sixteen parts have it.
    pub bytes_per_token: f64,
    /// Ids of the vocabulary that occur, the most frequent ones first, and how often.
    pub frequencies: Vec<(u32, u64)>,
}

impl ShardStatistics {
    /// Reads all of `shard`, whose tokens are those of `tokenizer`.
    ///
    /// # Errors
    /// A file that can't be read; what the tokenizer's decoder refuses.
    pub fn of(shard: &TokenStore, tokenizer: &TextTokenizer) -> Result<Self> {
        let tokens = shard.token_count();
        let mut counts = vec![0u64; tokenizer.vocab_size()];
        for start in (0..tokens).step_by(BLOCK_TOKENS) {
            for id in shard.tokens(start..tokens.min(start + BLOCK_TOKENS))? {
                counts[id as usize] += 1;
            }
        }
        let mut lengths = Vec::new();
        for document in shard.offsets().windows(2) {
            let power = (document[1] - document[0]).max(1).ilog2() as usize;
            lengths.resize(lengths.len().max(power + 1), 0);
            lengths[power] += 1;
        }
        let (mut decoded, mut bytes) = (0, 0);
        for part in 0..DECODED_PARTS {
            let start = part * (tokens / DECODED_PARTS);
            let end = (start + DECODED_TOKENS.min(tokens.div_ceil(DECODED_PARTS))).min(tokens);
            bytes += tokenizer.decode(&shard.tokens(start..end)?)?.len();
            decoded += end - start;
        }
        let unknown = tokenizer.unknown_id().map_or(0, |id| counts[id as usize]);
        let mut frequencies: Vec<(u32, u64)> =
            (0..).zip(counts).filter(|&(_, count)| count > 0).collect();
        frequencies.sort_by_key(|&(id, count)| (std::cmp::Reverse(count), id));
        Ok(Self {
            documents: shard.document_count() as u64,
            tokens: tokens as u64,
            lengths,
            unknown_share: unknown as f64 / tokens.max(1) as f64,
            bytes_per_token: bytes as f64 / decoded.max(1) as f64,
            frequencies,
        })
    }
}
