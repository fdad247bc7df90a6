//! Attention masks: boolean, true where a query may see a key.
//!
//! Axes: `b` batch, `t` queries, `s` keys. All masks broadcast to `[b, heads, t, s]` and can be
//! combined with `logical_and`. Every query must see at least one key.

use bert4rs_tensor_core::Tensor;

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
