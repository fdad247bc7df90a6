//! Attention masks: boolean, true where a query may attend to a key, or the documents of tokens.
//!
//! Axes: `b` batch, `h` heads, `t` queries, `s` keys. Boolean masks broadcast to `[b, h, t, s]`
//! and can be combined with `logical_and`. Where a mask may stand, the documents of keys may
//! too, I64 `[b, s]`: a token attends to its own document alone, and kernels can skip the rest. A
//! query that may attend to no key gets 0 from attention.

use std::cell::OnceCell;

use bert4rs_kernels::attention as kernel;
use bert4rs_tensor_core::attention::{self, MaskView};
use bert4rs_tensor_core::varlen::{AttentionWindow, VarlenLayout};
use bert4rs_tensor_core::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// `[b, 1, 1, s]` from `keep_bs`, which is nonzero for real tokens and 0 for padding: no query
/// attends to padding.
pub fn padding(keep_bs: &Tensor) -> Tensor {
    keep_bs.ne(0).unsqueeze(1).unsqueeze(1)
}

/// `[b, t]`, true for real tokens, from a mask as [`padding`] makes it.
///
/// # Errors
/// A mask that says more than what is padding.
pub(crate) fn real_tokens(mask: &Tensor, [b, t]: [i64; 2]) -> Result<Tensor> {
    if mask.kind() == Kind::Bool && mask.size() == [b, 1, 1, t] {
        return Ok(mask.reshape([b, t]));
    }
    Err(crate::input::refuse("mask", mask, format!("Bool of shape [{b}, 1, 1, {t}]")))
}

/// `[b, 1, t, t]` from the document that each token of a packed sequence belongs to: a token
/// attends to its own document alone. Padding that has a number of its own attends to padding.
pub fn documents(document_bt: &Tensor) -> Tensor {
    same_documents(document_bt, document_bt)
}

/// `[b, 1, t, s]`: true where a query's document is the key's.
fn same_documents(queries_bt: &Tensor, keys_bs: &Tensor) -> Tensor {
    queries_bt.unsqueeze(2).eq_tensor(&keys_bs.unsqueeze(1)).unsqueeze(1)
}

/// `[1, 1, t, t]`: a token attends to itself and what came before.
pub fn causal(time: i64, device: Device) -> Tensor {
    by_position(AttentionWindow { causal: true, window: None }, [time, time], device)
}

/// `[1, 1, t, s]` of queries that are the last of the keys' positions.
fn by_position(window: AttentionWindow, [queries, keys]: [i64; 2], device: Device) -> Tensor {
    let options = (Kind::Int64, device);
    let query_t = Tensor::arange_start(keys - queries, keys, options).unsqueeze(1);
    let key_s = Tensor::arange(keys, options).unsqueeze(0);
    let back_ts = query_t - key_s;
    let mask_ts = match (window.causal, window.window) {
        (true, Some(window)) => back_ts.ge(0).logical_and(&back_ts.lt(window)),
        (true, None) => back_ts.ge(0),
        (false, Some(window)) => back_ts.abs().lt(window),
        (false, None) => back_ts.ones_like().to_kind(Kind::Bool),
    };
    mask_ts.unsqueeze(0).unsqueeze(0)
}

/// What a mask says.
#[derive(Debug)]
enum Mask {
    Boolean(Tensor),
    Documents { of_queries: Tensor, of_keys: Tensor },
}

