//! Activation checkpointing.

use bert4rs_tensor_core::autograd::checkpoint;
use bert4rs_tensor_core::testing::in_own_process;
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor, memory, random};

/// `dropout(gelu(x Wᵀ)) * y`
fn body(x: &Tensor, y: &Tensor, weight: &Tensor) -> Tensor {
    x.matmul(&weight.tr()).gelu("none").dropout(0.5, true) * y
}

fn leaf(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind).set_requires_grad(true)
}

#[test]
fn values_and_gradients_are_those_of_the_body_to_the_bit() {
    // Other tests draw from the same generator.
    in_own_process(
        "autograd::checkpoint::values_and_gradients_are_those_of_the_body_to_the_bit",
        || {
            for kind in [Kind::Float, Kind::BFloat16] {
                let (x, y, weight) =
                    (leaf(&[4, 6], kind), leaf(&[4, 5], kind), leaf(&[5, 6], kind));
                let run = |again: bool| {
                    random::seed(3);
                    let output = if again {
                        let held = weight.shallow_clone();
                        let body = move |inputs: &[Tensor]| Ok(body(&inputs[0], &inputs[1], &held));
                        checkpoint(&[&x, &y], &[&weight], true, body).unwrap()
                    } else {
                        body(&x, &y, &weight)
                    };
                    // What is drawn later must not depend on the backward pass.
                    let loss = output.square().sum(Kind::Float);
                    let mut found = Tensor::run_backward(&[loss], &[&x, &y, &weight], false, false);
                    found.push(output.detach());
                    found.push(Tensor::rand([3], (Kind::Float, Device::Cpu)));
                    found
                };
                for (plain, again) in run(false).iter().zip(run(true)) {
                    assert!(plain.equal(&again), "{kind:?}: {plain} {again}");
                }
            }
        },
    );
}

#[test]
fn what_needs_no_gradient_gets_none() {
    let (x, weight) = (leaf(&[2, 3], Kind::Float), leaf(&[3, 3], Kind::Float));
    let constant = Tensor::ones([2, 3], (Kind::Float, Device::Cpu));
    let held = weight.shallow_clone();
    let body =
        move |inputs: &[Tensor]| -> Result<Tensor> { Ok(inputs[0].matmul(&held) * &inputs[1]) };
    checkpoint(&[&x, &constant], &[&weight], false, body).unwrap().sum(Kind::Float).backward();
    assert!(x.grad().defined() && weight.grad().defined() && !constant.grad().defined());
}

#[test]
fn an_error_of_the_body_is_the_callers() {
    let x = leaf(&[2], Kind::Float);
    let refuse = |_: &[Tensor]| -> Result<Tensor> {
        Err(Error::Unsupported { what: "this".into(), reason: "a test".into() })
    };
    assert!(checkpoint(&[&x], &[], false, refuse).unwrap_err().to_string().contains("a test"));
}

#[test]
fn what_lies_between_is_not_kept() {
    in_own_process("autograd::checkpoint::what_lies_between_is_not_kept", || {
        memory::keep_freed_memory();
        const VALUES: i64 = 1 << 20;
        let x = leaf(&[VALUES], Kind::Float);
        let chain = |x: &Tensor| (0..10).fold(x.shallow_clone(), |x, _| x.sin());
        let live = || memory::tensors().live;
        let before = live();
        let output = checkpoint(&[&x], &[], false, move |inputs| Ok(chain(&inputs[0]))).unwrap();
        let kept = live() - before;
        assert!(kept < 3 * 4 * VALUES as u64 / 2, "{kept} bytes for one output");
        let plain = (0..10).fold(x.shallow_clone(), |x, _| x.sin());
        assert!(live() - before - kept > 8 * 4 * VALUES as u64);
        assert!(plain.equal(&output));
    });
}
