//! Failures inside functions come back as errors, and leave everything usable.

use bert4rs_tensor_core::{Error, Kind, Result, Tensor, no_grad};

use super::{call, gradient, gradient_keeping, square};
use crate::support::{leaf, values};

/// A function of `x` whose backward is `backward`.
fn with_backward<B>(x: &Tensor, backward: B) -> Tensor
where
    B: Fn() -> Result<Vec<Option<Tensor>>> + Send + 'static,
{
    call(&[x], |inputs, _| Ok(vec![inputs[0] * 2.0]), move |_, _| backward()).unwrap().remove(0)
}

fn broken() -> Error {
    Error::Unsupported { what: "this".into(), reason: "it is broken".into() }
}

/// Asserts that the gradient fails with `words`, and that gradients still work afterwards.
fn fails(y: &Tensor, x: &Tensor, words: &str) {
    for _ in 0..2 {
        let error = gradient(y, x).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let y = square(x).unwrap();
    assert_eq!(values(&gradient(&y, x).unwrap()), values(&(x * 2.0)));
}

#[test]
fn forward_error_is_returned_as_it_is() {
    let x = leaf(&[1.0]);
    let error = call(&[&x], |_, _| Err(broken()), |_, _| Ok(vec![])).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }));
    assert!(square(&x).unwrap().requires_grad());
}

#[test]
fn forward_panic_leaves_gradients_on() {
    let x = leaf(&[1.0]);
    let panicked = bert4rs_tensor_core::error::catch_torch_error("step", || {
        call(&[&x], |_, _| panic!("no such thing"), |_, _| Ok(vec![]))
    });
    assert_eq!(panicked.unwrap_err().to_string(), "step: no such thing");
    assert!(square(&x).unwrap().requires_grad());
    let panicked =
        bert4rs_tensor_core::error::catch_torch_error("step", || no_grad(|| panic!("oh")));
    assert!(panicked.is_err() && square(&x).unwrap().requires_grad());
}

#[test]
fn forward_output_that_is_no_tensor() {
    let x = leaf(&[1.0]);
    assert!(call(&[&x], |_, _| Ok(vec![Tensor::new()]), |_, _| Ok(vec![])).is_err());
}

#[test]
fn backward_error_and_panic() {
    let x = leaf(&[1.0, 3.0]);
    let words = "closures: this is not possible here: it is broken";
    fails(&with_backward(&x, || Err(broken())), &x, words);
    fails(
        &with_backward(&x, || panic!("lost {}", "it")),
        &x,
        "closures: backward panicked: lost it",
    );
    let shapes = || Ok(vec![Some(Tensor::from_slice(&[1.0, 2.0]) * Tensor::from_slice(&[1.0; 3]))]);
    fails(&with_backward(&x, shapes), &x, "panicked: The size of tensor a (2) must match");
    let y = with_backward(&x, || Err(broken()));
    assert!(y.sum(Kind::Double).f_backward().unwrap_err().to_string().contains(words));
}

#[test]
fn backward_with_the_wrong_gradients() {
    let x = leaf(&[1.0, 3.0]);
    fails(&with_backward(&x, || Ok(vec![])), &x, "closures: backward gave 0 gradients for 1 input");
    let three = || Ok(vec![Some(Tensor::from_slice(&[1.0; 3]))]);
    fails(&with_backward(&x, three), &x, "invalid gradient at index 0");
}

#[test]
fn backward_twice_needs_a_kept_graph() {
    let x = leaf(&[1.0, 3.0]);
    let y = square(&x).unwrap();
    for keep_graph in [true, true, false] {
        let grad = gradient_keeping(&y, &x, keep_graph).unwrap();
        assert_eq!(values(&grad), [2.0, 6.0]);
    }
    fails(&y, &x, "closures: backward a second time through a graph that the first backward freed");
}
