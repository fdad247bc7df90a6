//! Checks of what a model is given to read.

use bert4rs_tensor_core::{Kind, Tensor};

use crate::error::{Error, Result};

/// The error for a tensor that is not as expected.
pub(crate) fn refuse(name: &'static str, tensor: &Tensor, expected: impl Into<String>) -> Error {
    let found = format!("{:?} of shape {:?}", tensor.kind(), tensor.size());
    Error::Input { name, found, expected: expected.into() }
}

/// `[batch, time]` of a tensor of ids.
pub(crate) fn batch_and_time(name: &'static str, ids: &Tensor) -> Result<(i64, i64)> {
    match ids.size()[..] {
        [b, t] if ids.kind() == Kind::Int64 && b > 0 && t > 0 => Ok((b, t)),
        _ => Err(refuse(name, ids, "Int64 of shape [batch, time]")),
    }
}

/// Refuses `ids` that are not I64 of one of the shapes.
pub(crate) fn check_ids(name: &'static str, ids: &Tensor, shapes: &[[i64; 2]]) -> Result<()> {
    if ids.kind() == Kind::Int64 && shapes.iter().any(|shape| ids.size() == *shape) {
        return Ok(());
    }
    let [b, t] = shapes.first().copied().unwrap_or_default();
    Err(refuse(name, ids, format!("Int64 of shape [{b}, {t}]")))
}

/// Refuses more positions than a table has.
pub(crate) fn check_length(
    name: &'static str,
    ids: &Tensor,
    time: i64,
    (key, longest): (&str, i64),
) -> Result<()> {
    if time <= longest {
        return Ok(());
    }
    Err(refuse(name, ids, format!("at most {longest} tokens ({key})")))
}

/// Refuses values outside `0..entries`. Waits for the device.
pub(crate) fn check_range(
    name: &'static str,
    ids: &Tensor,
    (key, entries): (&str, i64),
) -> Result<()> {
    let (low, high) = (ids.min().int64_value(&[]), ids.max().int64_value(&[]));
    if low >= 0 && high < entries {
        return Ok(());
    }
    let found = format!("values from {low} to {high}");
    let expected = format!("0 to {} ({key} = {entries})", entries - 1);
    Err(Error::Input { name, found, expected })
}

/// Refuses positions and labels of masked tokens that don't belong together.
pub(crate) fn check_masked(positions_m: &Tensor, labels_m: &Tensor) -> Result<()> {
    let (positions, labels) = (positions_m.size(), labels_m.size());
    let fits = positions.len() == 1 && positions == labels && positions[0] > 0;
    if fits && positions_m.kind() == Kind::Int64 && labels_m.kind() == Kind::Int64 {
        return Ok(());
    }
    let (kinds, name) = ((positions_m.kind(), labels_m.kind()), "masked positions and labels");
    let found = format!("{:?} of {positions:?} and {:?} of {labels:?}", kinds.0, kinds.1);
    let expected = "both Int64 of one shape [masked tokens], at least one".into();
    Err(Error::Input { name, found, expected })
}
