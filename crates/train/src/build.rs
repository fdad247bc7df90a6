//! The parts of a run, made from its configuration.

use std::time::Duration;

use bert4rs_data::{
    BatchSource, Fit, Layout, MaskUnit, Progress, Staged, TextTokenizer, TokenBatch,
};
use bert4rs_models::checkpointing::ActivationCheckpointing;
use bert4rs_optim::schedule::Schedule;
use bert4rs_optim::{DataParallel, OptimizerConfig};
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::distributed::ProcessGroup;
use bert4rs_tensor_core::fp8::{Fp8Config, Fp8Mode};
use bert4rs_tensor_core::int8::{Int8Config, Int8Products};
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::policy::{CudaKernels, Policy};
use bert4rs_tensor_core::{Device, graph};

use crate::config::{BackendChoice, Config, Family, Prefetch};
use crate::dataset::{self, Corpora};
use crate::distributed::Ranks;
use crate::error::{Error, Result};
use crate::evaluation::{Validation, ValidationPart};
use crate::execution::Execution;
use crate::facts::Facts;
use crate::init;
use crate::loader::{Ahead, Loader, LoaderOptions, TokenLoader};
use crate::machine::{Machine, MachineOptions};
use crate::task::Task;
use crate::task::causal_lm::{self, CausalLm};
use crate::task::masked_lm::{self, MaskedLm};
use crate::task::span_corruption::{self, SpanCorruption};
use crate::trainer::{TrainOptions, Trainer};
use crate::trouble::TroublePolicy;

/// Everything that a run trains with.
pub struct Parts {
    /// Model and objective.
    pub task: Box<dyn Task>,
    /// The model's parameters.
    pub params: ParamStore,
    /// Batches, and what is known of them.
    pub data: TrainingData,
    /// The update rule.
    pub optimizer: DataParallel,
    /// The learning rate over time.
    pub schedule: Schedule,
    /// The loop's options.
    pub options: TrainOptions,
    /// Why steps are not captured, where they were to be.
    pub no_graphs: Option<&'static str>,
    /// Lines that say which weights training begins with, where they are not drawn.
    pub init: Vec<String>,
}

/// Where a run's weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightSource {
    /// From where the configuration says.
    Initial,
    /// From a checkpoint, later: those that the configuration says are not read.
    Restored,
}

/// Batches to train on and to be measured on.
pub struct TrainingData {
    /// To train on.
    pub loader: Box<dyn Loader>,
    /// To be measured on.
    pub validation: Validation,
    /// What is known of model and data.
    pub facts: Facts,
    /// Batches that show all text to train on once.
    pub epoch_batches: u64,
}

/// Where an objective's batches come from.
pub(crate) struct Sources<S> {
    pub(crate) train: Staged<S>,
    /// What is held out of each corpus: its batches, and how many show all of it once.
    pub(crate) held_out: Vec<(S, u64)>,
    /// What the corpora are called.
    pub(crate) names: Vec<String>,
    /// Batches that show all text to train on once.
    pub(crate) epoch_batches: u64,
    /// The token of padding.
    pub(crate) pad: i64,
}

/// The machine that `config` asks for, for a process alone; see [`Machine::set_up`].
///
/// # Errors
/// A device that is not there, or that can't compute as asked.
pub fn machine(config: &Config) -> Result<Machine> {
    machine_of(config, &Ranks::alone())
}

/// The machine of one of `ranks`.
///
/// # Errors
/// As [`machine`], and a GPU where there are other processes.
pub fn machine_of(config: &Config, ranks: &Ranks) -> Result<Machine> {
    refuse_cpu_isa(config)?;
    let compute = &config.compute;
    Machine::set_up(&MachineOptions {
        device: ranks.device(compute.device.parse()?)?,
        precision: compute.precision,
        threads: compute.threads,
        tf32: compute.tf32,
        // The others take what the leader measured.
        measures_backends: compute.backends.chosen_by == BackendChoice::Measurement
            && ranks.leads(),
        seed: config.seed,
    })
}

/// Makes everything that training in one process needs. `progress` is told how far the corpus'
/// preparation is.
///
/// # Errors
/// Whatever in the configuration, corpus or tokenizer can't be used.
pub fn parts(
    config: &Config,
    machine: &Machine,
    weights: WeightSource,
    progress: &mut dyn FnMut(Progress),
) -> Result<Parts> {
    parts_of(config, machine, (&Ranks::alone(), weights), progress)
}

