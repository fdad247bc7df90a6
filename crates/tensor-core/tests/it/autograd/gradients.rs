//! Values of gradients, and the check of them.

use bert4rs_tensor_core::autograd::{ForwardContext, apply, check};
use bert4rs_tensor_core::{Kind, Result, Tensor, no_grad};

use super::{Closures, call, gradient, square};
use crate::support::{leaf, values};

/// `(a b, a + b)`, with the second gradient left out where it is not needed.
fn product_and_sum(inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    call(
        &[&inputs[0], &inputs[1]],
        |inputs, ctx| {
            ctx.save(inputs[0]);
            ctx.save(inputs[1]);
            Ok(vec![inputs[0] * inputs[1], inputs[0] + inputs[1]])
        },
        |ctx, grads| {
            let [a, b] = ctx.saved() else { panic!("two were saved") };
            let through = |other: &Tensor| match (&grads[0], &grads[1]) {
                (Some(product), Some(sum)) => Some(product * other + sum),
                (Some(product), None) => Some(product * other),
                (None, sum) => sum.as_ref().map(Tensor::shallow_clone),
            };
            Ok(vec![ctx.needs(0).then(|| through(b)).flatten(), through(a)])
        },
    )
}

#[test]
fn one_input_one_output() {
    let x = leaf(&[1.0, -2.0, 3.0]);
    let y = square(&x).unwrap();
    assert_eq!(values(&y), [1.0, 4.0, 9.0]);
    assert!(y.requires_grad());
    y.sum(Kind::Double).f_backward().unwrap();
    assert_eq!(values(&x.grad()), [2.0, -4.0, 6.0]);
    check::gradients(|x| Ok(vec![square(&x[0])?]), &[x], 1e-6).unwrap();
}

#[test]
fn several_inputs_and_outputs() {
    let inputs = [leaf(&[1.0, 2.0]), leaf(&[-3.0, 0.5])];
    check::gradients(product_and_sum, &inputs, 1e-6).unwrap();
}

#[test]
fn outputs_without_use_give_absent_gradients() {
    let inputs = [leaf(&[1.0, 2.0]), leaf(&[-3.0, 0.5])];
    for (used, expected) in [(0, [-3.0, 0.5]), (1, [1.0, 1.0])] {
        let outputs = product_and_sum(&inputs).unwrap();
        assert_eq!(values(&gradient(&outputs[used], &inputs[0]).unwrap()), expected);
    }
}

#[test]
fn inputs_that_need_no_gradient_get_none() {
    let (a, b) = (leaf(&[1.0, 2.0]), leaf(&[-3.0, 0.5]));
    let inputs = [a.detach(), b.shallow_clone()];
    let outputs = product_and_sum(&inputs).unwrap();
    outputs[0].sum(Kind::Double).f_backward().unwrap();
    assert!(!inputs[0].grad().defined());
    assert_eq!(values(&b.grad()), [1.0, 2.0]);

    let inputs = [a.detach(), b.detach()];
    assert!(product_and_sum(&inputs).unwrap().iter().all(|output| !output.requires_grad()));
}

#[test]
fn nothing_is_recorded_without_gradients() {
    let x = leaf(&[1.0]);
    let y = no_grad(|| square(&x)).unwrap();
    assert!(!y.requires_grad());
    assert!(square(&x).unwrap().requires_grad());
}

#[test]
fn integer_outputs_have_no_gradient() {
    let largest = |inputs: &[Tensor]| {
        call(
            &[&inputs[0]],
            |inputs, ctx| {
                let (value, index) = inputs[0].max_dim(-1, true);
                ctx.save(&index);
                ctx.save(inputs[0]);
                Ok(vec![index, value])
            },
            |ctx, grads| {
                assert!(grads[0].is_none());
                let [index, x] = ctx.saved() else { panic!("two were saved") };
                let grad = grads[1].as_ref().unwrap();
                Ok(vec![Some(x.zeros_like().scatter(-1, index, grad))])
            },
        )
    };
    let x = leaf(&[0.5, 3.0, -1.0, 2.0]);
    let outputs = largest(&[x.shallow_clone()]).unwrap();
    assert!(!outputs[0].requires_grad() && outputs[1].requires_grad());
    assert_eq!(values(&outputs[0]), [1.0]);
    check::gradients(largest, &[x], 1e-6).unwrap();
}

