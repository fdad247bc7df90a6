//! Attention masks: boolean, true where a query may see a key, or the documents of tokens.
//!
//! Axes: `b` batch, `h` heads, `t` queries, `s` keys. Boolean masks broadcast to `[b, h, t, s]`
//! and can be combined with `logical_and`. Where a mask may stand, the documents of keys may
//! too, I64 `[b, s]`: a token sees its own document alone, and what it can't see need not be
//! computed. A query that sees no key gets 0 from attention.

use std::cell::OnceCell;

use bert4rs_kernels::attention as kernel;
use bert4rs_tensor_core::attention::MaskView;
use bert4rs_tensor_core::varlen::{AttentionWindow, Packing};
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
    same_documents(document_bt, document_bt)
}

/// `[b, 1, t, s]`: true where a query's document is the key's.
fn same_documents(queries_bt: &Tensor, keys_bs: &Tensor) -> Tensor {
    queries_bt.unsqueeze(2).eq_tensor(&keys_bs.unsqueeze(1)).unsqueeze(1)
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

    /// Joins the pattern with `mask`, boolean or the documents of all keys, once for all layers.
    /// Queries are the last `queries` of `keys` tokens.
    ///
    /// Both may hide every key from a query, as from padding at the left of a causal model, for
    /// which attention gives 0, as in transformers with `sdpa`, its default.
    pub fn visible(
        self,
        queries: i64,
        keys: i64,
        mask: Option<&Tensor>,
        on: Device,
    ) -> AttentionMask {
        let mask = mask.map(|mask| match mask.kind() {
            Kind::Bool => Mask::Boolean(mask.shallow_clone()),
            _ => Mask::Documents {
                of_queries: mask.narrow(1, keys - queries, queries),
                of_keys: mask.shallow_clone(),
            },
        });
        AttentionMask {
            pattern: self,
            queries,
            keys,
            device: on,
            mask,
            is_self: queries == keys,
            bias: None,
            whole: OnceCell::new(),
            packing: OnceCell::new(),
        }
    }
}

/// What a mask says.
#[derive(Debug)]
enum Mask {
    Boolean(Tensor),
    Documents { of_queries: Tensor, of_keys: Tensor },
}

/// Which keys queries see, and what is added to the scores, for all layers.
#[derive(Debug)]
pub struct AttentionMask {
    pattern: Pattern,
    queries: i64,
    keys: i64,
    device: Device,
    mask: Option<Mask>,
    /// Whether queries and keys are of the same tokens.
    is_self: bool,
    /// By distance, `[h, t + s - 1]`.
    bias: Option<Tensor>,
    /// All of it in the form that libtorch's kernels take, made when one asks.
    whole: OnceCell<Whole>,
    /// Where documents start and end, if that says all but the pattern; made when one asks.
    packing: OnceCell<Option<Packing>>,
}

/// A clone shares the tensors.
impl Clone for AttentionMask {
    fn clone(&self) -> Self {
        let share = |tensor: &Tensor| tensor.shallow_clone();
        let mask = self.mask.as_ref().map(|mask| match mask {
            Mask::Boolean(mask) => Mask::Boolean(share(mask)),
            Mask::Documents { of_queries, of_keys } => {
                Mask::Documents { of_queries: share(of_queries), of_keys: share(of_keys) }
            }
        });
        let bias = self.bias.as_ref().map(share);
        Self { mask, bias, whole: OnceCell::new(), packing: OnceCell::new(), ..*self }
    }
}

/// The form of [`AttentionMask`] that libtorch's kernels take.
#[derive(Debug)]
enum Whole {
    All,
    Causal,
    Mask(Tensor),
}

impl AttentionMask {
    /// From queries to keys of another sequence: all of them, or what `mask` says, boolean or the
    /// documents of keys, I64 `[b, s]`, with those of queries, `[b, t]`.
    ///
    /// # Errors
    /// Documents of keys without those of queries.
    pub(crate) fn across(
        [queries, keys]: [i64; 2],
        mask: Option<&Tensor>,
        of_queries: Option<&Tensor>,
        on: Device,
    ) -> Result<Self> {
        let mut seen = Pattern::ALL.visible(queries, keys, None, on);
        seen.is_self = false;
        seen.mask = match mask {
            None => None,
            Some(mask) if mask.kind() == Kind::Bool => Some(Mask::Boolean(mask.shallow_clone())),
            Some(of_keys) => match of_queries {
                Some(of_queries) if of_queries.kind() == Kind::Int64 => {
                    let of_queries = of_queries.narrow(1, of_queries.size()[1] - queries, queries);
                    Some(Mask::Documents { of_queries, of_keys: of_keys.shallow_clone() })
                }
                _ => {
                    let expected = "documents of the decoder's tokens too, or a Bool mask";
                    return Err(crate::input::refuse("cross_mask", of_keys, expected));
                }
            },
        };
        Ok(seen)
    }

