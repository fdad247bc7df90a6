//! Which examples a run learns from: it goes on, and with other processes, with the same alone.

use super::FinetuneTask;
use super::example::Example;

/// A hash of tokens and labels, of those that are learned from and those that weights are chosen
/// by: 64 hexadecimal digits.
pub fn hash_of_examples<T: FinetuneTask>(
    task: &T,
    examples: &[Example<T::Label>],
    held_out: Option<&[Example<T::Label>]>,
) -> String {
    let mut hasher = blake3::Hasher::new();
    for (part, examples) in [Some(examples), held_out].into_iter().enumerate() {
        let examples = examples.unwrap_or_default();
        hasher.update(format!("{part} {}\n", examples.len()).as_bytes());
        for example in examples {
            for text in example.texts() {
                hasher.update(&(text.ids.len() as u64).to_le_bytes());
                for id in &text.ids {
                    hasher.update(&id.to_le_bytes());
                }
            }
            let label = example.label.as_ref().map(|label| task.label_text(label));
            hasher.update(format!("{} {label:?}\n", example.part).as_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}
