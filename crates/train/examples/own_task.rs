//! A model, data and a metric that are none of ours, trained with our optimizer, precision, metrics
//! and run folder, and without our command line, configuration files and terminal.
//!
//! The model reads two digits and learns to name their sum.
//!
//! ```text
//! cargo run -p bert4rs-train --example own_task
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;

use bert4rs_models::layers::{Activation, Biased, Embedding, Linear};
use bert4rs_optim::schedule::{Horizon, ScheduleConfig};
use bert4rs_optim::{Optimizer, OptimizerConfig};
use bert4rs_tensor_core::param::{Init, ParamStore};
use bert4rs_tensor_core::precision::Precision;
use bert4rs_tensor_core::{Device, Kind, Reduction, Tensor};
use bert4rs_train::Result;
use bert4rs_train::batch::{Batch, BatchSize, NamedTensors};
use bert4rs_train::evaluation::Validation;
use bert4rs_train::facts::Facts;
use bert4rs_train::hook::{Control, Hook, StepContext};
use bert4rs_train::loader::Loader;
use bert4rs_train::machine::{Machine, MachineOptions};
use bert4rs_train::run_folder::{ClaimedFolder, RunOutcome};
use bert4rs_train::summary::Summary;
use bert4rs_train::task::Task;
use bert4rs_train::trainer::{TrainOptions, Trainer};

/// Two digits to the sum of both, as a choice among 19.
struct Adder {
    digits: Embedding,
    hidden: Linear,
    sums: Linear,
}

impl Adder {
    fn new(params: &ParamStore) -> Result<Self> {
        let (root, init) = (params.root(), Init::Normal(0.2));
        Ok(Self {
            digits: Embedding::new(&(&root / "digits"), 10, 16, None, init)?,
            hidden: Linear::new(&(&root / "hidden"), 32, 64, Biased::Yes, init)?,
            sums: Linear::head(&(&root / "sums"), 64, 19, Biased::Yes, init)?,
        })
    }

    /// `[b, 2]` digits to `[b, 19]` logits in FP32.
    fn logits(&self, batch: &NamedTensors) -> Result<Tensor> {
        let x = self.digits.forward(batch.get("digits")?)?.flatten(1, 2);
        let x = Activation::Relu.forward(&self.hidden.forward(&x));
        Ok(self.sums.forward(&x).to_kind(Kind::Float))
    }

    fn loss_sum(&self, batch: &NamedTensors) -> Result<Tensor> {
        let (sums, all) = (batch.get("sums")?, None::<Tensor>);
        Ok(self.logits(batch)?.cross_entropy_loss(sums, all, Reduction::Sum, -100, 0.0))
    }
}

impl Task for Adder {
    fn loss(&self, batch: &NamedTensors, divisor: &Tensor) -> Result<Tensor> {
        Ok(self.loss_sum(batch)? / divisor)
    }

    fn evaluate(&self, batch: &NamedTensors) -> Result<Vec<(&'static str, Tensor)>> {
        let guesses = self.logits(batch)?.argmax(-1, false);
        let right = guesses.eq_tensor(batch.get("sums")?).sum(Kind::Float);
        Ok(vec![("loss", self.loss_sum(batch)?), ("accuracy", right)])
    }
}

/// All hundred pairs of digits, a part of them a batch.
struct Pairs {
    device: Device,
    next: u64,
}

impl Loader for Pairs {
    fn next(&mut self) -> Result<Batch> {
        const ROWS: i64 = 25;
        let first = (self.next * 25 % 100) as i64;
        let pairs: Vec<i64> =
            (first..first + ROWS).flat_map(|pair| [pair / 10, pair % 10]).collect();
        let digits = Tensor::from_slice(&pairs).view([ROWS, 2]).to_device(self.device);
        let sums = digits.sum_dim_intlist(1i64, false, Kind::Int64);
        self.next += 1;
        Ok(Batch {
            tensors: vec![("digits", digits), ("sums", sums)].into(),
            size: BatchSize { tokens: 50, positions: 50, labels: 25 },
            digest: None,
        })
    }

    fn position(&self) -> u64 {
        self.next
    }

    fn seek(&mut self, position: u64) -> Result<()> {
        self.next = position;
        Ok(())
    }
}

/// Prints the gradients' norm every 50 steps.
struct PrintNorm;

impl Hook for PrintNorm {
    fn on_step(&mut self, step: &StepContext<'_>, _: &mut Control) -> Result<()> {
        if step.step.is_multiple_of(50) {
            let norm = step.outcome.grad_norm.double_value(&[]);
            println!("step {} of {}: gradients' norm {norm:.3}", step.step, step.max_steps);
        }
        Ok(())
    }
}

/// Trains in `folder`; returns the share of sums that come out right.
fn train(folder: &Path, steps: u64) -> Result<f64> {
    let folder = ClaimedFolder::claim(folder, true)?;
    let options = MachineOptions { precision: Precision::Auto, ..MachineOptions::default() };
    let machine = Machine::set_up(&options)?;
    let device = machine.device;
    let mut params = ParamStore::new(device, machine.precision.compute_kind());
    let task = Adder::new(&params)?;
    let config = OptimizerConfig::normuon(0.02, 0.01);
    let mut folder = folder.begin(&config)?;
    let optimizer = Optimizer::new(config, params.params_mut())?;
    let schedule = ScheduleConfig::linear(10).resolve(Horizon::Steps(steps))?;
    let loader = Pairs { device, next: 0 };
    let options = TrainOptions::steps(steps);
    let mut trainer =
        Trainer::new(Box::new(task), Box::new(loader), params, optimizer, schedule, options)?
            .with_validation(Validation::new(Box::new(Pairs { device, next: 0 }), 4))
            .with_sink(folder.metrics()?)
            .with_hook(PrintNorm);
    trainer.run()?;
    folder.replace_old()?;
    let evaluation = trainer.evaluate()?;
    let facts = Facts::default();
    folder.write_summary(&Summary::new(&trainer, &machine, &facts)?)?;
    folder.end(RunOutcome::Finished, None)?;
    let accuracy = evaluation.and_then(|found| found.means.get("accuracy").copied());
    Ok(accuracy.unwrap_or_default())
}

fn main() -> Result<()> {
    let accuracy = train(Path::new("runs/adding"), 300)?;
    println!("{:.0}% of the sums are right", 100.0 * accuracy);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_learns_to_add_and_leaves_its_metrics() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let accuracy = train(&run, 200).unwrap();
        assert!(accuracy > 0.9, "{accuracy}");
        let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        assert_eq!(metrics.lines().count(), 200);
        assert!(run.join("summary.json").exists() && run.join("config.toml").exists());
    }
}