/// [`parts`] of one of `ranks`. Of those on one machine, one prepares the corpus, and the others
/// wait for it.
///
/// # Errors
/// As [`parts`], and what can't be done by several processes.
pub fn parts_of(
    config: &Config,
    machine: &Machine,
    (ranks, weights): (&Ranks, WeightSource),
    progress: &mut dyn FnMut(Progress),
) -> Result<Parts> {
    let device = machine.device;
    if ranks.group().is_shared() {
        refuse_shared(config)?;
    }
    config
        .compute
        .attention
        .check_device(device)
        .map_err(|error| refuse("compute.attention", error))?;
    refuse_fp8(&config.compute.fp8, device)?;
    let int8 = config.int8_on(device);
    refuse_int8(&int8, device)?;
    let cuda_kernels = cuda_kernels(config, device)?;
    let corpora = dataset::prepare(config, progress)?;
    let data = data(config, &corpora, (device, ranks.group().size()))?;
    let policy = Policy::new(config.compute.kernels, cuda_kernels)
        .with_choices(&machine.backends)
        .with_overrides(&config.compute.backends.overrides());
    let mut params = ParamStore::new(device, machine.precision.compute_kind())
        .with_fp8(config.compute.fp8.clone())
        .with_int8(int8)
        .with_policy(policy.clone());
    let task = task(config, corpora.tokenizer().clone(), &params)?;
    let init = match weights {
        WeightSource::Initial => init::load(config, &mut params)?,
        WeightSource::Restored => Vec::new(),
    };
    let optimizer = OptimizerConfig { policy, ..config.optimizer.clone() };
    let optimizer = DataParallel::new(ranks.group(), optimizer, params.params_mut())?;
    let max_time = (config.train.max_minutes > 0.0)
        .then(|| Duration::from_secs_f64(60.0 * config.train.max_minutes));
    let steps = data.steps(config, ranks.group().size());
    let max_steps = if max_time.is_some() { u64::MAX } else { steps };
    let schedule = config.schedule.resolve(config.horizon(max_steps))?;
    let (execution, no_graphs) = execution(config, device);
    refuse_unread_spikes(config, execution)?;
    let options = TrainOptions {
        max_steps,
        max_time,
        update_ratio_every: config.train.update_ratio_every,
        accumulate: config.train.accumulate,
        log_every: config.train.log_every,
        eval_every: config.train.eval_every,
        execution,
    };
    Ok(Parts { task, params, data, optimizer, schedule, options, no_graphs, init })
}

impl Parts {
    /// The trainer of these parts, and what is known of them.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn into_trainer(self) -> Result<(Trainer, Facts)> {
        self.into_trainer_of(&Ranks::alone())
    }

    /// The same as one of `ranks`.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn into_trainer_of(self, ranks: &Ranks) -> Result<(Trainer, Facts)> {
        let Self { task, params, data, optimizer, schedule, options, .. } = self;
        let TrainingData { loader, validation, facts, .. } = data;
        let trainer = Trainer::new(task, loader, params, optimizer, schedule, options)?;
        Ok((trainer.with_validation(validation).with_group(ranks.group())?, facts))
    }
}

/// The batches that a run of `config` is trained on, without its model.
///
/// # Errors
/// As [`parts`].
pub fn training_data(config: &Config, progress: &mut dyn FnMut(Progress)) -> Result<TrainingData> {
    data(config, &dataset::prepare(config, progress)?, (Device::Cpu, 1))
}

/// Batches of `corpora` for training and validation on `device`, of a run on so many ranks.
pub(crate) fn data(
    config: &Config,
    corpora: &Corpora,
    (device, ranks): (Device, usize),
) -> Result<TrainingData> {
    match config.model.family {
        Family::Bert => masked_lm::data(config, corpora, (device, ranks)),
        Family::Gpt => causal_lm::data(config, corpora, (device, ranks)),
        Family::T5 => span_corruption::data(config, corpora, (device, ranks)),
    }
}

/// Makes the model in `params`.
pub(crate) fn task(
    config: &Config,
    tokenizer: TextTokenizer,
    params: &ParamStore,
) -> Result<Box<dyn Task>> {
    Ok(match config.model.family {
        Family::Bert => Box::new(MaskedLm::new(config, tokenizer, params)?),
        Family::Gpt => Box::new(CausalLm::new(config, tokenizer, params)?),
        Family::T5 => Box::new(SpanCorruption::new(config, tokenizer, params)?),
    })
}

