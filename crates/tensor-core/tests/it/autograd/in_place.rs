//! In-place modification is noticed: an error, not a wrong gradient.

use bert4rs_tensor_core::error::catch_torch_error;
use bert4rs_tensor_core::{Tensor, no_grad};

use super::{call, gradient, square};
use crate::support::{leaf, values};

/// Asserts that the gradient of `y` is refused with `words`.
fn refused(y: &Tensor, x: &Tensor, words: &str) {
    let error = gradient(y, x).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

/// `eˣ`, with its output saved.
fn exp(x: &Tensor) -> Tensor {
    let outputs = call(
        &[x],
        |inputs, ctx| {
            let y = inputs[0].exp();
            ctx.save(&y);
            Ok(vec![y])
        },
        |ctx, grads| Ok(vec![grads[0].as_ref().map(|grad| grad * &ctx.saved()[0])]),
    );
    outputs.unwrap().remove(0)
}

#[test]
fn saved_input() {
    let x = leaf(&[1.0, 2.0]);
    let y = square(&x).unwrap();
    let _ = no_grad(|| x.shallow_clone().g_add_scalar_(1.0));
    refused(&y, &x, "modified by an inplace operation");
}

#[test]
fn saved_input_through_an_output_that_is_it() {
    let x = leaf(&[1.0, 2.0]);
    let y = square(&x).unwrap();
    let same = call(
        &[&x],
        |inputs, _| Ok(vec![inputs[0].shallow_clone()]),
        |_, grads| Ok(vec![grads[0].as_ref().map(Tensor::shallow_clone)]),
    )
    .unwrap()
    .remove(0);
    let mut other = same.detach();
    let _ = other.g_add_scalar_(1.0);
    refused(&y, &x, "modified by an inplace operation");
}

#[test]
fn saved_output() {
    let x = leaf(&[1.0, 2.0]);
    let y = exp(&x);
    let mut modified = y.shallow_clone();
    let _ = modified.g_mul_scalar_(2.0);
    refused(&modified, &x, "modified by an inplace operation");
}

#[test]
fn saved_buffer_that_outputs_share() {
    let x = leaf(&[1.0, 2.0]);
    let mut halves = call(
        &[&x],
        |inputs, ctx| {
            let both = Tensor::cat(&[inputs[0].exp(), -inputs[0].exp()], 0);
            ctx.save(&both);
            Ok(both.chunk(2, 0))
        },
        |ctx, grads| {
            let [up, down] = grads else { panic!("two outputs") };
            let both = ctx.saved()[0].chunk(2, 0);
            Ok(vec![Some(up.as_ref().unwrap() * &both[0] + down.as_ref().unwrap() * &both[1])])
        },
    )
    .unwrap();
    let _ = halves[0].g_mul_scalar_(2.0);
    let sum = &halves[0] + &halves[1];
    refused(&sum, &x, "modified by an inplace operation");
}

#[test]
fn an_output_that_is_an_input_cannot_be_modified() {
    let views: [fn(&Tensor) -> Tensor; 3] = [Tensor::shallow_clone, Tensor::detach, |x| x.view(-1)];
    for view in views {
        let x = leaf(&[1.0, 2.0]);
        let mut y = call(
            &[&x],
            move |inputs, _| Ok(vec![view(inputs[0])]),
            |_, grads| Ok(vec![grads[0].as_ref().map(Tensor::shallow_clone)]),
        )
        .unwrap()
        .remove(0);
        let added = catch_torch_error("add", || y.g_add_scalar_(1.0));
        let error = added.unwrap_err().to_string();
        assert!(error.contains("is a view and is being modified inplace"), "{error}");
        assert_eq!(values(&x), [1.0, 2.0]);
    }
}

#[test]
fn other_outputs_can_be_modified() {
    let x = leaf(&[1.0, 2.0]);
    let mut y = square(&x).unwrap();
    let _ = y.g_mul_scalar_(3.0);
    assert_eq!(values(&gradient(&y, &x).unwrap()), [6.0, 12.0]);
}
