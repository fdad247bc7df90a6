//! What a function holds is dropped once, and in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bert4rs_tensor_core::autograd::{BackwardContext, ForwardContext, apply};
use bert4rs_tensor_core::testing::in_own_process;
use bert4rs_tensor_core::{Device, Kind, Result, Tensor, memory, no_grad};

use super::{Closures, call, gradient, gradient_keeping, square, square_holding};
use crate::support::leaf;

/// Counts its drops.
struct Token(Arc<AtomicUsize>);

impl Drop for Token {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A token, and the count of its drops.
fn token() -> (Token, impl Fn() -> usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    (Token(count), move || seen.load(Ordering::SeqCst))
}

#[test]
fn backward_drops_it_at_once() {
    let x = leaf(&[1.0]);
    let (held, drops) = token();
    let y = square_holding(&x, held).unwrap();
    assert_eq!(drops(), 0);
    let _ = gradient(&y, &x).unwrap();
    assert_eq!(drops(), 1);
    drop(y);
    assert_eq!(drops(), 1);
}

#[test]
fn a_kept_graph_keeps_it() {
    let x = leaf(&[1.0]);
    let (held, drops) = token();
    let y = square_holding(&x, held).unwrap();
    let _ = gradient_keeping(&y, &x, true).unwrap();
    let sum = y.sum(Kind::Double);
    drop(y);
    assert_eq!(drops(), 0);
    drop(sum);
    assert_eq!(drops(), 1);
}

#[test]
fn a_graph_without_backward_drops_it() {
    let x = leaf(&[1.0]);
    let (held, drops) = token();
    let y = square_holding(&x, held).unwrap();
    std::thread::spawn(move || drop(y)).join().unwrap();
    assert_eq!(drops(), 1);
}

#[test]
fn nothing_recorded_drops_it() {
    let x = leaf(&[1.0]);
    let (held, drops) = token();
    let _y = no_grad(|| square_holding(&x, held)).unwrap();
    assert_eq!(drops(), 1);
    let (held, drops) = token();
    let _y = square_holding(&x.detach(), held).unwrap();
    assert_eq!(drops(), 1);
}

#[test]
fn failures_drop_it() {
    let x = leaf(&[1.0]);
    for outputs in [vec![], vec![Tensor::new()]] {
        // No output, or one that libtorch refuses.
        let (held, drops) = token();
        let mut outputs = Some(outputs);
        let function = Closures {
            forward: move |_: &[&Tensor], _: &mut ForwardContext| Ok(outputs.take().unwrap()),
            backward: |_: &BackwardContext, _: &[Option<Tensor>]| Ok(vec![None]),
            twice_differentiable: false,
            _token: held,
        };
        let _ = apply(function, &[&x]);
        assert_eq!(drops(), 1);
    }
    let (held, drops) = token();
    let y = call(
        &[&x],
        |inputs, _| Ok(vec![inputs[0] * 2.0]),
        move |_, _| {
            let _held = &held;
            panic!("broken")
        },
    )
    .unwrap();
    assert!(gradient(&y[0], &x).is_err());
    assert_eq!(drops(), 0);
    drop(y);
    assert_eq!(drops(), 1);
}

#[test]
fn a_function_that_holds_its_own_output_does_not_keep_itself() {
    let x = leaf(&[1.0]);
    let (held, drops) = token();
    let holder: Arc<std::sync::Mutex<Option<Tensor>>> = Arc::default();
    let function = Closures {
        forward: {
            let holder = holder.clone();
            move |inputs: &[&Tensor], ctx: &mut ForwardContext| {
                let y = inputs[0] * 2.0;
                *holder.lock().unwrap() = Some(y.shallow_clone());
                ctx.save(&y);
                Ok(vec![y])
            }
        },
        backward: |_: &BackwardContext, _: &[Option<Tensor>]| Ok(vec![None]),
        twice_differentiable: false,
        _token: (held, holder),
    };
    drop(apply(function, &[&x]).unwrap());
    assert_eq!(drops(), 1);
}

/// A chain of `length` functions; each saves its input and holds another clone of it.
fn chain(x: &Tensor, length: usize) -> Result<Tensor> {
    let mut y = x.shallow_clone();
    for _ in 0..length {
        let held = y.shallow_clone();
        y = square_holding(&y, held)?;
    }
    Ok(y)
}

#[test]
fn a_long_chain_needs_no_deep_stack() {
    const LENGTH: usize = 100_000;
    const STACK: usize = 256 * 1024;
    let run = || {
        let x = leaf(&[1.0]);
        drop(chain(&x, LENGTH).unwrap());
        let y = chain(&x, LENGTH).unwrap();
        let _ = gradient(&y, &x).unwrap();
        drop(y);
    };
    std::thread::Builder::new().stack_size(STACK).spawn(run).unwrap().join().unwrap();
}

/// Rounds that take every path: backward, no backward, an error, a second order.
fn rounds(count: usize) {
    let x = Tensor::ones([4096], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    for _ in 0..count {
        let y = chain(&x, 2).unwrap();
        let _ = gradient(&y, &x).unwrap();
        assert!(gradient(&y, &x).is_err());
        drop(chain(&x, 2).unwrap());
        drop(no_grad(|| square(&x)).unwrap());
        let y = square(&x).unwrap().sum(Kind::Float);
        drop(Tensor::f_run_backward(&[y], &[&x], true, true).unwrap());
        let y = call(&[&x], |inputs, _| Ok(vec![inputs[0] * 2.0]), |_, _| Ok(vec![])).unwrap();
        assert!(gradient(&y[0], &x).is_err());
    }
}

#[test]
fn many_rounds_leave_no_memory() {
    in_own_process("autograd::lifetime::many_rounds_leave_no_memory", || {
        rounds(1_000);
        let before = memory::process().unwrap().resident;
        rounds(10_000);
        let grown = memory::process().unwrap().resident.saturating_sub(before);
        println!("grown by {grown} bytes");
        assert!(grown < 1 << 20, "10,000 rounds grew memory by {grown} bytes");
    });
}