#[test]
fn an_output_may_be_an_input_or_a_view_of_one() {
    let views: [fn(&Tensor) -> Tensor; 3] = [Tensor::shallow_clone, Tensor::detach, |x| x.view(-1)];
    for view in views {
        let x = leaf(&[1.0, 2.0]);
        // A gradient that differs from the view's own tells whose backward has run.
        let y = call(
            &[&x],
            move |inputs, _| Ok(vec![view(inputs[0])]),
            |_, grads| Ok(vec![grads[0].as_ref().map(|grad| grad * 5.0)]),
        )
        .unwrap()
        .remove(0);
        assert!(x.is_leaf() && !y.is_leaf());
        assert_eq!(values(&y), [1.0, 2.0]);
        assert_eq!(values(&gradient(&y, &x).unwrap()), [5.0, 5.0]);
    }
}

#[test]
fn one_tensor_may_be_returned_twice_and_given_twice() {
    let x = leaf(&[1.0, 2.0]);
    let outputs = call(
        &[&x, &x],
        |inputs, ctx| {
            let y = inputs[0] + inputs[1];
            ctx.save(&y);
            Ok(vec![y.shallow_clone(), y])
        },
        |ctx, grads| {
            assert_eq!(values(&ctx.saved()[0]), [2.0, 4.0]);
            let sum = || grads.iter().flatten().fold(Tensor::from(0f64), |sum, grad| sum + grad);
            Ok(vec![Some(sum()), Some(sum() * 10.0)])
        },
    )
    .unwrap();
    let grad = gradient(&(&outputs[0] + &outputs[1]), &x).unwrap();
    assert_eq!(values(&grad), [22.0, 22.0]);
}

#[test]
fn outputs_and_intermediates_can_be_saved() {
    let sigmoid_of_double = |inputs: &[Tensor]| {
        call(
            &[&inputs[0]],
            |inputs, ctx| {
                let scale = inputs[0].ones_like() * 2.0;
                let y = (inputs[0] * &scale).sigmoid();
                ctx.save(&scale);
                ctx.save(&y);
                Ok(vec![y])
            },
            |ctx, grads| {
                let [scale, y] = ctx.saved() else { panic!("two were saved") };
                let slope = y * (y.ones_like() - y) * scale;
                Ok(vec![grads[0].as_ref().map(|grad| grad * slope)])
            },
        )
    };
    check::gradients(sigmoid_of_double, &[leaf(&[0.3, -1.0])], 1e-6).unwrap();
}

#[test]
fn second_derivatives_of_a_backward_made_of_operations() {
    let slope_of_square = |inputs: &[Tensor]| -> Result<Vec<Tensor>> {
        let y = square(&inputs[0])?;
        let y = square(&y)?.sum(Kind::Double);
        Ok(Tensor::f_run_backward(&[y], &[&inputs[0]], true, true).unwrap())
    };
    let x = leaf(&[1.0, -2.0]);
    let slope = slope_of_square(&[x.shallow_clone()]).unwrap();
    assert_eq!(values(&slope[0]), [4.0, -32.0]);
    assert_eq!(values(&gradient(&slope[0], &x).unwrap()), [12.0, 48.0]);
}

