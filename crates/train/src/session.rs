//! Model, data and optimizer made from a configuration, and one optimizer step.

use std::path::Path;

use bert4rs_optim::Optimizer;
use bert4rs_optim::memory::held;
use bert4rs_optim::schedule::{Horizon, Schedule};
use bert4rs_tensor_core::device::DeviceChoice;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::fp8::{Fp8Config, Fp8Mode};
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::precision::Precision;
use bert4rs_tensor_core::profile::span;
use bert4rs_tensor_core::speed_of_light::{self, SpeedOfLight};
use bert4rs_tensor_core::{Device, Tensor, cpu, get_num_threads, memory, random, set_num_threads};

use crate::config::{Config, Family};
use crate::console::Console;
use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::metrics::{Meter, StepOutcome, Summary};
use crate::task::causal_lm::CausalLm;
use crate::task::masked_lm::MaskedLm;
use crate::task::span_corruption::SpanCorruption;
use crate::task::{BatchSize, Task};

/// Everything that a run holds while it trains.
pub struct Session {
    config: Config,
    device: Device,
    precision: Precision,
    precision_reason: &'static str,
    speed_of_light: SpeedOfLight,
    params: ParamStore,
    /// The weights again, as gradients are asked for: in the store's order.
    weights: Vec<Tensor>,
    task: Box<dyn Task>,
    optimizer: Optimizer,
    schedule: Schedule,
}

impl Session {
    /// Makes everything that training needs.
    ///
    /// # Errors
    /// Whatever in the configuration, corpus, tokenizer or machine can't be used.
    pub fn prepare(config: &Config, console: &mut Console) -> Result<Self> {
        let device: DeviceChoice = config.compute.device.parse()?;
        let device = device.resolve()?;
        config.compute.attention.check_device(device).map_err(|error| Error::Config {
            origin: "configuration".into(),
            key: "compute.attention".into(),
            reason: error.to_string(),
        })?;
        if config.compute.threads > 0 {
            set_num_threads(config.compute.threads.min(i32::MAX as u32) as i32);
        }
        let speed_of_light = speed_of_light::measure(device)?;
        let (precision, precision_reason) = config.compute.precision.resolve(device);
        random::seed(config.seed);
        let fp8 = config.compute.fp8.clone();
        refuse_fp8(&fp8, device)?;
        bert4rs_kernels::cuda::prefer(config.compute.cuda_kernels);
        let mut params = ParamStore::new(device, precision.compute_kind())
            .with_fp8(fp8)
            .with_kernels(config.compute.kernels);
        let task: Box<dyn Task> = match config.model.family {
            Family::Bert => Box::new(MaskedLm::new(config, &params, console)?),
            Family::Gpt => Box::new(CausalLm::new(config, &params, console)?),
            Family::T5 => Box::new(SpanCorruption::new(config, &params, console)?),
        };
        let optimizer = Optimizer::new(config.optimizer.clone(), params.params_mut())?;
        let schedule = config.schedule.resolve(Horizon::Steps(config.train.max_steps))?;
        let weights = params.params().iter().map(|param| param.weight.shallow_clone()).collect();
        Ok(Self {
            config: config.clone(),
            device,
            precision,
            precision_reason,
            speed_of_light,
            params,
            weights,
            task,
            optimizer,
            schedule,
        })
    }

    /// One optimizer step, counted from 1.
    pub fn step(&mut self, step: u64) -> Result<StepOutcome> {
        let batches = self.config.train.accumulate;
        let mut gradients = Gradients::default();
        let (mut losses, mut size) = (Vec::new(), BatchSize::default());
        for _ in 0..batches {
            let forward = span("forward");
            let batch = self.task.next_loss()?;
            let loss = batch.loss / f64::from(batches);
            drop(forward);
            size += batch.size;
            let _backward = span("backward");
            gradients.add(
                Tensor::f_run_backward(&[&loss], &self.weights, false, false).during("backward")?,
            )?;
            losses.push(loss.detach());
        }
        let factor = self.schedule.factor((step - 1) as f64);
        let gradients = gradients.into_tensors();
        let _optimizer = span("optimizer");
        let report = self.optimizer.step(self.params.params_mut(), &gradients, factor)?;
        let lr = self.config.optimizer.adamw.lr * factor;
        let loss = losses.into_iter().reduce(|sum, loss| sum + loss).unwrap_or_default();
        let muon_lr = self.config.optimizer.muon.as_ref().map(|muon| muon.lr * factor);
        Ok(StepOutcome { loss, size, lr, muon_lr, grad_norm: report.grad_norm })
    }

