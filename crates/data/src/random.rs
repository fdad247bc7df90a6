//! Random numbers as pure functions of what they are for.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a stream of random numbers decides. Streams of different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The order of an epoch's sequences.
    Order = 1,
    /// The masks of training sequences.
    TrainMask = 2,
    /// The masks of held-out sequences.
    HeldOutMask = 3,
    /// Which corpus of several each position shows.
    Mixture = 4,
    /// The order of an epoch's sequences where there are too many to shuffle in memory.
    LargeOrder = 5,
}

/// The stream for one purpose, seed, epoch and sequence.
pub(crate) fn stream(purpose: Purpose, seed: u64, epoch: u64, sequence: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (part, value) in key.chunks_exact_mut(8).zip([purpose as u64, seed, epoch, sequence]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// A number in `[0, 1)` that looks random and depends on `text` alone.
pub(crate) fn unit_hash_of_text(text: &str) -> f64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..8]);
    unit(u64::from_le_bytes(bytes))
}

/// A number in `[0, 1)` that looks random and depends on `index` alone.
pub(crate) fn unit_hash(index: u64) -> f64 {
    unit(split_mix(index))
}

/// SplitMix64's output function, <https://prng.di.unimi.it/splitmix64.c>: a permutation of 64-bit
/// numbers that looks random.
pub(crate) fn split_mix(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The upper 53 bits as a fraction.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
