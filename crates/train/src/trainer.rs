//! The loop.
//!
//! | module | holds |
//! | --- | --- |
//! | here | the loop and its steps |
//! | `saving` | checkpoints, and going on from one |
//! | `recovery` | losses that are trouble, and going back |

mod recovery;
mod saving;

use std::time::{Duration, Instant};

use bert4rs_optim::schedule::Schedule;
use bert4rs_optim::{DataParallel, Optimizer};
use bert4rs_tensor_core::copy_stream::CopyStream;
use bert4rs_tensor_core::distributed::ProcessGroup;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Error as Core, Tensor, memory};

use crate::average::WeightAverage;
use crate::batch::{Batch, BatchDigest, BatchSize, NamedTensors};
use crate::captured_steps::{CaptureUsage, CapturedSteps};
use crate::checkpoint::Checkpointer;
use crate::clock::ProcessClock;
use crate::distributed::{self, MeteredGroup, RankTimes, Traffic};
use crate::early_stopping::{BestLoss, Patience};
use crate::error::Result;
use crate::evaluation::{Evaluation, Measure};
use crate::execution::Execution;
use crate::hook::{Control, Hook, StepContext};
use crate::loader::Loader;
use crate::metrics::{Meter, MetricSink, StepOutcome, StepRecord};
use crate::task::{Task, divisor};
use crate::train_step::TrainStep;
use crate::trouble::{TroublePolicy, TroubleWatch};
use crate::update_ratio::WeightsBefore;
use recovery::Recovery;

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
    /// Time after which training ends, whatever its steps, and in which the schedule runs.
    pub max_time: Option<Duration>,
    /// Steps between two comparisons of a step's update with the weights; 0 makes none.
    pub update_ratio_every: u64,
    /// How a step's work is launched.
    pub execution: Execution,
}

impl TrainOptions {
    /// So many steps of one batch each, eagerly, with a report every ten.
    pub fn steps(max_steps: u64) -> Self {
        Self {
            max_steps,
            accumulate: 1,
            log_every: 10,
            eval_every: 0,
            max_time: None,
            update_ratio_every: 0,
            execution: Execution::Eager,
        }
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
    average: Option<WeightAverage>,
    patience: Patience,
    best: BestLoss,
    recovery: Recovery,
    /// Training time before this process, and since when it counts here.
    trained_before: Duration,
    began: Instant,
    /// Why training ended before its last step.
    ended_early: Option<String>,
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
            average: None,
            patience: Patience { measurements: 0, min_delta: 0.0 },
            best: BestLoss::default(),
            recovery: Recovery::default(),
            trained_before: Duration::ZERO,
            began: Instant::now(),
            ended_early: None,
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

    /// The same with an average of the weights, which each step keeps `decay` of.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn with_average(mut self, decay: f64) -> Result<Self> {
        self.average = Some(WeightAverage::new(decay, &self.work.params)?);
        Ok(self)
    }

    /// The same, ended early where the held-out loss gets no better.
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// The same with rules for losses that are trouble. Going back takes
    /// [checkpoints](Self::with_checkpoints).
    pub fn with_trouble_policy(mut self, policy: TroublePolicy) -> Self {
        self.recovery.watch = TroubleWatch::new(policy);
        self
    }

    /// Trains until all steps are taken, or a hook stops it.
    ///
    /// # Errors
    /// A loss that is not finite, and whatever batches, hooks, sinks and the machine refuse. What
    /// was recorded until then is in the sinks.
    pub fn run(&mut self) -> Result<()> {
        let mut control = Control::default();
        self.began = Instant::now();
        if self.steps == 0 && self.recovery.watch.policy.goes_back() {
            self.checkpoint(&mut control)?;
        }
        while self.steps < self.options.max_steps && !control.stop {
            self.meter.begin_step();
            let outcome = self.step()?;
            self.meter.end_step(self.steps, &outcome, self.clock.elapsed());
            self.call_hooks(&outcome, &mut control)?;
            self.poll_checkpoint(&mut control)?;
            let due = self.due(&mut control)?;
            let went_back = due.report && self.report(due, &mut control)?;
            let asked = std::mem::take(&mut control.checkpoint_now);
            if (due.checkpoint || asked) && !went_back {
                self.checkpoint(&mut control)?;
            }
        }
        self.end(&mut control)
    }

