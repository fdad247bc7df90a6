//! A question beside a text that may be longer than a model reads: in windows of the text that
//! overlap, each with the question before it.

use tokenizers::{
    EncodeInput, Encoding, PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy,
};

use super::{EncodedText, ModelTokenizer, bad};
use crate::error::Result;

/// A part of a text, after its question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextWindow {
    /// Both in tokens.
    pub tokens: EncodedText,
    /// Where each token of the text stands in it, in bytes; absent for all others.
    pub places: Vec<Option<(usize, usize)>>,
}

/// Encodes questions with texts.
#[derive(Debug, Clone)]
pub struct WindowTokenizer {
    tokenizer: ModelTokenizer,
    longest: usize,
    overlap: usize,
}

impl ModelTokenizer {
    /// Windows of at most `longest` tokens, question and special ones included, of which each
    /// shares `overlap` tokens of its text with the one before.
    ///
    /// # Errors
    /// What the tokenizer can't be set to.
    pub fn with_windows(&self, longest: usize, overlap: usize) -> Result<WindowTokenizer> {
        let mut tokenizer = self.clone();
        let truncation = TruncationParams {
            max_length: longest,
            strategy: TruncationStrategy::OnlySecond,
            stride: overlap,
            direction: TruncationDirection::Right,
        };
        tokenizer
            .inner
            .with_truncation(Some(truncation))
            .map_err(|error| bad(&self.origin, error.to_string()))?;
        Ok(WindowTokenizer { tokenizer, longest, overlap })
    }
}

impl WindowTokenizer {
    /// How many tokens of a text each of `questions` leaves room for in a window.
    ///
    /// # Errors
    /// What the tokenizer's model refuses.
    pub fn room(&self, questions: &[&str]) -> Result<Vec<usize>> {
        let inner = &self.tokenizer.inner;
        let special = inner.get_post_processor().map_or(0, |steps| steps.added_tokens(true));
        let mut whole = inner.clone();
        whole.with_truncation(None).map_err(|error| self.refuse(error.to_string()))?;
        let encoded = whole.encode_batch_fast(questions.to_vec(), false);
        let encoded = encoded.map_err(|error| self.refuse(error.to_string()))?;
        let room = |question: &Encoding| self.longest.saturating_sub(special + question.len());
        Ok(encoded.iter().map(room).collect())
    }

    /// The windows of each pair of a question and a text, in order.
    ///
    /// # Errors
    /// A question that leaves no more [`room`](Self::room) than windows share; what the tokenizer's
    /// model refuses.
    pub fn encode(&self, pairs: &[(&str, &str)]) -> Result<Vec<Vec<TextWindow>>> {
        let questions: Vec<&str> = pairs.iter().map(|(question, _)| *question).collect();
        if let Some(at) = self.room(&questions)?.iter().position(|&room| room <= self.overlap) {
            let reason = format!("no window has room for the question {:?}", questions[at]);
            return Err(self.refuse(reason));
        }
        let inputs: Vec<EncodeInput> = pairs.iter().map(|&pair| pair.into()).collect();
        // The fast way does not tell places.
        let encoded = self.tokenizer.inner.encode_batch(inputs, true);
        let encoded = encoded.map_err(|error| self.refuse(format!("can't encode: {error}")))?;
        Ok(encoded.iter().map(windows).collect())
    }

    fn refuse(&self, reason: String) -> crate::Error {
        bad(&self.tokenizer.origin, reason)
    }
}

fn windows(encoding: &Encoding) -> Vec<TextWindow> {
    std::iter::once(encoding).chain(encoding.get_overflowing()).map(window).collect()
}

fn window(encoding: &Encoding) -> TextWindow {
    let parts = encoding.get_sequence_ids();
    let place =
        |(part, place): (&Option<usize>, &(usize, usize))| (*part == Some(1)).then_some(*place);
    let tokens = EncodedText {
        ids: encoding.get_ids().to_vec(),
        types: encoding.get_type_ids().iter().map(|&kind| u8::from(kind > 0)).collect(),
        words: encoding.get_word_ids().to_vec(),
        is_cut: false,
    };
    TextWindow { tokens, places: parts.iter().zip(encoding.get_offsets()).map(place).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_read_in_windows_that_overlap() {
        let folder = tempfile::tempdir().unwrap();
        let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nq\na\nb\nc\nd\né\n";
        std::fs::write(folder.path().join("vocab.txt"), vocabulary).unwrap();
        std::fs::write(
            folder.path().join("tokenizer_config.json"),
            r#"{"do_lower_case":false,"strip_accents":false}"#,
        )
        .unwrap();
        let tokenizer = ModelTokenizer::load(folder.path()).unwrap();
        // [CLS] q [SEP] x x x [SEP]
        let windows = tokenizer.with_windows(7, 1).unwrap();
        assert_eq!(windows.room(&["q", "q q"]).unwrap(), [3, 2]);
        let found = windows.encode(&[("q", "é a b c d"), ("q", "a")]).unwrap();
        let words = |window: &TextWindow| -> Vec<&str> {
            let places = window.places.iter().flatten();
            places.map(|&(start, end)| &"é a b c d"[start..end]).collect()
        };
        let shown: Vec<_> = found[0].iter().map(words).collect();
        assert_eq!(shown, [vec!["é", "a", "b"], vec!["b", "c", "d"]]);
        assert_eq!(found[0][1].tokens.types, [0, 0, 0, 1, 1, 1, 1]);
        assert_eq!(found[0][1].tokens.ids.len(), 7);
        assert_eq!(found[1].len(), 1);
        assert!(windows.encode(&[("q q q", "a b")]).is_err(), "no more room than is shared");
    }
}