    /// With a bias by distance, `[h, t + s - 1]`, added to the scores: column `key - query + t - 1`
    /// for a key and a query, both counted from their firsts.
    pub(crate) fn with_bias(self, by_distance_hr: Tensor) -> Self {
        Self { bias: Some(by_distance_hr), whole: OnceCell::new(), ..self }
    }

    /// The bias by distance.
    pub(crate) fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Which keys are seen by their places and documents alone; absent with a boolean mask.
    pub(crate) fn by_place(&self) -> Option<kernel::Seen<'_>> {
        let documents = match &self.mask {
            None => None,
            Some(Mask::Documents { of_queries, of_keys }) => Some((of_queries, of_keys)),
            Some(Mask::Boolean(_)) => return None,
        };
        Some(kernel::Seen { documents, causal: self.pattern.causal, window: self.pattern.window })
    }

    /// Where documents start and end, and who sees whom within: of a sequence that sees itself,
    /// without a bias, each document's tokens together.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn packing(&self) -> Result<Option<(&Packing, AttentionWindow)>> {
        let documents = match &self.mask {
            Some(Mask::Documents { of_keys, .. }) if self.bias.is_none() && self.is_self => of_keys,
            _ => return Ok(None),
        };
        if self.packing.get().is_none() {
            // Only one thread has it: nothing can be there by now.
            let _ = self.packing.set(Packing::of(documents)?);
        }
        let Pattern { causal, window } = self.pattern;
        let packing = self.packing.get().and_then(Option::as_ref);
        Ok(packing.map(|packing| (packing, AttentionWindow { causal, window })))
    }

    /// What libtorch's kernels take: a mask where there is one, with the bias added.
    pub fn borrow(&self) -> MaskView<'_> {
        match self.whole.get_or_init(|| self.make_whole()) {
            Whole::All => MaskView::All,
            Whole::Causal => MaskView::Causal,
            Whole::Mask(mask) => MaskView::Mask(mask),
        }
    }

    fn make_whole(&self) -> Whole {
        let whole = self.without_bias();
        let Some(bias) = &self.bias else { return whole };
        let bias = bias.unfold(1, self.keys, 1).flip([1]).unsqueeze(0);
        let seen = match whole {
            Whole::All => return Whole::Mask(bias),
            Whole::Causal => self.pattern.mask(self.queries, self.keys, self.device),
            Whole::Mask(mask) => mask,
        };
        // Keys that are not seen get the least number, as in transformers' T5, rather than minus
        // infinity: a query that sees none then gets their mean.
        Whole::Mask(bias.masked_fill(&seen.logical_not(), least(bias.kind())))
    }

    fn without_bias(&self) -> Whole {
        let (pattern, queries, keys) = (self.pattern, self.queries, self.keys);
        let place = || pattern.mask(queries, keys, self.device);
        let mask = self.mask.as_ref().map(|mask| match mask {
            Mask::Boolean(mask) => mask.shallow_clone(),
            Mask::Documents { of_queries, of_keys } => same_documents(of_queries, of_keys),
        });
        match (pattern.causal || pattern.window.is_some(), mask) {
            (false, None) => Whole::All,
            (false, Some(mask)) => Whole::Mask(mask),
            (true, None) if pattern.window.is_none() && queries == keys => Whole::Causal,
            // A lone last query sees all that came before.
            (true, None) if pattern.window.is_none() && queries == 1 => Whole::All,
            (true, None) => Whole::Mask(place()),
            (true, Some(mask)) => Whole::Mask(place().logical_and(&mask)),
        }
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

/// Refuses what is neither a boolean mask that broadcasts to `full`, `[b, h, t, s]`, nor the
/// documents of all keys, I64 `[b, s]`.
pub(crate) fn check(name: &'static str, mask: &Tensor, full: [i64; 4]) -> Result<()> {
    let size = mask.size();
    let fits =
        size.len() == 4 && size.iter().zip(full).all(|(&found, want)| found == 1 || found == want);
    let documents = [full[0], full[3]];
    if mask.kind() == Kind::Bool && fits || mask.kind() == Kind::Int64 && size == documents {
        return Ok(());
    }
    let found = format!("{:?} of shape {size:?}", mask.kind());
    let expected = format!("Bool that broadcasts to {full:?}, or documents, Int64 {documents:?}");
    Err(Error::Input { name, found, expected })
}
