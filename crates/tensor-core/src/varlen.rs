//! Attention within the documents of packed rows, without a mask: what a token does not see is
//! not computed.
//!
//! Axes: `b` batch, `t` places of a row, `n` all tokens (`b · t`), `h` heads, `g` heads of keys
//! and values (a divisor of `h`), `e` features of a head.

#![expect(unsafe_code, reason = "the border to C++")]

use tch::{Device, Kind, Tensor};

use crate::attention::{self, AttentionImplementation, AttentionOptions, MaskView, Scores};
use crate::error::{Context, Error, Result};
use crate::shim;

const OP: &str = "attention within documents";

/// Where the documents of packed rows start and end, row after row.
#[derive(Debug)]
pub struct VarlenLayout {
    /// I32, one more than there are documents: the first token of each, then `n`.
    bounds: Tensor,
    /// Tokens of the longest document.
    longest: i64,
}

impl VarlenLayout {
    /// From each token's document, I64 `[b, t]`; documents end with their row, whatever the
    /// numbers. `None` where a document's tokens do not stand together in a row.
    ///
    /// The host reads three numbers, once for all layers that share this: how many documents there
    /// are is the shape of `bounds`, and no tensor can have a shape that only the device knows. A
    /// CUDA graph therefore can't record it. It would need as many bounds in each step, those at
    /// the end `n` (empty documents), a count that the loader knows before the batch is copied,
    /// and the longest document replaced by `t`. Room for `n` documents is no way out: the
    /// backward pass holds `128 · h · e` floats for each.
    ///
    /// # Errors
    /// Another dtype or shape.
    pub fn of(document_bt: &Tensor) -> Result<Option<Self>> {
        let size = document_bt.size();
        let (b, t) = match (document_bt.kind(), &size[..]) {
            (Kind::Int64, &[b, t]) if b * t > 0 => (b, t),
            _ => {
                return Err(Error::Shape {
                    op: OP,
                    tensor: "document numbers",
                    found: size,
                    expected: "[batch, time] of Int64, with at least one token".into(),
                });
            }
        };
        let (n, place) = (b * t, (Kind::Int64, document_bt.device()));
        let start_n = changes(document_bt).flatten(0, -1);
        let document_n = start_n.f_cumsum(0, Kind::Int64).during(OP)? - 1;
        // Of fixed shape: room for a document a token, the rest ends where all do.
        let room = Tensor::f_full([n + 1], n, place).during(OP)?.f_internal_scatter_reduce(
            0,
            &document_n,
            &Tensor::arange(n, place),
            "amin",
            true,
        );
        let room = room.during(OP)?;
        let longest = (room.narrow(0, 1, n) - room.narrow(0, 0, n)).max();
        let (sorted_bt, _) = document_bt.f_sort(1, false).during(OP)?;
        let count = |starts: Tensor| starts.sum(Kind::Int64);
        let numbers = [count(start_n), count(changes(&sorted_bt)), longest];
        let numbers = Tensor::f_stack(&numbers, 0).during(OP)?.to_device(Device::Cpu);
        let [runs, documents, longest] = [0, 1, 2].map(|index| numbers.int64_value(&[index]));
        let bounds = room.narrow(0, 0, runs + 1).to_kind(Kind::Int);
        Ok((runs == documents).then_some(Self { bounds, longest }))
    }

    /// I32, one more than there are documents: the first token of each, then the number of tokens.
    pub fn bounds(&self) -> &Tensor {
        &self.bounds
    }

    /// Tokens of the longest document.
    pub fn longest(&self) -> i64 {
        self.longest
    }
}

/// `[b, t]`: true where a row has another number than one place before, and at its first.
fn changes(number_bt: &Tensor) -> Tensor {
    let t = number_bt.size()[1];
    let (before, after) = (number_bt.narrow(1, 0, t - 1), number_bt.narrow(1, 1, t - 1));
    let first = number_bt.narrow(1, 0, 1).ones_like().to_kind(Kind::Bool);
    Tensor::cat(&[first, after.ne_tensor(&before)], 1)
}

/// Which keys a query may attend to, by their positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionWindow {
    /// Not those that come later.
    pub causal: bool,
    /// Not those at a distance of this many positions or more.
    pub window: Option<i64>,
}

impl AttentionWindow {
    /// Every key.
    pub const ALL: Self = Self { causal: false, window: None };

    /// The most places back and ahead, -1 where there is no limit, as flash attention takes them.
    fn places(self) -> (i64, i64) {
        let within = self.window.map_or(-1, |window| window - 1);
        (within, if self.causal { 0 } else { within })
    }

    /// `[t, t]`, true where row's token sees column's.
    fn mask(self, t: i64, device: Device) -> Tensor {
        let place_t = Tensor::arange(t, (Kind::Int64, device));
        let ahead_tt = place_t.unsqueeze(0) - place_t.unsqueeze(1);
        let (back, ahead) = self.places();
        let limit = |places: i64| if places < 0 { t } else { places };
        ahead_tt.ge(-limit(back)).logical_and(&ahead_tt.le(limit(ahead)))
    }
}

