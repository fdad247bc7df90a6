//! CUDA graphs where a GPU is; the refusal where none is.

use bert4rs_tensor_core::device::{Cuda, cuda};
use bert4rs_tensor_core::graph::Graph;
use bert4rs_tensor_core::testing::{cuda_or_skip, skip};
use bert4rs_tensor_core::{Device, Kind, Tensor, stream};

#[test]
fn a_recorded_training_step_repeats_as_it_runs_without_a_graph() {
    if let Cuda::None(reason) = cuda() {
        skip(reason);
        let error = Graph::record(0, [], || Ok(())).err().unwrap().to_string();
        assert!(error.contains("CUDA graph") && error.contains(reason.as_str()), "{error}");
        return;
    }
    let options = (Kind::Float, Device::Cuda(0));
    let start = Tensor::randn([64, 64], options);
    let x = Tensor::randn([32, 64], options);
    // A step of gradient descent on memory that stays.
    let step = |weight: &Tensor| {
        let loss = x.matmul(weight).tanh().square().mean(Kind::Float);
        let gradient = Tensor::run_backward(&[loss], &[weight], false, false).remove(0);
        let _ = bert4rs_tensor_core::no_grad(|| weight.detach().g_sub_(&(gradient * 0.1)));
    };
    let plain = start.copy().set_requires_grad(true);
    (0..13).for_each(|_| step(&plain));
    let recorded = start.copy().set_requires_grad(true);
    (0..3).for_each(|_| step(&recorded));
    let graph = Graph::record(0, [&recorded, &x], || {
        step(&recorded);
        Ok(recorded.alias())
    })
    .unwrap();
    (0..10).for_each(|_| graph.replay().unwrap());
    for found in [graph.outputs(), &recorded] {
        let error = f64::try_from((found - &plain).abs().max()).unwrap();
        assert!(error < 1e-6, "off by {error}");
    }
}

/// The fallback: after a step that can't be recorded, all goes on as if nothing had been tried.
#[test]
fn what_can_not_be_recorded_leaves_a_gpu_as_it_was() {
    let Some(device) = cuda_or_skip() else { return };
    let options = (Kind::Float, device);
    let x = Tensor::randn([64, 64], options);
    let before = stream::current(0).unwrap();
    let body = || {
        // A look at a value, after dropout and memory of the recording's own.
        let dropped = x.matmul(&x).dropout(0.5, true);
        Ok(dropped.sum(Kind::Float).double_value(&[]))
    };
    for _ in 0..3 {
        let error = Graph::record(0, [&x], body).err().unwrap().to_string();
        assert!(error.contains("CUDA graph"), "{error}");
        assert_eq!(stream::current(0).unwrap(), before);
        // Dropout throws where the generator believes that it is being captured.
        let kept = x.ones_like().dropout(0.5, true).sum(Kind::Float).double_value(&[]);
        assert!(kept > 0.0);
    }
    let graph = Graph::record(0, [&x], || Ok(x.matmul(&x).dropout(0.5, true))).unwrap();
    let of_replay = || {
        graph.replay().unwrap();
        graph.outputs().copy()
    };
    assert!(!of_replay().equal(&of_replay()), "dropout differs from replay to replay");
}