    /// Batch number `index` as the model gets it, by the names of its tensors.
    pub fn batch(&self, index: u64) -> Result<Vec<(&'static str, Tensor)>> {
        self.task.batch(index)
    }

    /// Loss on held-out text, `None` where none is to be measured.
    pub fn held_out_loss(&self) -> Result<Option<f64>> {
        self.task.held_out_loss()
    }

    /// Writes the model to `folder`.
    pub fn export(&self, folder: &Path) -> Result<()> {
        self.task.export(folder, &self.params)
    }

    /// Lines that say what was chosen, and why.
    pub fn describe(&self) -> Vec<String> {
        let compute = &self.config.compute;
        let mut lines = vec![
            format!(
                "device     {} ({}), {} threads",
                device_name(self.device),
                cpu::name(),
                get_num_threads()
            ),
            format!(
                "precision  {} ({}); {} attention; logits of {} tokens",
                name_of(self.precision),
                self.precision_reason,
                name_of(compute.attention),
                name_of(compute.logits)
            ),
            format!("model      {:.2} M parameters", self.params.count() as f64 / 1e6),
        ];
        if compute.fp8.scaling != Fp8Mode::Off {
            let how = match self.device {
                Device::Cpu => "emulated, slower than BF16: no CPU multiplies FP8",
                _ => "on the GPU's FP8 units",
            };
            lines.push(format!("FP8        factors by {}; {how}", name_of(compute.fp8.scaling)));
        }
        lines.extend(self.task.describe());
        lines
    }

    /// The summary of what `meter` saw; times and the held-out loss are the trainer's to fill in.
    ///
    /// # Errors
    /// What the device throws.
    pub fn summary(&self, meter: &Meter) -> Result<Summary> {
        let fp8_overflows = match self.config.compute.fp8.scaling {
            Fp8Mode::Off => None,
            _ => Some(self.params.fp8_overflows().read()?),
        };
        let steps = self.config.train.max_steps;
        let tokens_per_s = meter.steady_tokens_per_s();
        let best_product_flops = self.speed_of_light.best_flops();
        let flops_per_token = self.task.flops_per_token();
        Ok(Summary {
            steps,
            tokens: meter.seen().tokens,
            slots: meter.seen().slots,
            parameters: self.params.count() as u64,
            tokens_per_s,
            slots_per_s: tokens_per_s * meter.seen().slots as f64
                / meter.seen().tokens.max(1) as f64,
            time_to_first_step_s: 0.0,
            total_time_s: 0.0,
            final_loss: meter.final_loss(),
            held_out_loss: None,
            unigram_entropy: self.task.unigram_entropy(),
            peak_memory_bytes: memory::process().map_or(0, |memory| memory.peak_resident),
            parameter_memory_bytes: held(&self.optimizer, &self.params.params()),
            speed_of_light: tokens_per_s * flops_per_token / best_product_flops,
            best_product_flops,
            flops_per_token,
            data_wait: self.task.waited().as_secs_f64()
                / meter.time_in_steps().as_secs_f64().max(1e-9),
            data_fingerprint: Some(format!("{:016x}", self.task.data_fingerprint())),
            skipped_steps: self.optimizer.skipped(),
            fp8_overflows,
            device: device_name(self.device),
            precision: name_of(self.precision),
            attention: name_of(self.config.compute.attention),
            attention_tier: self.task.attention_tier().map(name_of).unwrap_or_default(),
            threads: get_num_threads().max(1) as u64,
        })
    }
}

/// Refuses FP8 where the device can't multiply in it.
fn refuse_fp8(config: &Fp8Config, device: Device) -> Result<()> {
    if config.scaling == Fp8Mode::Off {
        return Ok(());
    }
    match bert4rs_kernels::fp8::refusal(device) {
        None => Ok(()),
        Some(refusal) => Err(Error::Config {
            origin: "configuration".into(),
            key: "compute.fp8.scaling".into(),
            reason: refusal.to_string(),
        }),
    }
}

fn device_name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".into(),
        Device::Cuda(index) => format!("cuda:{index}"),
        other => format!("{other:?}"),
    }
}

/// A choice under the name that the configuration has for it.
fn name_of<T: serde::Serialize>(choice: T) -> String {
    match toml::Value::try_from(choice) {
        Ok(toml::Value::String(name)) => name,
        _ => String::new(),
    }
}
