//! Sentence embeddings from hidden states.
//!
//! Axes: `b` batch, `t` time, `d` features.

use bert4rs_tensor_core::{Kind, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::input;

/// How one vector is made of a sequence's hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean of real tokens. Source: arXiv 1908.10084.
    Mean,
    /// The first token.
    Cls,
}

impl Pooling {
    /// `[b, t, d]` to `[b, d]` in FP32, each of length 1 if `normalised`. `keep_bt` is nonzero for
    /// real tokens, of which each row has at least one.
    ///
    /// # Errors
    /// A `keep_bt` of another shape.
    pub fn forward(
        self,
        hidden_btd: &Tensor,
        keep_bt: &Tensor,
        normalised: bool,
    ) -> Result<Tensor> {
        let [b, t, _] = hidden_btd.size()[..] else {
            return Err(input::refuse("hidden states", hidden_btd, "[batch, time, features]"));
        };
        if keep_bt.size() != [b, t] {
            return Err(input::refuse("attention_mask", keep_bt, format!("shape [{b}, {t}]")));
        }
        let pooled_bd = match self {
            Self::Cls => hidden_btd.select(1, 0).to_kind(Kind::Float),
            Self::Mean => {
                let keep_bt1 = keep_bt.ne(0).to_kind(Kind::Float).unsqueeze(-1);
                let time = [1i64].as_slice();
                let sum_bd = (hidden_btd.to_kind(Kind::Float) * &keep_bt1)
                    .sum_dim_intlist(time, false, None);
                sum_bd / keep_bt1.sum_dim_intlist(time, false, None).clamp_min(1.0)
            }
        };
        if !normalised {
            return Ok(pooled_bd);
        }
        let length_b1 = pooled_bd.norm_scalaropt_dim(2, [-1i64].as_slice(), true);
        Ok(pooled_bd / length_b1.clamp_min(1e-12))
    }
}
