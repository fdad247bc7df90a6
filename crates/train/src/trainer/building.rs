//! A trainer from its parts.

use std::time::{Duration, Instant};

use bert4rs_optim::DataParallel;
use bert4rs_optim::schedule::Schedule;
use bert4rs_tensor_core::copy_stream::CopyStream;
use bert4rs_tensor_core::distributed::ProcessGroup;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Error as Core};

use super::Trainer;
use super::options::TrainOptions;
use super::recovery::Recovery;
use crate::average::WeightAverage;
use crate::best_weights::BestWeights;
use crate::captured_steps::CapturedSteps;
use crate::checkpoint::Checkpointer;
use crate::clock::ProcessClock;
use crate::distributed::MeteredGroup;
use crate::early_stopping::{BestLoss, Patience};
use crate::error::Result;
use crate::evaluation::Measure;
use crate::execution::Execution;
use crate::hook::Hook;
use crate::loader::Loader;
use crate::metrics::{Meter, MetricSink};
use crate::task::Task;
use crate::train_step::TrainStep;
use crate::trouble::{TroublePolicy, TroubleWatch};

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
            last_average: None,
            patience: Patience { measurements: 0, min_delta: 0.0 },
            best: BestLoss::default(),
            best_weights: None,
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
        let TrainStep { params, optimizer, .. } = &self.work;
        let average = WeightAverage::new(decay, optimizer.exact(&params.params()))?;
        self.average = Some(average);
        Ok(self)
    }

    /// The same, ended early where the held-out loss gets no better.
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// The same, keeping the weights that score best, and ended early where the score gets no
    /// better.
    pub fn with_best_weights(mut self, best: BestWeights) -> Self {
        self.best_weights = Some(best);
        self
    }

    /// The same with rules for losses that are trouble. Going back takes
    /// [checkpoints](Self::with_checkpoints).
    pub fn with_trouble_policy(mut self, policy: TroublePolicy) -> Self {
        self.recovery.watch = TroubleWatch::new(policy);
        self
    }
}