/// Whether [`flash`] takes such inputs: on a CUDA device, BF16 or FP16, at most 256 features a
/// head and a multiple of 8.
pub fn supports(q_bhte: &Tensor) -> bool {
    let features = q_bhte.size().last().copied().unwrap_or(0);
    matches!(q_bhte.device(), Device::Cuda(_))
        && matches!(q_bhte.kind(), Kind::BFloat16 | Kind::Half)
        && (8..=256).contains(&features)
        && features % 8 == 0
}

/// Queries, keys and values of rows, `[b, h, t, e]` and `[b, g, t, e]` twice.
pub type Rows<'a> = [&'a Tensor; 3];

/// `softmax(q kᵀ · scale) v` within documents, `[b, h, t, e]`, by libtorch's flash attention.
///
/// Differentiable: libtorch's derivatives.yaml has `_flash_attention_backward` as the derivative
/// of `_flash_attention_forward` by queries, keys and values (`output_differentiability: [True,
/// False, False, False, False]`), with the same bounds and windows. Source: arXiv 2307.08691.
///
/// # Errors
/// Inputs that it does not take (see [`supports`]), a GPU older than Ampere, and what libtorch
/// throws.
pub fn flash(
    rows: Rows,
    packing: &VarlenLayout,
    reach: AttentionWindow,
    scale: f64,
) -> Result<Tensor> {
    if !supports(rows[0]) {
        return Err(Error::Unsupported {
            what: "flash attention within documents".into(),
            reason: format!(
                "it is for CUDA devices, BF16 or FP16, and at most 256 features a head, a \
                 multiple of 8, not {:?}, {:?}, {:?}; use a mask of documents",
                rows[0].device(),
                rows[0].kind(),
                rows[0].size()
            ),
        });
    }
    by_tokens(rows, |[q_nhe, k_nge, v_nge]| {
        let (back, ahead) = reach.places();
        let mut result = std::ptr::null_mut();
        let raw = shim::borrow_raw;
        // SAFETY: the tensors live through the call, which writes a new one or returns a message.
        unsafe {
            let message = shim::b4_flash_varlen(
                raw(q_nhe),
                raw(k_nge),
                raw(v_nge),
                raw(&packing.bounds),
                packing.longest,
                reach.causal,
                scale,
                back,
                ahead,
                &mut result,
            );
            shim::check(OP, message)?;
            shim::take_tensor(result)
        }
        .ok_or_else(|| Error::Torch { op: OP.into(), message: "no result".into() })
    })
}

/// The same, document by document by the plain formula, anywhere: the reference.
///
/// # Errors
/// As [`attention::attend`].
pub fn plain(
    rows: Rows,
    packing: &VarlenLayout,
    reach: AttentionWindow,
    scale: f64,
) -> Result<Tensor> {
    let bounds = packing.bounds.to_kind(Kind::Int64).to_device(Device::Cpu);
    let bounds: Vec<i64> = (&bounds).try_into().during(OP)?;
    let options = AttentionOptions { implementation: AttentionImplementation::Plain, dropout: 0.0 };
    by_tokens(rows, |tokens| {
        let documents = bounds.windows(2).map(|ends| {
            let length = ends[1] - ends[0];
            let of = |x_nhe: &Tensor| x_nhe.narrow(0, ends[0], length).transpose(0, 1).unsqueeze(0);
            let mask = reach.mask(length, tokens[0].device());
            let scores = Scores { visible: MaskView::Mask(&mask), scale: Some(scale) };
            let [q, k, v] = tokens.map(of);
            Ok(attention::attend(&q, &k, &v, &scores, &options)?.squeeze_dim(0).transpose(0, 1))
        });
        Tensor::f_cat(&documents.collect::<Result<Vec<_>>>()?, 0).during(OP)
    })
}

/// `body` on all tokens, `[n, h, e]`, and back. Where heads are views of `[b, t, h · e]`, as
/// after a linear map, nothing is copied.
fn by_tokens(rows: Rows, body: impl FnOnce([&Tensor; 3]) -> Result<Tensor>) -> Result<Tensor> {
    let size = rows[0].size();
    let &[b, _, t, _] = &size[..] else {
        let expected = "[batch, heads, time, features]".into();
        return Err(Error::Shape { op: OP, tensor: "queries", found: size, expected });
    };
    let [q_nhe, k_nge, v_nge] = rows.map(|x_bhte| x_bhte.transpose(1, 2).flatten(0, 1));
    let y_nhe = body([&q_nhe, &k_nge, &v_nge])?;
    Ok(y_nhe.f_unflatten(0, [b, t]).during(OP)?.transpose(1, 2))
}
