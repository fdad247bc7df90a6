//! Model, data and optimizer made from a configuration, and one optimizer step.

use std::path::Path;

use bert4rs_optim::Optimizer;
use bert4rs_optim::memory::allocated_bytes;
use bert4rs_optim::schedule::{Horizon, Schedule};
use bert4rs_tensor_core::copy_stream::CopyStream;
use bert4rs_tensor_core::device::DeviceChoice;
use bert4rs_tensor_core::fp8::{Fp8Config, Fp8Mode};
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::precision::{Precision, allow_tf32};
use bert4rs_tensor_core::speed_of_light::{self, SpeedOfLight};
use bert4rs_tensor_core::{Device, Tensor, cpu, get_num_threads, memory, random, set_num_threads};

use crate::config::{Config, Family, Graphs};
use crate::console::Console;
use crate::error::{Error, Result};
use crate::fixed::{self, FixedSteps};
use crate::metrics::{Meter, StepOutcome, Summary};
use crate::task::causal_lm::CausalLm;
use crate::task::masked_lm::MaskedLm;
use crate::task::span_corruption::SpanCorruption;
use crate::task::{BatchSize, Task};
use crate::work::Work;

/// Everything that a run holds while it trains.
pub struct Session {
    config: Config,
    device: Device,
    precision: Precision,
    precision_reason: &'static str,
    speed_of_light: SpeedOfLight,
    work: Work,
    /// Absent where the host looks at each step.
    fixed: Option<FixedSteps>,
    /// Copies batches to a GPU while it computes.
    copy_stream: Option<CopyStream>,
    /// Why steps are not recorded, where they were to be.
    no_graphs: Option<&'static str>,
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
        let (graphs, no_graphs) = fixed::resolve(config, device);
        let mut config = config.clone();
        config.compute.graphs = graphs;
        let config = &config;
        config.compute.attention.check_device(device).map_err(|error| Error::Config {
            origin: "configuration".into(),
            key: "compute.attention".into(),
            reason: error.to_string(),
        })?;
        allow_tf32(config.compute.tf32, device).map_err(|error| Error::Config {
            origin: "configuration".into(),
            key: "compute.tf32".into(),
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
        let work = Work::new(task, params, optimizer);
        let fixed = match graphs {
            Graphs::Off => None,
            _ => Some(FixedSteps::new(graphs, device)),
        };
        let copy_stream =
            matches!(device, Device::Cuda(_)).then(|| CopyStream::new(device)).transpose()?;
        Ok(Self {
            config: config.clone(),
            device,
            precision,
            precision_reason,
            speed_of_light,
            work,
            fixed,
            copy_stream,
            no_graphs,
            schedule,
        })
    }

    /// One optimizer step, counted from 1.
    pub fn step(&mut self, step: u64) -> Result<StepOutcome> {
        let (batches, size) = self.batches_of_step()?;
        let factor = self.schedule.factor((step - 1) as f64);
        let (loss, grad_norm) = match &mut self.fixed {
            Some(fixed) => fixed.step(&mut self.work, &batches, factor)?,
            None => {
                let (loss, report) = self.work.step(&batches, factor)?;
                (loss, Tensor::from(report.grad_norm))
            }
        };
        let lr = self.config.optimizer.adamw.lr * factor;
        let muon_lr = self.config.optimizer.muon.as_ref().map(|muon| muon.lr * factor);
        let device_bytes = memory::of_device(self.device)?.map(|memory| memory.allocated);
        Ok(StepOutcome { loss, size, lr, muon_lr, grad_norm, device_bytes })
    }

    /// The batches of one step, on the device.
    fn batches_of_step(&mut self) -> Result<(Vec<Vec<Tensor>>, BatchSize)> {
        let (task, count) = (&mut self.work.task, self.config.train.accumulate);
        let mut take = || {
            let (mut batches, mut size) = (Vec::new(), BatchSize::default());
            for _ in 0..count {
                let batch = task.next_batch()?;
                batches.push(batch.tensors);
                size += batch.size;
            }
            Ok((batches, size))
        };
        match &self.copy_stream {
            Some(copy_stream) => {
                copy_stream.run(take, |(batches, _)| batches.iter().flatten().collect())
            }
            None => take(),
        }
    }

    /// Makes the host know what only the device knows, such as which steps were skipped. Waits for
    /// the device. To be called before anything but steps.
    ///
    /// # Errors
    /// Too many skipped steps in a row.
    pub fn settle(&mut self) -> Result<()> {
        Ok(self.work.optimizer.sync_counters()?)
    }

    /// What happened in the last steps that a person should know.
    pub fn take_note(&mut self) -> Option<String> {
        self.fixed.as_mut().and_then(FixedSteps::take_note)
    }

    /// Optimizer steps of the whole run.
    pub fn max_steps(&self) -> u64 {
        self.config.train.max_steps
    }

    /// Batch number `index` as the model gets it, by the names of its tensors.
    pub fn batch(&self, index: u64) -> Result<Vec<(&'static str, Tensor)>> {
        self.work.task.batch(index)
    }

    /// Loss on held-out text, `None` where none is to be measured.
    pub fn held_out_loss(&self) -> Result<Option<f64>> {
        self.work.task.held_out_loss()
    }

    /// Bytes that [`export`](Self::export) writes: exact values in FP32, and room for what
    /// stands beside them.
    pub fn export_bytes(&self) -> u64 {
        const BESIDE: u64 = 4 << 20;
        4 * self.work.params.count() as u64 + BESIDE
    }

    /// Writes the model to `folder`.
    pub fn export(&self, folder: &Path) -> Result<()> {
        self.work.task.export(folder, &self.work.params)
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
            format!("model      {:.2} M parameters", self.work.params.count() as f64 / 1e6),
        ];
        if compute.fp8.scaling != Fp8Mode::Off {
            let how = match self.device {
                Device::Cpu => "emulated, slower than BF16: no CPU multiplies FP8",
                _ => "on the GPU's FP8 units",
            };
            lines.push(format!("FP8        factors by {}; {how}", name_of(compute.fp8.scaling)));
        }
        lines.extend(self.describe_graphs());
        lines.extend(self.work.task.describe());
        lines
    }

