//! Vectors of texts that lie side by side in rows, or one a row.
//!
//! Axes: `r` rows, `t` time, `d` features, `n` texts.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Tensor};

use super::SentenceModules;
use crate::error::Result;
use crate::pretrained::{Pretrained, SequenceRows};

impl SentenceModules {
    /// The vector of each text in `rows`, `[n, features]` in FP32, by `model`. Dropout acts if
    /// `train`.
    ///
    /// # Errors
    /// As [`Pretrained::row_states`] and [`vectors`](Self::vectors).
    pub fn vectors_of_rows(
        &self,
        model: &Pretrained,
        rows: &SequenceRows,
        train: bool,
    ) -> Result<Tensor> {
        let hidden = model.row_states(rows, train)?;
        let (n, d) = (rows.lengths.size()[0], hidden.size()[1]);
        let longest = rows.lengths.max().f_int64_value(&[]).during("lengths of texts")?;
        let place_1t = Tensor::f_arange(longest, (Kind::Int64, hidden.device()));
        let place_1t = place_1t.during("places of tokens")?.unsqueeze(0);
        let keep_nt = place_1t.lt_tensor(&rows.lengths.unsqueeze(1));
        // What is beyond a text is its last token again, and does not count.
        let place_nt = place_1t.minimum(&(rows.lengths.unsqueeze(1) - 1));
        let at_nt = place_nt + rows.first.unsqueeze(1);
        let hidden_ntd = hidden.index_select(0, &at_nt.flatten(0, 1)).view([n, longest, d]);
        Ok(self.vectors(&hidden_ntd, &keep_nt, 0)?.to_kind(Kind::Float))
    }
}