impl TrainingData {
    /// Loaders of `sources`.
    pub(crate) fn new<S>(
        config: &Config,
        device: Device,
        sources: Sources<S>,
        facts: Facts,
    ) -> Result<Self>
    where
        S: BatchSource<Batch: TokenBatch> + 'static,
    {
        let Sources { train, held_out, names, epoch_batches, pad } = sources;
        let (execution, _) = execution(config, device);
        let options = LoaderOptions {
            device,
            pad,
            counted: config.leaves_padding_out(execution),
            prefetch: ahead(config, device),
            workers: config.data.workers as usize,
        };
        let held_out_options =
            LoaderOptions { counted: true, prefetch: Ahead::Batches(0), ..options };
        let several = held_out.len() > 1;
        let of_each = config.train.eval_sequences.div_ceil(held_out.len().max(1) as u32);
        let wanted = u64::from(of_each.div_ceil(config.data.batch_size));
        let mut parts = Vec::new();
        for ((source, batches), name) in held_out.into_iter().zip(&names) {
            parts.push(ValidationPart {
                name: several.then(|| name.clone()),
                loader: Box::new(TokenLoader::new(source, held_out_options)?),
                batches: batches.min(wanted),
            });
        }
        Ok(Self {
            loader: Box::new(TokenLoader::new(train, options)?.with_names(names)),
            validation: Validation::of(parts),
            facts,
            epoch_batches,
        })
    }

    /// Optimizer steps of a run of `config` on so many ranks.
    fn steps(&self, config: &Config, ranks: usize) -> u64 {
        match config.train.epochs {
            0 => config.train.max_steps,
            epochs => {
                let batches = self.epoch_batches.saturating_mul(epochs.into());
                let per_step = u64::from(config.train.accumulate) * ranks as u64;
                batches.div_ceil(per_step).max(1)
            }
        }
    }
}

/// How many batches are made ahead.
fn ahead(config: &Config, device: Device) -> Ahead {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = config.compute.threads as usize;
    match config.data.prefetch {
        Prefetch::Batches(count) => Ahead::Batches(count as usize),
        Prefetch::Auto(_) => {
            let has_free_core = device != Device::Cpu || (threads > 0 && threads < cores);
            Ahead::Auto { has_free_core }
        }
    }
}

/// How steps run where `config` asks for CUDA graphs, and why not as captured ones, if so.
pub(crate) fn execution(config: &Config, device: Device) -> (Execution, Option<&'static str>) {
    let drops = config.model.dropout > 0.0 || config.model.attention_dropout > 0.0;
    let recomputes = config.compute.activation_checkpointing != ActivationCheckpointing::None;
    let obstacle = match (config.compute.execution, device) {
        (Execution::Eager | Execution::Capturable, _) => return (config.compute.execution, None),
        (Execution::CudaGraphs, Device::Cuda(_)) if !graph::is_built_in() => {
            "this program was built without CUDA's headers"
        }
        (Execution::CudaGraphs, Device::Cuda(_)) if config.data.packing != Layout::Packed => {
            "padded batches differ in shape; choose data.packing = \"packed\""
        }
        (Execution::CudaGraphs, Device::Cuda(_))
            if config.compute.attention == AttentionImplementation::Varlen =>
        {
            "the host reads where documents begin; choose compute.attention = \"fused\""
        }
        (Execution::CudaGraphs, Device::Cuda(_)) if masks_differ(config) => {
            "the number of masked tokens differs from batch to batch; choose data.mask_unit = \
             \"tokens\", data.fit = \"end-to-end\" and no data.final_mask_rate"
        }
        (Execution::CudaGraphs, Device::Cuda(_)) if drops && recomputes => {
            "a block computed again draws its dropout anew; choose \
             compute.activation_checkpointing = \"none\""
        }
        (Execution::CudaGraphs, Device::Cuda(_)) => return (Execution::CudaGraphs, None),
        (Execution::CudaGraphs, _) => return (Execution::Eager, Some("they are for GPUs")),
    };
    (Execution::Capturable, Some(obstacle))
}

/// Refuses what several processes can't do.
fn refuse_shared(config: &Config) -> Result<()> {
    if config.compute.execution == Execution::Capturable {
        let reason = "a step between processes waits for them; choose eager";
        return Err(refuse("compute.execution", reason));
    }
    if config.compute.fp8.scaling == Fp8Mode::Delayed {
        let reason = "each process would have other histories; choose tensor or row";
        return Err(refuse("compute.fp8.scaling", reason));
    }
    Ok(())
}

/// Spikes are skipped by reading each step's loss, for which only eager steps wait.
fn refuse_unread_spikes(config: &Config, execution: Execution) -> Result<()> {
    if policy(config).skips_spikes() && execution != Execution::Eager {
        let reason = "skip reads each step's loss before it acts, and these steps are launched \
                      without; choose rollback or stop, or compute.execution = \"eager\"";
        return Err(refuse("train.on_spike", reason));
    }
    Ok(())
}

