//! Steps that could be captured do what others do, whatever their batches.

use bert4rs_optim::{Optimizer, OptimizerConfig};
use bert4rs_tensor_core::Kind;
use bert4rs_tensor_core::param::{Init, ParamStore, Role};

use super::*;
use crate::task::Task;

/// `tanh(x w1ᵀ) w2` against a target of each row.
struct Regression {
    first: Tensor,
    second: Tensor,
}

impl Task for Regression {
    fn loss(&self, batch: &NamedTensors, divisor: &Tensor) -> Result<Tensor> {
        let x = batch.get("x")?.to_kind(self.first.kind());
        let found = x.matmul(&self.first.tr()).tanh().matmul(&self.second).to_kind(Kind::Float);
        Ok((found - batch.get("target")?).square().sum(Kind::Float) / divisor)
    }
}

fn work(config: &OptimizerConfig, kind: Kind) -> TrainStep {
    let mut params = ParamStore::new(Device::Cpu, kind);
    let (first, second) = {
        let root = params.root();
        let make = |name: &str, shape: &[i64], role| {
            root.param(name, shape, role, Init::Normal(0.3)).unwrap()
        };
        (make("first", &[12, 6], Role::Matrix), make("second", &[12], Role::Head))
    };
    // The same start each time, whatever other tests draw.
    for (param, step) in params.params_mut().iter_mut().zip([0.7, 1.3]) {
        let count = param.weight.numel() as i64;
        let values = Tensor::arange(count, (Kind::Float, Device::Cpu)) * step;
        param.set(&(values.sin().view_as(&param.weight) * 0.3)).unwrap();
    }
    let optimizer = Optimizer::new(config.clone(), params.params_mut()).unwrap();
    TrainStep::new(Box::new(Regression { first, second }), params, optimizer.into())
}

/// Batches of a step, of `rows` rows.
fn batches(step: u64, count: u64, rows: i64) -> Vec<NamedTensors> {
    let batch = |index: u64| {
        let values = Tensor::arange(rows * 6, (Kind::Float, Device::Cpu)) + index as f64 * 5.1;
        let x = (values * 1.7).sin().view([rows, 6]);
        vec![("x", x.copy()), ("target", x.sum_dim_intlist(1i64, false, Kind::Float))].into()
    };
    (0..count).map(|part| batch(step * count + part)).collect()
}

fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    f64::try_from((found - expected).abs().max()).unwrap()
}

#[test]
fn they_equal_steps_that_the_host_looks_at() {
    let configs = [
        OptimizerConfig::adamw(1e-2),
        OptimizerConfig::muon(0.02, 1e-2),
        OptimizerConfig::normuon(0.02, 1e-2),
    ];
    for (config, kind) in configs.iter().flat_map(|c| [(c, Kind::Float), (c, Kind::BFloat16)]) {
        for accumulate in [1, 2] {
            let (mut left, mut right) = (work(config, kind), work(config, kind));
            let mut captured = CapturedSteps::new(Execution::Capturable, Device::Cpu).unwrap();
            for step in 0..8 {
                let rows = 4 + (step % 2) as i64;
                let batches = batches(step, accumulate, rows);
                if step == 3 {
                    let mut x = batches[0].get("x").unwrap().shallow_clone();
                    x *= f64::NAN;
                }
                let factor = 1.0 / (step + 1) as f64;
                let labels = accumulate * rows as u64;
                let (loss, norm) = captured.step(&mut left, &batches, labels, factor).unwrap();
                let divisor = divisor(labels, Device::Cpu).unwrap();
                let (expected, report) =
                    right.step(&batches, &divisor, factor, |_| Ok(true)).unwrap();
                assert_eq!(report.unwrap().skipped, step == 3);
                assert_eq!(norm.double_value(&[]).is_finite(), step != 3);
                assert!(step == 3 || distance(&loss, &expected) < 1e-5, "{config:?} step {step}");
            }
            left.optimizer.local_mut().sync_counters().unwrap();
            assert_eq!((left.optimizer.local().skipped(), captured.shapes.len()), (1, 2));
            let (found, expected) = (left.params.params(), right.params.params());
            for (found, expected) in found.iter().zip(expected.iter()) {
                let off = distance(found.master_or_weight(), expected.master_or_weight());
                assert!(off < 1e-5, "{config:?}: {} by {off}", found.name);
            }
        }
    }
}

#[test]
fn batches_of_many_shapes_train_too() {
    let config = OptimizerConfig::adamw(1e-2);
    let (mut left, mut right) = (work(&config, Kind::Float), work(&config, Kind::Float));
    let mut captured = CapturedSteps::new(Execution::Capturable, Device::Cpu).unwrap();
    captured.capture_on = Some(0);
    for step in 0..7 {
        let batches = batches(step, 1, 3 + step as i64);
        let (loss, _) = captured.step(&mut left, &batches, 3 + step, 1.0).unwrap();
        let divisor = divisor(3 + step, Device::Cpu).unwrap();
        let (expected, _) = right.step(&batches, &divisor, 1.0, |_| Ok(true)).unwrap();
        assert!(distance(&loss, &expected) < 1e-6);
    }
    assert_eq!(captured.usage(), CaptureUsage { shapes: 4, graphs: 0, replays: 0 });
    assert_eq!(captured.shapes.len(), MOST_SHAPES);
    assert!(captured.take_warning().is_some_and(|warning| warning.contains("more than 4 shapes")));
    assert_eq!(captured.take_warning(), None, "said once");
}

#[test]
fn what_can_not_be_captured_runs_without_and_says_so() {
    if let bert4rs_tensor_core::device::Cuda::Devices(_) = bert4rs_tensor_core::device::cuda() {
        return;
    }
    let config = OptimizerConfig::normuon(0.02, 1e-2);
    let (mut left, mut right) = (work(&config, Kind::Float), work(&config, Kind::Float));
    let mut captured = CapturedSteps::new(Execution::Capturable, Device::Cpu).unwrap();
    // As on a GPU that refuses: the first attempt is made after the warm-up.
    captured.capture_on = Some(0);
    for step in 0..6 {
        let batches = batches(step, 1, 4);
        let (loss, _) = captured.step(&mut left, &batches, 4, 1.0).unwrap();
        let divisor = divisor(4, Device::Cpu).unwrap();
        let (expected, _) = right.step(&batches, &divisor, 1.0, |_| Ok(true)).unwrap();
        assert!(distance(&loss, &expected) < 1e-6);
        assert_eq!(captured.take_warning().is_some(), step == u64::from(WARM_UP));
    }
    assert_eq!(captured.capture_on, None);
}
