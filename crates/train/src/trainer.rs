//! The loop.

use std::time::Instant;

use bert4rs_data::Fingerprint;
use bert4rs_optim::schedule::Schedule;
use bert4rs_optim::{DataParallel, Optimizer};
use bert4rs_tensor_core::copy_stream::CopyStream;
use bert4rs_tensor_core::distributed::ProcessGroup;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Error as Core, Tensor, memory};

use crate::batch::{Batch, BatchDigest, BatchSize, NamedTensors};
use crate::captured_steps::{CaptureUsage, CapturedSteps};
use crate::checkpoint::{Checkpoint, Checkpointer, RunProgress, TrainState};
use crate::clock::ProcessClock;
use crate::distributed::{self, MeteredGroup, RankTimes, Traffic};
use crate::error::{Error, Result};
use crate::evaluation::{Evaluation, Measure};
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
    /// Steps between two measurements on held-out text; 0 measures only when asked to.
    pub eval_every: u64,
    /// How a step's work is launched.
    pub execution: Execution,
}

impl TrainOptions {
    /// So many steps of one batch each, eagerly, with a report every ten.
    pub fn steps(max_steps: u64) -> Self {
        let (accumulate, log_every, eval_every) = (1, 10, 0);
        Self { max_steps, accumulate, log_every, eval_every, execution: Execution::Eager }
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
    validation: Option<Box<dyn Measure>>,
    checkpointer: Option<Checkpointer>,
    hooks: Vec<Box<dyn Hook>>,
    sinks: Vec<Box<dyn MetricSink>>,
    meter: Meter,
    clock: ProcessClock,
    /// Steps taken.
    steps: u64,
    /// As measured after the last step, if it was.
    held_out_loss: Option<f64>,
}

/// What is to be done after a step.
#[derive(Debug, Clone, Copy)]
struct Due {
    report: bool,
    evaluate: bool,
    checkpoint: bool,
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
        optimizer: impl Into<DataParallel>,
        schedule: Schedule,
        options: TrainOptions,
    ) -> Result<Self> {
        let device = params.device();
        let work = TrainStep::new(task, params, optimizer.into());
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
            checkpointer: None,
            hooks: Vec::new(),
            sinks: Vec::new(),
            meter: Meter::new(),
            clock: ProcessClock::new(),
            steps: 0,
            held_out_loss: None,
        })
    }

    /// The same with times counted from when `clock` began: the process' beginning, rather than
    /// the trainer's.
    pub fn with_clock(mut self, clock: ProcessClock) -> Self {
        self.clock = clock;
        self
    }

    /// The same as one of `group`, each of which trains on its own batches: they exchange gradients
    /// and take the same steps. All must have the same parameters, optimizer and options, and make
    /// the same calls.
    ///
    /// # Errors
    /// Loaders that can't leave batches to others, and steps that are not eager.
    pub fn with_group(mut self, group: &MeteredGroup) -> Result<Self> {
        if group.is_shared() && self.captured.is_some() {
            let what = "a step without a look of the host at its gradients".into();
            let reason = "processes exchange gradients in it; choose eager execution".into();
            return Err(Core::Unsupported { what, reason }.into());
        }
        self.loader.divide(group.rank(), group.size())?;
        if let Some(validation) = &mut self.validation {
            validation.divide(group)?;
        }
        self.work.group = group.clone();
        Ok(self)
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

    /// The same with what it is measured on.
    pub fn with_validation(mut self, validation: impl Measure + 'static) -> Self {
        self.validation = Some(Box::new(validation));
        self
    }

    /// The same with checkpoints.
    pub fn with_checkpoints(mut self, checkpointer: Checkpointer) -> Self {
        self.checkpointer = Some(checkpointer);
        self
    }

    /// Goes on where `state` was saved; `records` are those of all steps until then.
    ///
    /// # Errors
    /// The state of another model or optimizer, one that is damaged, and one of steps that learned
    /// from more or fewer batches.
    pub fn go_on(&mut self, state: &TrainState, records: &[StepRecord]) -> Result<()> {
        let RunProgress { step, position, fingerprint, .. } = &state.progress;
        let (before, now) = (state.progress.batches_per_step, self.batches_per_step());
        if before.is_some_and(|before| before != now) {
            return Err(Error::Config {
                origin: "checkpoint".into(),
                key: "train.accumulate".into(),
                reason: format!(
                    "a step learned from {} batches, and {} processes with train.accumulate {} \
                     make it {now}; choose them so that their product stays",
                    before.unwrap_or_default(),
                    self.work.group.size(),
                    self.options.accumulate
                ),
            });
        }
        let fingerprint = Fingerprint::from_hex(fingerprint).ok_or_else(|| Core::Unsupported {
            what: format!("the fingerprint {fingerprint:?}"),
            reason: "expected 64 hexadecimal digits".into(),
        })?;
        self.loader.seek(*position)?;
        self.meter.go_on(records, fingerprint);
        self.steps = *step;
        let TrainStep { params, optimizer, group, .. } = &mut self.work;
        state.restore(params, optimizer, group.rank())
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
            let due = self.due(&mut control)?;
            if due.report {
                self.report(due, &mut control)?;
            }
            if due.checkpoint {
                self.checkpoint(&mut control)?;
            }
        }
        self.end(&mut control)
    }

    /// What is to be done after this step.
    fn due(&self, control: &mut Control) -> Result<Due> {
        let TrainOptions { max_steps, log_every, eval_every, .. } = self.options;
        let every = |steps: u64| steps > 0 && self.steps.is_multiple_of(steps);
        let evaluate = std::mem::take(&mut control.evaluate) || every(eval_every);
        let asked = std::mem::take(&mut control.checkpoint);
        let is_due = |checkpointer: &Checkpointer| asked || checkpointer.is_due(self.steps);
        let checkpoint = self.checkpointer.as_ref().is_some_and(is_due);
        let wishes = [control.stop, evaluate, checkpoint].map(i64::from);
        let agreed = distributed::agree_on(&self.work.group, wishes)?;
        let [stop, evaluate, checkpoint] = agreed.map(|wish| wish > 0);
        control.stop = stop;
        let is_last = self.steps == max_steps || stop;
        let report = self.steps == 1 || is_last || evaluate || checkpoint || every(log_every);
        Ok(Due { report, evaluate, checkpoint })
    }

    /// One optimizer step, without records, hooks and sinks.
    ///
    /// # Errors
    /// What batches and the machine refuse.
    pub fn step(&mut self) -> Result<StepOutcome> {
        let (began, before) = (Instant::now(), self.work.group.traffic());
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
        let (loss, ranks) = self.end_of_ranks(loss, began, before)?;
        self.steps += 1;
        let optimizer = self.work.optimizer.local().config();
        let lr = optimizer.adamw.lr * factor;
        let muon_lr = optimizer.muon.as_ref().map(|muon| muon.lr * factor);
        let device_bytes = memory::of_device(self.work.params.device())?;
        let device_bytes = device_bytes.map(|memory| memory.allocated);
        Ok(StepOutcome { loss, size, lr, muon_lr, grad_norm, device_bytes, waited, digests, ranks })
    }

    /// The loss of all ranks, and what the step cost, of which `began` and `before` are the start.
    fn end_of_ranks(
        &self,
        loss: Tensor,
        began: Instant,
        before: Traffic,
    ) -> Result<(Tensor, Option<RankTimes>)> {
        let group = &self.work.group;
        let busy = began.elapsed().saturating_sub((group.traffic() - before).waited);
        distributed::end_step(group, loss, busy, before)
    }

    /// The batches of one step, on the device; sizes and digests are those of all ranks.
    fn batches_of_step(&mut self) -> Result<(Vec<NamedTensors>, BatchSize, Vec<BatchDigest>)> {
        let (loader, count) = (&mut self.loader, self.options.accumulate);
        let mut take = || -> Result<_> {
            let (mut batches, mut size, mut digests) = (Vec::new(), BatchSize::default(), vec![]);
            for _ in 0..count {
                let batch: Batch = loader.next()?;
                batches.push(batch.tensors);
                size += batch.size;
                digests.push(batch.digest);
            }
            Ok((batches, size, digests))
        };
        let (batches, size, digests) = match &self.copy_stream {
            Some(copy_stream) => copy_stream.run(take, |(batches, ..)| {
                batches.iter().flat_map(NamedTensors::tensors).collect()
            }),
            None => take(),
        }?;
        let (size, digests) = distributed::gather_batches(&self.work.group, size, digests)?;
        Ok((batches, size, digests))
    }

    fn call_hooks(&mut self, outcome: &StepOutcome, control: &mut Control) -> Result<()> {
        let (params, optimizer) = (&self.work.params, self.work.optimizer.local());
        let (step, max_steps) = (self.steps, self.options.max_steps);
        let context = StepContext { step, max_steps, outcome, params, optimizer };
        self.hooks.iter_mut().try_for_each(|hook| hook.on_step(&context, control))
    }

    /// Reads the losses since the last report and gives them to the sinks: the loop's one wait for
    /// the device.
    fn report(&mut self, due: Due, control: &mut Control) -> Result<()> {
        let mut records = self.meter.flush()?;
        self.work.optimizer.local_mut().sync_counters()?;
        self.held_out_loss = None;
        if due.evaluate
            && let Some(evaluation) = self.evaluate()?
        {
            self.held_out_loss = evaluation.loss();
            self.hooks.iter_mut().try_for_each(|hook| hook.on_eval(&evaluation, control))?;
            if let Some(latest) = records.last_mut() {
                latest.held_out = Some(evaluation.means);
            }
        }
        self.sinks.iter_mut().try_for_each(|sink| sink.steps(&records))?;
        let mut warnings: Vec<String> =
            self.sinks.iter_mut().filter_map(|sink| sink.take_warning()).collect();
        warnings.extend(self.captured.as_mut().and_then(CapturedSteps::take_warning));
        warnings.iter().for_each(|warning| self.warn(warning));
        records.last().map_or(Ok(()), refuse_divergence)
    }

    fn warn(&mut self, text: &str) {
        self.sinks.iter_mut().for_each(|sink| sink.warning(text));
    }

    /// Starts writing a checkpoint. The metrics until now are written before.
    fn checkpoint(&mut self, control: &mut Control) -> Result<()> {
        self.sinks.iter_mut().try_for_each(|sink| sink.flush())?;
        let progress = RunProgress {
            step: self.steps,
            position: self.loader.position(),
            fingerprint: self.meter.fingerprint().to_hex(),
            batches_per_step: Some(self.batches_per_step()),
            held_out_loss: self.held_out_loss,
            dataset: String::new(),
        };
        let TrainStep { params, optimizer, group, .. } = &self.work;
        let capture = || TrainState::capture(progress, params, optimizer, group);
        // One rank writes, and all give it their parts.
        let Some(checkpointer) = &mut self.checkpointer else { return capture().map(drop) };
        let before = checkpointer.begin(capture)?;
        self.checkpoint_ended(before, control)
    }

    /// Tells of a checkpoint that was being written. One that could not be is no reason to stop.
    fn checkpoint_ended(
        &mut self,
        ended: Option<Result<Checkpoint>>,
        control: &mut Control,
    ) -> Result<()> {
        match ended {
            None => Ok(()),
            Some(Ok(checkpoint)) => {
                self.hooks.iter_mut().try_for_each(|hook| hook.on_checkpoint(&checkpoint, control))
            }
            Some(Err(error)) => {
                self.warn(&format!("checkpoint not written: {error}; training goes on"));
                Ok(())
            }
        }
    }

    /// After the last step: what is being written is waited for.
    fn end(&mut self, control: &mut Control) -> Result<()> {
        let ended = self.checkpointer.as_mut().and_then(Checkpointer::finish);
        self.checkpoint_ended(ended, control)?;
        self.sinks.iter_mut().try_for_each(|sink| sink.flush())?;
        self.hooks.iter_mut().try_for_each(|hook| hook.on_end())
    }

    /// Measures the model on held-out text; nothing where there is none to be measured on.
    ///
    /// # Errors
    /// What making a batch can meet, and what libtorch throws.
    pub fn evaluate(&mut self) -> Result<Option<Evaluation>> {
        let Some(validation) = &mut self.validation else { return Ok(None) };
        validation.measure(&*self.work.task, self.steps, &self.work.group)
    }

    /// Batches that a step learns from, of all ranks.
    pub fn batches_per_step(&self) -> u64 {
        u64::from(self.options.accumulate) * self.work.group.size() as u64
    }

    /// How the loop runs.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// What became of steps that could be captured; absent where the host looks at each.
    pub fn capture_usage(&self) -> Option<CaptureUsage> {
        self.captured.as_ref().map(CapturedSteps::usage)
    }

    /// Steps of the whole run.
    pub fn max_steps(&self) -> u64 {
        self.options.max_steps
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Time that training waited for checkpoints.
    pub fn paused(&self) -> std::time::Duration {
        self.checkpointer.as_ref().map_or(std::time::Duration::ZERO, Checkpointer::paused)
    }

    /// The model and its objective.
    pub fn task(&self) -> &dyn Task {
        &*self.work.task
    }

    /// The model's parameters.
    pub fn params(&self) -> &ParamStore {
        &self.work.params
    }

    /// The optimizer: where ranks divide it, this one's part.
    pub fn optimizer(&self) -> &Optimizer {
        self.work.optimizer.local()
    }

    /// Bytes of this rank's weights, gradients, masters and optimizer state.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn parameter_bytes(&self) -> Result<u64> {
        Ok(self.work.optimizer.allocated_bytes(&self.work.params.params())?)
    }

    /// Gives all parameters their exact values, which ranks may have divided, to save the model
    /// after the last step.
    ///
    /// # Errors
    /// Those of the group.
    pub fn gather_masters(&mut self) -> Result<()> {
        let masters = self.work.optimizer.gather_masters(&self.work.group)?;
        for (param, master) in self.work.params.params_mut().iter_mut().zip(masters) {
            param.master = Some(master);
        }
        Ok(())
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