#[test]
fn second_derivatives_of_other_backwards_are_refused() {
    let x = leaf(&[2.0, 3.0]);
    let function = Closures {
        forward: |inputs: &[&Tensor], ctx: &mut ForwardContext| {
            ctx.save(inputs[0]);
            Ok(vec![inputs[0] * inputs[0]])
        },
        backward: |ctx: &super::BackwardContext, grads: &[Option<Tensor>]| {
            let grad = grads[0].as_ref().unwrap().detach();
            Ok(vec![Some(grad * ctx.saved()[0].detach() * 2.0)])
        },
        twice_differentiable: false,
        _token: (),
    };
    let y = apply(function, &[&x]).unwrap()[0].sum(Kind::Double);
    let slope = Tensor::f_run_backward(&[y], &[&x], true, true).unwrap().remove(0);
    assert_eq!(values(&slope), [4.0, 6.0]);
    let refused = gradient(&slope, &x).unwrap_err().to_string();
    assert!(refused.contains("closures: has no second derivative"), "{refused}");
}

#[test]
fn a_backward_may_run_a_backward() {
    let recomputed = |inputs: &[Tensor]| {
        call(
            &[&inputs[0]],
            |inputs, ctx| {
                ctx.save(inputs[0]);
                Ok(vec![inputs[0].sin()])
            },
            |ctx, grads| {
                tch::with_grad(|| {
                    let x = ctx.saved()[0].detach().set_requires_grad(true);
                    let y = square(&x.sin())? / x.sin();
                    let weighted = (y * grads[0].as_ref().unwrap()).sum(Kind::Double);
                    Ok(vec![Some(Tensor::run_backward(&[weighted], &[x], false, false).remove(0))])
                })
            },
        )
    };
    check::gradients(recomputed, &[leaf(&[0.3, 1.0])], 1e-6).unwrap();
}

#[test]
fn check_takes_any_layout() {
    let matrix = Tensor::arange(6, (Kind::Double, tch::Device::Cpu)).reshape([2, 3]) + 0.5;
    let transposed = matrix.transpose(0, 1).set_requires_grad(true);
    let single = Tensor::from(0.7f64).set_requires_grad(true);
    let empty = Tensor::zeros([0, 2], (Kind::Double, tch::Device::Cpu)).set_requires_grad(true);
    for x in [transposed, single, empty] {
        check::gradients(|x| Ok(vec![square(&x[0])?]), &[x], 1e-6).unwrap();
    }
}

#[test]
fn check_catches_a_wrong_backward() {
    let wrong = |inputs: &[Tensor]| {
        call(
            &[&inputs[0]],
            |inputs, ctx| {
                ctx.save(inputs[0]);
                Ok(vec![inputs[0].exp()])
            },
            |ctx, grads| {
                let slope = ctx.saved()[0].exp() + Tensor::from_slice(&[0.0, 1e-4]);
                Ok(vec![grads[0].as_ref().map(|grad| grad * slope)])
            },
        )
    };
    let caught = check::gradients(wrong, &[leaf(&[0.1, 0.2])], 1e-6).unwrap_err().to_string();
    assert!(caught.contains("input 0, entry 1"), "{caught}");
    // An absent gradient counts as zero.
    let absent = |inputs: &[Tensor]| {
        call(&[&inputs[0]], |inputs, _| Ok(vec![inputs[0] * 2.0]), |_, _| Ok(vec![None]))
    };
    assert!(check::gradients(absent, &[leaf(&[0.1])], 1e-6).is_err());
}

#[test]
fn check_catches_not_a_number() {
    let broken = |inputs: &[Tensor]| {
        call(
            &[&inputs[0]],
            |inputs, _| Ok(vec![inputs[0] * 2.0]),
            |_, grads| Ok(vec![grads[0].as_ref().map(|grad| grad * f64::NAN)]),
        )
    };
    assert!(check::gradients(broken, &[leaf(&[0.1])], 1e-6).is_err());
}

#[test]
fn check_refuses_inputs_that_it_cannot_check() {
    let single = Tensor::from_slice(&[1f32]).set_requires_grad(true);
    for x in [single, leaf(&[1.0]).detach()] {
        let refused = check::gradients(|x| Ok(vec![square(&x[0])?]), &[x], 1e-6);
        assert!(refused.unwrap_err().to_string().contains("FP64"));
    }
}