/// What a run of `config` does about trouble.
pub(crate) fn policy(config: &Config) -> TroublePolicy {
    let train = &config.train;
    TroublePolicy { on_nan: train.on_nan, on_spike: train.on_spike, spike_nats: train.spike_nats }
}

/// Whether BERT's batches differ in how many tokens are masked.
fn masks_differ(config: &Config) -> bool {
    let data = &config.data;
    let varies =
        data.mask_unit != MaskUnit::Tokens || data.final_mask_rate > 0.0 || data.fit == Fit::Best;
    config.model.family == Family::Bert && varies
}

/// Refuses FP8 where the device can't multiply in it.
fn refuse_fp8(config: &Fp8Config, device: Device) -> Result<()> {
    match bert4rs_kernels::fp8::unsupported_reason(device) {
        Some(reason) if config.scaling != Fp8Mode::Off => {
            Err(refuse("compute.fp8.scaling", reason))
        }
        _ => Ok(()),
    }
}

/// Own kernels where they can be compiled, known at once rather than in the first step: those that
/// are asked for by name are refused, those that are merely the default are done without.
fn cuda_kernels(config: &Config, device: Device) -> Result<CudaKernels> {
    let kernels = config.compute.cuda_kernels;
    if !device.is_cuda() || kernels == CudaKernels::None && !uses_fp8(config) {
        return Ok(kernels);
    }
    match bert4rs_kernels::cuda::nvrtc::available() {
        Err(error) if kernels == CudaKernels::All => Err(refuse("compute.cuda_kernels", error)),
        Err(error) if uses_fp8(config) => Err(refuse("compute.fp8.scaling", error)),
        Err(_) => Ok(CudaKernels::None),
        Ok(()) => Ok(kernels),
    }
}

fn uses_fp8(config: &Config) -> bool {
    config.compute.fp8.scaling != Fp8Mode::Off
}

/// Refuses 8-bit integers where there are no products of them.
fn refuse_int8(config: &Int8Config, device: Device) -> Result<()> {
    match bert4rs_kernels::int8::unsupported_reason(device) {
        Some(reason) if config.products != Int8Products::Off => {
            Err(refuse("compute.int8.products", reason))
        }
        _ => Ok(()),
    }
}

/// Refuses a class of processor that the process was not started with: libraries are loaded.
fn refuse_cpu_isa(config: &Config) -> Result<()> {
    let Some(isa) = config.cpu_isa().filter(|isa| !isa.is_in_force()) else { return Ok(()) };
    let variables = isa.environment().map(|(name, value)| format!("{name}={value}"));
    let reason = format!(
        "{} has to be in force before libtorch is loaded; start the program with {}",
        isa.name(),
        variables.join(" ")
    );
    Err(refuse("compute.cpu_isa", reason))
}

/// The error for the value of `key`.
fn refuse(key: &str, reason: impl ToString) -> Error {
    Error::Config { origin: "configuration".into(), key: key.into(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overlay, resolve};

    /// How steps would run on a GPU.
    fn on_gpu(settings: &str) -> (Execution, Option<&'static str>) {
        let graphs = "compute.execution = \"cuda_graphs\"\ndata.packing = \"packed\"";
        let overlays = [graphs, settings].map(|text| Overlay::parse("test", text).unwrap());
        execution(&resolve(&overlays).unwrap(), Device::Cuda(0))
    }

    #[test]
    fn what_can_not_be_recorded_is_known_before_the_first_step() {
        if !graph::is_built_in() {
            return bert4rs_tensor_core::testing::skip("built without CUDA's headers");
        }
        assert_eq!(on_gpu(""), (Execution::CudaGraphs, None));
        let again = "compute.activation_checkpointing = \"blocks\"";
        assert_eq!(on_gpu(again), (Execution::CudaGraphs, None), "nothing drops");
        let varlen = "compute.precision = \"bf16\"\ncompute.attention = \"varlen\"";
        for (settings, word) in [
            (varlen.to_owned(), "documents"),
            (format!("{again}\nmodel.dropout = 0.1"), "dropout"),
            ("data.packing = \"padded\"".to_owned(), "shape"),
        ] {
            let (execution, why) = on_gpu(&settings);
            assert_eq!(execution, Execution::Capturable, "{settings}");
            assert!(why.is_some_and(|why| why.contains(word)), "{settings}: {why:?}");
        }
    }
}
