//! A hash of what a run was shown, to see that two runs were shown the same.

/// A hash of lists of tokens in their order.
#[derive(Debug, Clone, Default)]
pub struct Fingerprint {
    hasher: blake3::Hasher,
}

impl Fingerprint {
    /// Adds a batch: its tokens, row by row, and those to be predicted. The token `pad` is no
    /// part of it, so that how tokens lie in rows makes no difference.
    pub fn add(&mut self, ids: &[i64], pad: i64, labels: &[i64]) {
        let ids: Vec<i64> = ids.iter().copied().filter(|&id| id != pad).collect();
        for part in [ids.as_slice(), labels] {
            self.hasher.update(&(part.len() as u64).to_le_bytes());
            self.hasher.update(bytemuck::cast_slice(part));
        }
    }

    /// The hash of all that was added.
    pub fn value(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.hasher.finalize().as_bytes()[..8]);
        u64::from_le_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(batches: &[(&[i64], &[i64])]) -> u64 {
        let mut fingerprint = Fingerprint::default();
        batches.iter().for_each(|(ids, labels)| fingerprint.add(ids, 0, labels));
        fingerprint.value()
    }

    #[test]
    fn order_tokens_and_labels_all_count() {
        let shown = value(&[(&[1, 2], &[3]), (&[4], &[5])]);
        assert_eq!(shown, value(&[(&[1, 0, 2, 0], &[3]), (&[4], &[5])]), "padding");
        for other in [
            value(&[(&[4], &[5]), (&[1, 2], &[3])]),
            value(&[(&[1, 2, 3], &[]), (&[4], &[5])]),
            value(&[(&[1, 2], &[3])]),
            value(&[(&[1, 2], &[3]), (&[4], &[6])]),
        ] {
            assert_ne!(shown, other);
        }
    }
}