    /// Time that training has taken, in this process and those before.
    pub(crate) fn trained(&self) -> Duration {
        self.trained_before + self.began.elapsed()
    }

    /// Why training ended before its last step, if it did of itself.
    pub fn ended_early(&self) -> Option<&str> {
        self.ended_early.as_deref()
    }

    /// What is to be done after this step.
    fn due(&self, control: &mut Control) -> Result<Due> {
        let TrainOptions { max_steps, log_every, eval_every, max_time, .. } = self.options;
        if max_time.is_some_and(|time| self.trained() >= time) && self.steps < max_steps {
            control.stop = true;
        }
        let every = |steps: u64| steps > 0 && self.steps.is_multiple_of(steps);
        let evaluate = std::mem::take(&mut control.evaluate) || every(eval_every);
        let asked = std::mem::take(&mut control.checkpoint);
        // A rank that writes none may still be the one that a signal reached.
        let checkpoint = match &self.checkpointer {
            Some(checkpointer) => asked || checkpointer.is_due(self.steps),
            None => asked && self.work.group.rank() > 0,
        };
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
        let place = match self.options.max_time {
            Some(_) => self.trained().as_secs_f64(),
            None => self.steps as f64,
        };
        let factor = self.schedule.factor(place);
        self.leave_out_batches()?;
        let every = self.options.update_ratio_every;
        let is_compared = every > 0 && (self.steps + 1).is_multiple_of(every);
        let weights_before = is_compared.then(|| WeightsBefore::take(&self.work.params));
        let waited_before = self.loader.waited();
        let (batches, size, digests) = self.batches_of_step()?;
        let waited = self.loader.waited().saturating_sub(waited_before);
        let (loss, grad_norm) = match &mut self.captured {
            Some(captured) => captured.step(&mut self.work, &batches, size.labels, factor)?,
            None => {
                let labels = divisor(size.labels, self.work.params.device())?;
                let (recovery, step) = (&mut self.recovery, self.steps + 1);
                let accept = |loss: &Tensor| recovery.accepts(step, loss);
                let (loss, report) = self.work.step(&batches, &labels, factor, accept)?;
                // A step that was left out has no norm, as one with gradients that are not finite.
                (loss, Tensor::from(report.map_or(f64::NAN, |report| report.grad_norm)))
            }
        };
        let (loss, ranks) = self.end_of_ranks(loss, began, before)?;
        self.steps += 1;
        if let Some(average) = &mut self.average {
            average.update(&self.work.params, self.steps)?;
        }
        let ratios = |before: WeightsBefore| before.ratios(&self.work.params);
        let update_ratio = weights_before.map(ratios).transpose()?;
        let optimizer = self.work.optimizer.local().config();
        let lr = optimizer.adamw.lr * factor;
        let muon_lr = optimizer.muon.as_ref().map(|muon| muon.lr * factor);
        let device_bytes = memory::of_device(self.work.params.device())?;
        let device_bytes = device_bytes.map(|memory| memory.allocated);
        Ok(StepOutcome {
            loss,
            size,
            lr,
            muon_lr,
            grad_norm,
            device_bytes,
            waited,
            digests,
            ranks,
            update_ratio,
        })
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
    /// the device. Whether the run went back instead.
    fn report(&mut self, due: Due, control: &mut Control) -> Result<bool> {
        let mut records = self.meter.flush()?;
        self.work.optimizer.local_mut().sync_counters()?;
        let trouble = self.judge(&mut records);
        if let Some(incident) = trouble.as_ref().filter(|incident| self.goes_back(incident)) {
            return self.go_back(incident, control).map(|()| true);
        }
        self.held_out_loss = None;
        if due.evaluate && trouble.is_none() {
            self.evaluate_in_loop(&mut records, control)?;
        }
        if let Some(latest) = records.last_mut() {
            latest.corpora = self.loader.shares();
        }
        self.sinks.iter_mut().try_for_each(|sink| sink.steps(&records))?;
        if let Some(note) = self.loader.take_note() {
            self.sinks.iter_mut().for_each(|sink| sink.note(&note));
        }
        let mut warnings: Vec<String> =
            self.sinks.iter_mut().filter_map(|sink| sink.take_warning()).collect();
        warnings.extend(self.captured.as_mut().and_then(CapturedSteps::take_warning));
        warnings.iter().for_each(|warning| self.warn(warning));
        trouble.map_or(Ok(false), |incident| Err(self.divergence(&incident)))
    }

    /// Measures the model, and ends training where it gets no better.
    fn evaluate_in_loop(
        &mut self,
        records: &mut [StepRecord],
        control: &mut Control,
    ) -> Result<()> {
        let Some(evaluation) = self.evaluate()? else { return Ok(()) };
        self.held_out_loss = evaluation.loss();
        self.hooks.iter_mut().try_for_each(|hook| hook.on_eval(&evaluation, control))?;
        if let (Some(loss), true) = (evaluation.loss(), self.patience.measurements > 0) {
            // The best is to be had later.
            control.checkpoint_now |= self.best.push(loss, self.steps, self.patience.min_delta);
            if self.best.since >= self.patience.measurements && self.steps < self.options.max_steps
            {
                control.stop = true;
                self.ended_early = Some(format!(
                    "the held-out loss was no better in {} measurements than {:.4} after step {}",
                    self.best.since,
                    self.best.loss.unwrap_or(f64::NAN),
                    self.best.step
                ));
            }
        }
        if let Some(latest) = records.last_mut() {
            latest.held_out = Some(evaluation.means);
        }
        Ok(())
    }

    fn warn(&mut self, text: &str) {
        self.sinks.iter_mut().for_each(|sink| sink.warning(text));
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

    /// Time of the whole run, where it is one.
    pub fn max_time(&self) -> Option<Duration> {
        self.options.max_time
    }

    /// Steps of the whole run; of one whose length is a time, as many as there can be.
    pub fn max_steps(&self) -> u64 {
        self.options.max_steps
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Measures the average of the weights; nothing where there is none, or no held-out text.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    pub fn evaluate_average(&mut self) -> Result<Option<Evaluation>> {
        let (Some(average), Some(validation)) = (&self.average, &mut self.validation) else {
            return Ok(None);
        };
        let TrainStep { task, params, group, .. } = &mut self.work;
        average.with_averages(params, |_| validation.measure(&**task, self.steps, group))
    }

    /// Lets `export` see the average of the weights in place of the weights, if there is one.
    ///
    /// # Errors
    /// What `export` refuses.
    pub fn export_average(
        &mut self,
        export: impl FnOnce(&dyn Task, &ParamStore) -> Result<()>,
    ) -> Result<()> {
        let Some(average) = &self.average else { return Ok(()) };
        let TrainStep { task, params, .. } = &mut self.work;
        average.with_averages(params, |params| export(&**task, params))
    }

    /// Time that training waited for checkpoints.
    pub fn paused(&self) -> Duration {
        self.checkpointer.as_ref().map_or(Duration::ZERO, Checkpointer::paused)
    }

    /// Times that the run went back to a checkpoint.
    pub fn rollbacks(&self) -> u64 {
        self.recovery.left_out().len() as u64
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
    pub fn waited(&self) -> Duration {
        self.loader.waited()
    }
}
