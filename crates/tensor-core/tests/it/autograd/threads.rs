//! Backward from other threads than the one that recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bert4rs_tensor_core::testing::cuda_or_skip;
use bert4rs_tensor_core::{Kind, Tensor};

use super::{call, gradient, gradient_keeping, square};
use crate::support::{leaf, values};

#[test]
fn backward_on_another_thread() {
    let x = leaf(&[1.0, 3.0]);
    let y = square(&x).unwrap();
    let grad = std::thread::spawn(move || gradient(&y, &x).unwrap()).join().unwrap();
    assert_eq!(values(&grad), [2.0, 6.0]);
}

#[test]
fn graphs_on_several_threads() {
    let x = leaf(&[1.0, 3.0]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let x = x.shallow_clone();
            scope.spawn(move || {
                for _ in 0..200 {
                    let y = square(&square(&x).unwrap()).unwrap();
                    assert_eq!(values(&gradient(&y, &x).unwrap()), [4.0, 108.0]);
                }
            });
        }
    });
}

#[test]
fn one_graph_on_several_threads_runs_one_backward_at_a_time() {
    let x = leaf(&[1.0, 3.0]);
    let running = Arc::new(AtomicUsize::new(0));
    let y = call(
        &[&x],
        |inputs, ctx| {
            ctx.save(inputs[0]);
            Ok(vec![inputs[0] * inputs[0]])
        },
        move |ctx, grads| {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
            std::thread::sleep(std::time::Duration::from_micros(100));
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(vec![grads[0].as_ref().map(|grad| grad * &ctx.saved()[0] * 2.0)])
        },
    )
    .unwrap()
    .remove(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (x, y) = (x.shallow_clone(), y.shallow_clone());
            scope.spawn(move || {
                for _ in 0..50 {
                    let grad = gradient_keeping(&y, &x, true).unwrap();
                    assert_eq!(values(&grad), [2.0, 6.0]);
                }
            });
        }
    });
}

#[test]
fn one_graph_freed_while_others_run_it() {
    for _ in 0..50 {
        let x = leaf(&[1.0, 3.0]);
        let y = square(&x).unwrap();
        let done: Vec<bool> = std::thread::scope(|scope| {
            let start = |_| {
                let (x, y) = (x.shallow_clone(), y.shallow_clone());
                scope.spawn(move || match gradient(&y, &x) {
                    Ok(grad) => {
                        assert_eq!(values(&grad), [2.0, 6.0]);
                        true
                    }
                    Err(error) => {
                        assert!(error.to_string().contains("a second time"), "{error}");
                        false
                    }
                })
            };
            let threads: Vec<_> = (0..4).map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(done.contains(&true));
    }
}

#[test]
fn backward_on_libtorch_own_thread() {
    let Some(device) = cuda_or_skip() else { return };
    let x = Tensor::from_slice(&[1f32, 3.0]).to_device(device).set_requires_grad(true);
    let here = std::thread::current().id();
    let y = call(
        &[&x],
        |inputs, ctx| {
            ctx.save(inputs[0]);
            Ok(vec![inputs[0] * inputs[0]])
        },
        move |ctx, grads| {
            assert_ne!(std::thread::current().id(), here);
            Ok(vec![grads[0].as_ref().map(|grad| grad * &ctx.saved()[0] * 2.0)])
        },
    )
    .unwrap();
    y[0].sum(Kind::Float).f_backward().unwrap();
    assert_eq!(values(&x.grad()), [2.0, 6.0]);
}
