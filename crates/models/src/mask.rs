//! Attention masks: boolean, true where a query may see a key.
//!
//! Axes: `b` batch, `t` queries, `s` keys. All masks broadcast to `[b, heads, t, s]` and can be
//! combined with `logical_and`. A query that sees no key gets 0 from attention.

use bert4rs_tensor_core::attention::Visible;
use bert4rs_tensor_core::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// `[b, 1, 1, s]` from `keep_bs`, which is nonzero for real tokens and 0 for padding: no query
/// sees padding.
pub fn padding(keep_bs: &Tensor) -> Tensor {
    keep_bs.ne(0).unsqueeze(1).unsqueeze(1)
}

/// `[b, 1, t, t]` from the document that each token of a packed sequence belongs to: a token sees
/// its own document alone. Padding that has a number of its own sees only padding.
pub fn documents(document_bt: &Tensor) -> Tensor {
    document_bt.unsqueeze(2).eq_tensor(&document_bt.unsqueeze(1)).unsqueeze(1)
}

/// `[1, 1, t, t]`: a token sees itself and what came before.
pub fn causal(time: i64, device: Device) -> Tensor {
    Pattern { causal: true, window: None }.mask(time, time, device)
}

/// Which keys a query may see by their places alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// Not those that come later.
    pub causal: bool,
    /// Not those at a distance of this many places or more.
    pub window: Option<i64>,
}

impl Pattern {
    /// Every key.
    pub const ALL: Self = Self { causal: false, window: None };

    /// `[1, 1, t, s]` of queries that are the last `queries` of `keys` places.
    fn mask(self, queries: i64, keys: i64, device: Device) -> Tensor {
        let place = (Kind::Int64, device);
        let query_t = Tensor::arange_start(keys - queries, keys, place).unsqueeze(1);
        let key_s = Tensor::arange(keys, place).unsqueeze(0);
        let back_ts = query_t - key_s;
        let mut mask_ts = match (self.causal, self.window) {
            (true, Some(window)) => back_ts.ge(0).logical_and(&back_ts.lt(window)),
            (true, None) => back_ts.ge(0),
            (false, Some(window)) => back_ts.abs().lt(window),
            (false, None) => back_ts.ones_like().to_kind(Kind::Bool),
        };
        mask_ts = mask_ts.unsqueeze(0).unsqueeze(0);
        mask_ts
    }

    /// Joins the pattern with `mask`, once for all layers.
    ///
    /// Both may hide every key from a query, as from padding at the left of a causal model, for
    /// which attention gives 0, as in transformers with `sdpa`, its default.
    pub fn visible(self, queries: i64, keys: i64, mask: Option<&Tensor>, on: Device) -> Seen {
        match (self.causal || self.window.is_some(), mask) {
            (false, None) => Seen::All,
            (false, Some(mask)) => Seen::Mask(mask.shallow_clone()),
            (true, None) if self.window.is_none() && queries == keys => Seen::Causal,
            // A lone last query sees all that came before.
            (true, None) if self.window.is_none() && queries == 1 => Seen::All,
            (true, None) => Seen::Mask(self.mask(queries, keys, on)),
            (true, Some(mask)) => Seen::Mask(self.mask(queries, keys, on).logical_and(mask)),
        }
    }
}

/// What [`Pattern::visible`] makes; the owner behind a [`Visible`].
#[derive(Debug)]
pub enum Seen {
    /// Every key.
    All,
    /// Keys at its own place and before.
    Causal,
    /// As the mask says, boolean or added to the score.
    Mask(Tensor),
}

impl Seen {
    /// What attention takes.
    pub fn borrow(&self) -> Visible<'_> {
        match self {
            Self::All => Visible::All,
            Self::Causal => Visible::Causal,
            Self::Mask(mask) => Visible::Mask(mask),
        }
    }

    /// With `bias` `[1, h, t, s]` added to the scores.
    ///
    /// Keys that are not seen get the least number, as in transformers' T5, rather than minus
    /// infinity: a query that sees none then gets their mean.
    pub fn with_bias(&self, bias: &Tensor) -> Self {
        let [.., t, s] = bias.size()[..] else { return Self::Mask(bias.shallow_clone()) };
        let hidden = match self {
            Self::All => return Self::Mask(bias.shallow_clone()),
            Self::Causal => {
                Pattern { causal: true, window: None }.mask(t, s, bias.device()).logical_not()
            }
            Self::Mask(mask) => mask.logical_not(),
        };
        Self::Mask(bias.masked_fill(&hidden, least(bias.kind())))
    }
}

/// The least finite number.
fn least(kind: Kind) -> f64 {
    match kind {
        Kind::Double => f64::MIN,
        Kind::Half => -65504.0,
        Kind::BFloat16 => f64::from(f32::from_bits(0xff7f_0000)),
        _ => f64::from(f32::MIN),
    }
}

/// Refuses a mask that is not boolean or does not broadcast to `full`, `[b, h, t, s]`.
pub(crate) fn check(name: &'static str, mask: &Tensor, full: [i64; 4]) -> Result<()> {
    let size = mask.size();
    let fits =
        size.len() == 4 && size.iter().zip(full).all(|(&found, want)| found == 1 || found == want);
    if mask.kind() == Kind::Bool && fits {
        return Ok(());
    }
    let found = format!("{:?} of shape {size:?}", mask.kind());
    Err(Error::Input { name, found, expected: format!("Bool that broadcasts to {full:?}") })
}
