//! A hash of what a run was shown, to see that two runs were shown the same.

/// A hash of one batch: its tokens and those to be predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchDigest([u8; 32]);

impl BatchDigest {
    /// Of the tokens `ids`, row by row, and of `labels`. The token `pad` is no part of it, so that
    /// how tokens lie in rows makes no difference.
    pub fn new(ids: &[i64], pad: i64, labels: &[i64]) -> Self {
        let ids: Vec<i64> = ids.iter().copied().filter(|&id| id != pad).collect();
        let mut hasher = blake3::Hasher::new();
        for part in [ids.as_slice(), labels] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(bytemuck::cast_slice(part));
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The digest as four numbers, to be sent to another process.
    pub fn words(&self) -> [i64; 4] {
        bytemuck::pod_read_unaligned(&self.0)
    }

    /// What [`words`](Self::words) gave.
    pub fn from_words(words: [i64; 4]) -> Self {
        Self(bytemuck::cast(words))
    }
}

/// A hash of batches in their order. Each step hashes the hash so far with the next batch's, so
/// that 32 bytes are all there is to keep for a run that goes on later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Adds a batch.
    pub fn add(&mut self, batch: BatchDigest) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(&batch.0);
        self.0 = *hasher.finalize().as_bytes();
    }

    /// The hash of all that was added, shortened for people.
    pub fn value(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(bytes)
    }

    /// All of it, as 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// What [`to_hex`](Self::to_hex) returned; `None` for any other text.
    pub fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|hash| Self(*hash.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(batches: &[(&[i64], &[i64])]) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        batches.iter().for_each(|(ids, labels)| fingerprint.add(BatchDigest::new(ids, 0, labels)));
        fingerprint
    }

    #[test]
    fn order_tokens_and_labels_all_count() {
        let shown = fingerprint(&[(&[1, 2], &[3]), (&[4], &[5])]);
        assert_eq!(shown, fingerprint(&[(&[1, 0, 2, 0], &[3]), (&[4], &[5])]), "padding");
        for other in [
            fingerprint(&[(&[4], &[5]), (&[1, 2], &[3])]),
            fingerprint(&[(&[1, 2, 3], &[]), (&[4], &[5])]),
            fingerprint(&[(&[1, 2], &[3])]),
            fingerprint(&[(&[1, 2], &[3]), (&[4], &[6])]),
        ] {
            assert_ne!(shown.value(), other.value());
        }
    }

    #[test]
    fn it_goes_on_from_its_text() {
        let first = fingerprint(&[(&[1, 2], &[3])]);
        let mut later = Fingerprint::from_hex(&first.to_hex()).unwrap();
        later.add(BatchDigest::new(&[4], 0, &[5]));
        assert_eq!(later, fingerprint(&[(&[1, 2], &[3]), (&[4], &[5])]));
        assert_eq!(Fingerprint::from_hex("12"), None);
    }
}
