//! Texts of like length together, so that little is padding.
//!
//! Axes: `b` batch, `t` time.

use bert4rs_tensor_core::Tensor;

use crate::error::{Error, Result};

/// Refuses what makes no batch.
pub(super) fn check(ids: &[Vec<u32>], batch_size: usize) -> Result<()> {
    let refuse = |name, found: &str, expected: &str| {
        Err(Error::Input { name, found: found.into(), expected: expected.into() })
    };
    if batch_size == 0 {
        return refuse("batch size", "0", "at least 1");
    }
    match ids.iter().position(Vec::is_empty) {
        _ if ids.is_empty() => refuse("texts", "none", "at least one"),
        Some(row) => refuse("texts", &format!("no token in text {row}"), "at least one in each"),
        None => Ok(()),
    }
}

/// The texts, shortest first.
pub(super) fn by_length(ids: &[Vec<u32>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|&row| ids[row].len());
    order
}

/// The tokens of `rows`, I64 `[b, t]`, filled up at the right, and which of them are real.
pub(super) fn pad(ids: &[Vec<u32>], rows: &[usize], pad: i64) -> [Tensor; 2] {
    let time = rows.iter().map(|&row| ids[row].len()).max().unwrap_or(0);
    let (mut tokens, mut keep) = (Vec::new(), Vec::new());
    for &row in rows {
        let real = ids[row].len();
        tokens.extend(ids[row].iter().map(|&id| i64::from(id)));
        tokens.extend(std::iter::repeat_n(pad, time - real));
        keep.extend((0..time).map(|position| position < real));
    }
    let shape = [rows.len() as i64, time as i64];
    [Tensor::from_slice(&tokens).view(shape), Tensor::from_slice(&keep).view(shape)]
}
