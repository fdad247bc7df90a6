//! The loop.

use bert4rs_optim::Optimizer;
use bert4rs_optim::schedule::Schedule;
use bert4rs_tensor_core::copy_stream::CopyStream;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Tensor, memory};

use crate::batch::{Batch, BatchDigest, BatchSize, NamedTensors};
use crate::captured_steps::CapturedSteps;
use crate::clock::ProcessClock;
use crate::error::{Error, Result};
use crate::evaluation::{Evaluation, Validation};
use crate::execution::Execution;
use crate::hook::{Control, Hook, StepContext};
use crate::loader::Loader;
use crate::metrics::{Meter, MetricSink, StepOutcome, StepRecord};
use crate::task::{Task, divisor};
use crate::train_step::TrainStep;

/// How the loop runs.
#[derive(Debug, Clone, Copy)]
pub struct TrainOptions {
    /// Optimizer steps of the whole run.
    pub max_steps: u64,
    /// Batches whose gradients add up to one step, at least 1.
    pub accumulate: u32,
    /// Steps between two reports to the sinks, at least 1: the loop waits for the device there.
    pub log_every: u64,
    /// How a step's work is launched.
    pub execution: Execution,
}

impl TrainOptions {
    /// So many steps of one batch each, eagerly, with a report every ten.
    pub fn steps(max_steps: u64) -> Self {
        Self { max_steps, accumulate: 1, log_every: 10, execution: Execution::Eager }
    }
}

/// Trains a model.
pub struct Trainer {
    work: TrainStep,
    loader: Box<dyn Loader>,
    schedule: Schedule,
    options: TrainOptions,
    /// Absent where the host looks at each step.
    captured: Option<CapturedSteps>,
    /// Copies batches to a GPU while it computes.
    copy_stream: Option<CopyStream>,
    validation: Option<Validation>,
    hooks: Vec<Box<dyn Hook>>,
    sinks: Vec<Box<dyn MetricSink>>,
    meter: Meter,
    clock: ProcessClock,
    /// Steps taken.
    steps: u64,
}