    fn describe_graphs(&self) -> Option<String> {
        let how = match (self.config.compute.graphs, self.no_graphs) {
            (_, Some(reason)) => format!("not used: {reason}"),
            (Graphs::Auto, None) => "a step is recorded and replayed as a whole".into(),
            (Graphs::Fixed, None) => "not used; no step waits for the device".into(),
            (Graphs::Off, None) => return None,
        };
        Some(format!("graphs     {how}"))
    }

    /// The summary of what `meter` saw; times and the held-out loss are the trainer's to fill in.
    ///
    /// # Errors
    /// What the device throws.
    pub fn summary(&self, meter: &Meter) -> Result<Summary> {
        let fp8_overflows = match self.config.compute.fp8.scaling {
            Fp8Mode::Off => None,
            _ => Some(self.work.params.fp8_overflows().read()?),
        };
        let device_memory = memory::of_device(self.device)?;
        let steps = self.config.train.max_steps;
        let tokens_per_s = meter.steady_tokens_per_s();
        let best_product_flops = self.speed_of_light.best_flops();
        let flops_per_token = self.work.task.flops_per_token();
        Ok(Summary {
            steps,
            tokens: meter.seen().tokens,
            slots: meter.seen().slots,
            parameters: self.work.params.count() as u64,
            tokens_per_s,
            slots_per_s: tokens_per_s * meter.seen().slots as f64
                / meter.seen().tokens.max(1) as f64,
            time_to_first_step_s: 0.0,
            total_time_s: 0.0,
            final_loss: meter.final_loss(),
            held_out_loss: None,
            unigram_entropy: self.work.task.unigram_entropy(),
            peak_memory_bytes: memory::process().map_or(0, |memory| memory.peak_resident),
            peak_device_bytes: device_memory.map(|memory| memory.peak_allocated),
            peak_device_reserved_bytes: device_memory.map(|memory| memory.peak_reserved),
            parameter_memory_bytes: allocated_bytes(
                &self.work.optimizer,
                &self.work.params.params(),
            )?,
            speed_of_light: tokens_per_s * flops_per_token / best_product_flops,
            best_product_flops,
            flops_per_token,
            data_wait: self.work.task.waited().as_secs_f64()
                / meter.time_in_steps().as_secs_f64().max(1e-9),
            data_fingerprint: Some(format!("{:016x}", self.work.task.data_fingerprint())),
            skipped_steps: self.work.optimizer.skipped(),
            fp8_overflows,
            device: device_name(self.device),
            precision: name_of(self.precision),
            attention: name_of(self.config.compute.attention),
            attention_backend: self.work.task.attention_backend().map(name_of).unwrap_or_default(),
            threads: get_num_threads().max(1) as u64,
        })
    }
}

/// Refuses FP8 where the device can't multiply in it.
fn refuse_fp8(config: &Fp8Config, device: Device) -> Result<()> {
    if config.scaling == Fp8Mode::Off {
        return Ok(());
    }
    match bert4rs_kernels::fp8::unsupported_reason(device) {
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