/// Which keys each query may attend to, and what is added to the scores, made once for all layers.
#[derive(Debug)]
pub struct AttentionMask {
    window: AttentionWindow,
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
    /// Where documents start and end, if that says all but the window; made when one asks.
    packing: OnceCell<Option<VarlenLayout>>,
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

impl Whole {
    /// With a mask of `kind` that is added, if one is given.
    fn added(self, kind: Option<Kind>) -> Self {
        match (self, kind) {
            (Self::Mask(mask), Some(kind)) => Self::Mask(attention::added(&mask, kind)),
            (whole, _) => whole,
        }
    }
}

impl AttentionMask {
    /// Joins the window with `mask`, boolean or the documents of all keys. Queries are the last of
    /// the keys' tokens.
    ///
    /// Both may hide every key from a query, as from padding at the left of a causal model, for
    /// which attention gives 0, as in transformers with `sdpa`, its default.
    pub fn new(
        window: AttentionWindow,
        [queries, keys]: [i64; 2],
        mask: Option<&Tensor>,
        on: Device,
    ) -> Self {
        let mask = mask.map(|mask| match mask.kind() {
            Kind::Bool => Mask::Boolean(mask.shallow_clone()),
            _ => Mask::Documents {
                of_queries: mask.narrow(1, keys - queries, queries),
                of_keys: mask.shallow_clone(),
            },
        });
        Self {
            window,
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
        let mut across = Self::new(AttentionWindow::ALL, [queries, keys], None, on);
        across.is_self = false;
        across.mask = match mask {
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
        Ok(across)
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

    /// The mask as positions and documents, which our own kernel takes; absent with a boolean mask.
    pub(crate) fn by_position(&self) -> Option<kernel::VisibleKeys<'_>> {
        let documents = match &self.mask {
            None => None,
            Some(Mask::Documents { of_queries, of_keys }) => Some((of_queries, of_keys)),
            Some(Mask::Boolean(_)) => return None,
        };
        Some(kernel::VisibleKeys {
            documents,
            causal: self.window.causal,
            window: self.window.window,
        })
    }

    /// Where documents start and end, and the window within them. Absent for cross-attention, with
    /// a bias, and where a document's tokens do not stand together.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn packing(&self) -> Result<Option<(&VarlenLayout, AttentionWindow)>> {
        let documents = match &self.mask {
            Some(Mask::Documents { of_keys, .. }) if self.bias.is_none() && self.is_self => of_keys,
            _ => return Ok(None),
        };
        if self.packing.get().is_none() {
            // Only one thread has it: nothing can be there by now.
            let _ = self.packing.set(VarlenLayout::of(documents)?);
        }
        let packing = self.packing.get().and_then(Option::as_ref);
        Ok(packing.map(|packing| (packing, self.window)))
    }

    /// What libtorch's kernels take: a mask where there is one, with the bias added.
    /// On a GPU a boolean mask becomes one that is added, of `kind`, once for all layers:
    /// libtorch's kernels take no other, and would make one in each layer, forward and backward.
    pub fn borrow(&self, kind: Kind) -> MaskView<'_> {
        let added = (self.device != Device::Cpu).then_some(kind);
        match self.whole.get_or_init(|| self.make_whole().added(added)) {
            Whole::All => MaskView::All,
            Whole::Causal => MaskView::Causal,
            Whole::Mask(mask) => MaskView::Mask(mask),
        }
    }

    fn make_whole(&self) -> Whole {
        let whole = self.without_bias();
        let Some(bias) = &self.bias else { return whole };
        let bias = bias.unfold(1, self.keys, 1).flip([1]).unsqueeze(0);
        let mask = match whole {
            Whole::All => return Whole::Mask(bias),
            Whole::Causal => self.by_window(),
            Whole::Mask(mask) => mask,
        };
        // Hidden keys get the least finite number, as in transformers' T5, rather than minus
        // infinity: a query from which all are hidden then gets their mean.
        Whole::Mask(bias.masked_fill(&mask.logical_not(), least(bias.kind())))
    }

    fn by_window(&self) -> Tensor {
        by_position(self.window, [self.queries, self.keys], self.device)
    }

    fn without_bias(&self) -> Whole {
        let AttentionWindow { causal, window } = self.window;
        let (queries, keys) = (self.queries, self.keys);
        let mask = self.mask.as_ref().map(|mask| match mask {
            Mask::Boolean(mask) => mask.shallow_clone(),
            Mask::Documents { of_queries, of_keys } => same_documents(of_queries, of_keys),
        });
        match (causal || window.is_some(), mask) {
            (false, None) => Whole::All,
            (false, Some(mask)) => Whole::Mask(mask),
            (true, None) if window.is_none() && queries == keys => Whole::Causal,
            // A lone last query attends to all that came before.
            (true, None) if window.is_none() && queries == 1 => Whole::All,
            (true, None) => Whole::Mask(self.by_window()),
            (true, Some(mask)) => Whole::Mask(self.by_window().logical_and(&mask)),
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

#[cfg(test)]
mod tests {
    use bert4rs_tensor_core::attention::{
        AttentionImplementation, AttentionOptions, Scores, attend,
    };

    use super::*;

    #[test]
    fn a_mask_that_is_added_hides_what_a_boolean_one_does() {
        let documents = Tensor::from_slice(&[0i64, 0, 1, 1, 1, 2]).view([1, 6]);
        let window = AttentionWindow { causal: true, window: None };
        let mask = AttentionMask::new(window, [6, 6], Some(&documents), Device::Cpu);
        let x = Tensor::randn([1, 2, 6, 8], (Kind::Float, Device::Cpu));
        let attended = |whole: &Whole| {
            let Whole::Mask(mask) = whole else { panic!("{whole:?}") };
            let scores = Scores { visible: MaskView::Mask(mask), scale: None };
            let implementation = AttentionImplementation::Math;
            let options = AttentionOptions { implementation, dropout: 0.0 };
            (mask.kind(), attend(&x, &x, &x, &scores, &options).unwrap())
        };
        let (boolean, expected) = attended(&mask.make_whole().added(None));
        let (added, found) = attended(&mask.make_whole().added(Some(Kind::Float)));
        assert_eq!((boolean, added), (Kind::Bool, Kind::Float));
        assert!(found.equal(&expected));
        assert!(matches!(Whole::Causal.added(Some(Kind::Float)), Whole::Causal));
    }
}