impl Trainer {
    /// A trainer of `task`, whose parameters are `params`, on the batches of `loader`.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn new(
        task: Box<dyn Task>,
        loader: Box<dyn Loader>,
        params: ParamStore,
        optimizer: Optimizer,
        schedule: Schedule,
        options: TrainOptions,
    ) -> Result<Self> {
        let device = params.device();
        let work = TrainStep::new(task, params, optimizer);
        let captured = match options.execution {
            Execution::Eager => None,
            execution => Some(CapturedSteps::new(execution, device)?),
        };
        let copy_stream =
            matches!(device, Device::Cuda(_)).then(|| CopyStream::new(device)).transpose()?;
        Ok(Self {
            work,
            loader,
            schedule,
            options,
            captured,
            copy_stream,
            validation: None,
            hooks: Vec::new(),
            sinks: Vec::new(),
            meter: Meter::new(),
            clock: ProcessClock::new(),
            steps: 0,
        })
    }

    /// The same with times counted from when `clock` began: the process' beginning, rather than
    /// the trainer's.
    pub fn with_clock(mut self, clock: ProcessClock) -> Self {
        self.clock = clock;
        self
    }

    /// The same with an outlet for what is measured.
    pub fn with_sink(mut self, sink: impl MetricSink + 'static) -> Self {
        self.sinks.push(Box::new(sink));
        self
    }

    /// The same with code that runs within the loop.
    pub fn with_hook(mut self, hook: impl Hook + 'static) -> Self {
        self.hooks.push(Box::new(hook));
        self
    }

    /// The same with text to be measured on.
    pub fn with_validation(mut self, validation: Validation) -> Self {
        self.validation = Some(validation);
        self
    }

    /// Trains until all steps are taken, or a hook stops it.
    ///
    /// # Errors
    /// A loss that is not finite, and whatever batches, hooks, sinks and the machine refuse. What
    /// was recorded until then is in the sinks.
    pub fn run(&mut self) -> Result<()> {
        let mut control = Control::default();
        while self.steps < self.options.max_steps && !control.stop {
            self.meter.begin_step();
            let outcome = self.step()?;
            self.meter.end_step(self.steps, &outcome, self.clock.elapsed());
            self.call_hooks(&outcome, &mut control)?;
            let evaluates = std::mem::take(&mut control.evaluate);
            if evaluates {
                self.evaluate_within(&mut control)?;
            }
            let is_last = self.steps == self.options.max_steps || control.stop;
            let is_due = self.steps == 1 || self.steps.is_multiple_of(self.options.log_every);
            if is_due || is_last || evaluates {
                self.report()?;
            }
        }
        self.sinks.iter_mut().try_for_each(|sink| sink.finish())?;
        self.hooks.iter_mut().try_for_each(|hook| hook.on_end())
    }

    /// One optimizer step, without records, hooks and sinks.
    ///
    /// # Errors
    /// What batches and the machine refuse.
    pub fn step(&mut self) -> Result<StepOutcome> {
        let factor = self.schedule.factor(self.steps as f64);
        let waited_before = self.loader.waited();
        let (batches, size, digests) = self.batches_of_step()?;
        let waited = self.loader.waited().saturating_sub(waited_before);
        let (loss, grad_norm) = match &mut self.captured {
            Some(captured) => captured.step(&mut self.work, &batches, size.labels, factor)?,
            None => {
                let labels = divisor(size.labels, self.work.params.device())?;
                let (loss, report) = self.work.step(&batches, &labels, factor)?;
                (loss, Tensor::from(report.grad_norm))
            }
        };
        self.steps += 1;
        let optimizer = self.work.optimizer.config();
        let lr = optimizer.adamw.lr * factor;
        let muon_lr = optimizer.muon.as_ref().map(|muon| muon.lr * factor);
        let device_bytes = memory::of_device(self.work.params.device())?;
        let device_bytes = device_bytes.map(|memory| memory.allocated);
        Ok(StepOutcome { loss, size, lr, muon_lr, grad_norm, device_bytes, waited, digests })
    }

    /// The batches of one step, on the device.
    fn batches_of_step(&mut self) -> Result<(Vec<NamedTensors>, BatchSize, Vec<BatchDigest>)> {
        let (loader, count) = (&mut self.loader, self.options.accumulate);
        let mut take = || {
            let (mut batches, mut size, mut digests) = (Vec::new(), BatchSize::default(), vec![]);
            for _ in 0..count {
                let batch: Batch = loader.next()?;
                batches.push(batch.tensors);
                size += batch.size;
                digests.extend(batch.digest);
            }
            Ok((batches, size, digests))
        };
        match &self.copy_stream {
            Some(copy_stream) => copy_stream.run(take, |(batches, ..)| {
                batches.iter().flat_map(NamedTensors::tensors).collect()
            }),
            None => take(),
        }
    }

    fn call_hooks(&mut self, outcome: &StepOutcome, control: &mut Control) -> Result<()> {
        let (params, optimizer) = (&self.work.params, &self.work.optimizer);
        let (step, max_steps) = (self.steps, self.options.max_steps);
        let context = StepContext { step, max_steps, outcome, params, optimizer };
        self.hooks.iter_mut().try_for_each(|hook| hook.on_step(&context, control))
    }

    /// Reads the losses since the last report and gives them to the sinks: the loop's one wait for
    /// the device.
    fn report(&mut self) -> Result<()> {
        let records = self.meter.flush()?;
        self.sinks.iter_mut().try_for_each(|sink| sink.steps(&records))?;
        let mut warnings: Vec<String> =
            self.sinks.iter_mut().filter_map(|sink| sink.take_warning()).collect();
        warnings.extend(self.captured.as_mut().and_then(CapturedSteps::take_warning));
        for sink in &mut self.sinks {
            warnings.iter().for_each(|warning| sink.warning(warning));
        }
        records.last().map_or(Ok(()), refuse_divergence)?;
        Ok(self.work.optimizer.sync_counters()?)
    }

    /// Measures the model on held-out text; nothing where there is none to be measured on.
    ///
    /// # Errors
    /// What making a batch can meet, and what libtorch throws.
    pub fn evaluate(&mut self) -> Result<Option<Evaluation>> {
        let Some(validation) = &mut self.validation else { return Ok(None) };
        validation.run(&*self.work.task, self.steps)
    }

    fn evaluate_within(&mut self, control: &mut Control) -> Result<()> {
        let Some(evaluation) = self.evaluate()? else { return Ok(()) };
        self.meter.note_held_out(&evaluation);
        self.hooks.iter_mut().try_for_each(|hook| hook.on_eval(&evaluation, control))
    }

    /// The model and its objective.
    pub fn task(&self) -> &dyn Task {
        &*self.work.task
    }

    /// The model's parameters.
    pub fn params(&self) -> &ParamStore {
        &self.work.params
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &Optimizer {
        &self.work.optimizer
    }

    /// What was measured so far.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Time spent waiting for batches.
    pub fn waited(&self) -> std::time::Duration {
        self.loader.waited()
    }
}

fn refuse_divergence(latest: &StepRecord) -> Result<()> {
    if latest.loss.is_finite() {
        return Ok(());
    }
    Err(Error::Diverged {
        step: latest.step,
        reason: format!(
            "the loss is {}; try a lower optimizer.adamw.lr or a longer schedule.warmup",
            latest.loss
        ),
    })
}
