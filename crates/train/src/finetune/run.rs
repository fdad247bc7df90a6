//! `bert4rs finetune`: from a configuration to a trained model's folder, with its scores.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use bert4rs_optim::schedule::Horizon;
use bert4rs_optim::{DataParallel, OptimizerConfig, ParamGroup};
use bert4rs_tensor_core::distributed::ProcessGroup;
use bert4rs_tensor_core::error::catch_torch_error;
use bert4rs_tensor_core::param::{ParamStore, Role};
use bert4rs_tensor_core::policy::Policy;
use serde::{Deserialize, Serialize};

use super::config::{FinetuneConfig, TaskName};
use super::example::Example;
use super::identity::hash_of_examples;
use super::layers::{ParamSpeed, speeds};
use super::learner::Learner;
use super::loader::{BatchOptions, ExampleLoader};
use super::measure::{ScoreMeasure, predict, scores};
use super::prepare::{self, Start};
use super::{FinetuneTask, preview};
use crate::best_weights::BestWeights;
use crate::checkpoint::store;
use crate::clock::ProcessClock;
use crate::console::Console;
use crate::distributed::{Ranks, hash_of_weights, share_state};
use crate::error::{Error, Result};
use crate::execution::Execution;
use crate::facts::Facts;
use crate::machine::{Machine, MachineOptions};
use crate::names::name_of;
use crate::outlets::Outlets;
use crate::run::{Start as Place, TakesPlace, check_settings, read as read_saved};
use crate::run_folder::{RunFolder, RunOutcome};
use crate::stop::StopSignal;
use crate::summary::Summary;
use crate::trainer::{TrainOptions, Trainer};

/// `summary.json` of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinetuneSummary {
    /// The task.
    pub task: String,
    /// Examples that were learned from in each pass.
    pub examples: u64,
    /// Examples a second, measurements left out.
    pub examples_per_s: f64,
    /// The step after which the weights that were kept were measured; absent where the last ones
    /// were kept.
    pub best_step: Option<u64>,
    /// Scores on the validation file, of the weights that were kept.
    pub validation: BTreeMap<String, f64>,
    /// Scores on the test file.
    pub test: BTreeMap<String, f64>,
    /// The run.
    #[serde(flatten)]
    pub run: Summary,
}

/// A process' surroundings: what it shows, when it began, what stops it.
pub type Surroundings<'a> = (&'a Console, ProcessClock, &'a StopSignal);

/// Trains as `config` says, as one of `ranks`: into the place of the one that leads, which the
/// others don't have. What came of it, from the one that leads.
///
/// # Errors
/// Bad input, before the folder is touched; what the machine can't carry; [`Error::StoppedEarly`].
pub fn finetune(
    config: &FinetuneConfig,
    ranks: &Ranks,
    place: Option<Place>,
    surroundings: Surroundings,
) -> Result<Option<FinetuneSummary>> {
    if let Some(checkpoint) = place.as_ref().and_then(|place| place.checkpoint.as_ref()) {
        check_settings(&config.to_toml()?, checkpoint, surroundings.0)?;
    }
    let machine = Machine::set_up(&MachineOptions {
        device: ranks.device(config.compute.device.parse()?)?,
        precision: config.compute.precision,
        threads: config.compute.threads,
        tf32: config.compute.tf32,
        measures_backends: false,
        seed: config.seed,
    })?;
    config.compute.attention.check_device(machine.device).map_err(|error| Error::Config {
        origin: "configuration".into(),
        key: "compute.attention".into(),
        reason: error.to_string(),
    })?;
    let policy = Policy::new(config.compute.kernels, config.compute.cuda_kernels);
    let params = ParamStore::new(machine.device, machine.precision.compute_kind())
        .with_policy(policy.clone());
    let start = Start { config, ranks, place, surroundings, machine, policy };
    match config.task.name {
        TaskName::Classify => prepare::classify(start, params),
        TaskName::Tag => prepare::tag(start, params),
        TaskName::Answer => prepare::answer(start, params),
        TaskName::Seq2seq => prepare::seq2seq(start, params),
        TaskName::Causal => prepare::causal(start, params),
        TaskName::Similarity => prepare::similarity(start, params),
        TaskName::Rank => prepare::rank(start, params),
    }
}

/// A run whose task is made.
pub(super) struct Run<'a, T: FinetuneTask> {
    start: Start<'a>,
    task: Rc<T>,
    params: ParamStore,
}

/// Examples to be measured on.
type Held<T> = Option<Rc<[Example<<T as FinetuneTask>::Label>]>>;

/// What is known before the trainer takes parameters and examples.
#[derive(Clone, Copy)]
struct Sizes {
    export_bytes: u64,
    flops_per_token: f64,
    examples: u64,
}

impl<'a, T: FinetuneTask> Run<'a, T> {
    /// Takes the parameters of the task's model.
    pub(super) fn new(start: Start<'a>, mut task: T) -> Self {
        let params = task.model_mut().model.take_params();
        Self { start, task: Rc::new(task), params }
    }

    pub(super) fn train(self, examples: Vec<Example<T::Label>>) -> Result<Option<FinetuneSummary>> {
        let Self { start, task, params } = self;
        let Start { config, ranks, place, surroundings, machine, policy } = start;
        let console = surroundings.0;
        let read = |path: &Path| -> Result<Held<T>> {
            let is_given = !path.as_os_str().is_empty();
            Ok(if is_given { Some(task.read(path, true)?.into()) } else { None })
        };
        let (validation, test) = (read(&config.task.validation)?, read(&config.task.test)?);
        task.model().notes.iter().for_each(|note| console.line(note));
        console.line(&machine.describe());
        ranks.describe(config.optimizer.sharding).iter().for_each(|line| console.line(line));
        let lines = preview::lines(&*task, &examples);
        lines.iter().for_each(|line| console.line(line));
        let sizes = Sizes {
            export_bytes: 4 * params.count() as u64 + (8 << 20),
            flops_per_token: flops_per_token(&params),
            examples: examples.len() as u64,
        };
        let dataset = hash_of_examples(&*task, &examples, validation.as_deref());
        let facts = || {
            let weights = hash_of_weights(&params)?;
            let facts = [("the examples", dataset.clone()), ("the initial weights", weights)];
            Ok(facts.map(|(name, value)| (name.to_owned(), value)).into())
        };
        ranks.check(facts, config.seed)?;
        let work = Work { config, ranks, machine, policy, task, validation, test, dataset, sizes };
        let mut trainer = work.trainer(params, examples.into())?;
        let saved = place.as_ref().and_then(|place| {
            let checkpoint = place.checkpoint.as_ref()?;
            Some(read_saved(checkpoint, &place.folder, &work.dataset))
        });
        if let Some((state, records)) = share_state(ranks.group(), saved.transpose()?)? {
            trainer.go_on(&state, &records)?;
        }
        match place {
            Some(place) => work.lead(place, trainer, surroundings).map(Some),
            None => work.follow(trainer, surroundings).map(|()| None),
        }
    }
}

/// Everything that training needs.
struct Work<'a, T: FinetuneTask> {
    config: &'a FinetuneConfig,
    ranks: &'a Ranks,
    machine: Machine,
    policy: Policy,
    task: Rc<T>,
    validation: Held<T>,
    test: Held<T>,
    /// A hash of the examples.
    dataset: String,
    sizes: Sizes,
}

impl<T: FinetuneTask> Work<'_, T> {
    /// Computes as the process that leads does, and leaves and shows nothing.
    fn follow(&self, trainer: Trainer, (_, _, stop): Surroundings) -> Result<()> {
        let trainer = trainer.with_hook(self.machine.peak.clone()).with_hook(stop.clone());
        let outcome = catch_torch_error("fine-tuning", || self.run(trainer, stop).map(drop));
        outcome.map_err(Error::from).flatten()
    }

    /// Trains, puts the best weights back, and tells what training came to: the trainer, the
    /// summary, the step of the best weights, and the signal that stopped it.
    fn run(&self, mut trainer: Trainer, stop: &StopSignal) -> Result<Trained> {
        trainer.run()?;
        let signal = self.ranks.stopped_by(&trainer, stop)?;
        trainer.gather_weights()?;
        let best_step = match self.config.train.keep_best {
            true => trainer.restore_best()?,
            false => None,
        };
        let facts = Facts { flops_per_token: self.sizes.flops_per_token, ..Facts::default() };
        let summary = Summary::new(&trainer, &self.machine, &facts)?;
        let summary = summary.with_ranks(&trainer, self.ranks.group())?;
        Ok(Trained { trainer, summary, best_step, signal })
    }

    /// Trains in the folder, and leaves everything there.
    fn lead(
        &self,
        Place { folder, checkpoint }: Place,
        trainer: Trainer,
        surroundings: Surroundings,
    ) -> Result<FinetuneSummary> {
        let folder = match &checkpoint {
            None => folder.begin(self.config)?,
            Some(checkpoint) => {
                store::forget_after(folder.path(), checkpoint.step)?;
                folder.go_on(self.config, checkpoint.step)?
            }
        };
        let folder = Rc::new(RefCell::new(folder));
        let outcome =
            catch_torch_error("fine-tuning", || self.train_in(&folder, trainer, surroundings));
        surroundings.0.end();
        let outcome = outcome.map_err(Error::from).flatten();
        let Some(folder) = Rc::into_inner(folder).map(RefCell::into_inner) else {
            return outcome.map(|(summary, _)| summary);
        };
        match outcome {
            Ok((summary, Some(signal))) => {
                let (path, step) = (folder.path().to_owned(), summary.run.steps);
                folder.end(RunOutcome::Interrupted, None)?;
                let task = self.task.name();
                Err(Error::StoppedEarly { signal, step, folder: path, task })
            }
            Ok((summary, None)) => folder.end(RunOutcome::Finished, None).map(|()| summary),
            Err(error) => {
                // The run's own failure is the one to tell.
                drop(folder.end(RunOutcome::Failed, Some(error.to_string())));
                Err(error)
            }
        }
    }

    /// What came of it, and the signal that stopped it.
    fn train_in(
        &self,
        folder: &Rc<RefCell<RunFolder>>,
        trainer: Trainer,
        (console, clock, stop): Surroundings,
    ) -> Result<(FinetuneSummary, Option<u8>)> {
        let (config, task) = (self.config, &self.task);
        folder.borrow_mut().reserve(self.sizes.export_bytes)?;
        let trainer = self.with_outlets(&folder.borrow(), trainer.with_clock(clock), console)?;
        let trainer = trainer.with_hook(stop.clone()).with_hook(TakesPlace(Rc::clone(folder)));
        let Trained { mut trainer, summary, best_step, signal } = self.run(trainer, stop)?;
        let mut folder = folder.borrow_mut();
        let export = |folder: &Path| trainer.task().export(folder, trainer.params());
        folder.export(self.sizes.export_bytes, export)?;
        let validation = self.measure(self.validation.as_deref())?;
        let run = Summary {
            held_out_loss: validation.get("loss").copied(),
            attention: name_of(config.compute.attention),
            ..summary
        };
        let seen = self.sizes.examples as f64 * run.steps as f64
            / trainer.max_steps().max(1) as f64
            * f64::from(config.train.epochs);
        let time = trainer.meter().time_in_steps().as_secs_f64().max(1e-9);
        let summary = FinetuneSummary {
            task: task.name().into(),
            examples: self.sizes.examples,
            examples_per_s: seen / time,
            best_step,
            validation,
            test: self.measure(self.test.as_deref())?,
            run,
        };
        folder.write_summary(&summary)?;
        trainer.flush()?;
        folder.replace_old()?;
        tell(console, &summary, folder.path());
        Ok((summary, signal))
    }

    /// The trainer with everything that its steps are told to, and checkpoints.
    fn with_outlets(
        &self,
        folder: &RunFolder,
        trainer: Trainer,
        console: &Console,
    ) -> Result<Trainer> {
        let config = self.config;
        Outlets {
            folder,
            console,
            peak: &self.machine.peak,
            flops_per_token: self.sizes.flops_per_token,
            settings: config.to_toml()?,
            dataset: self.dataset.clone(),
            checkpoint: &config.checkpoint,
            tensorboard: config.train.tensorboard,
        }
        .attach(trainer)
    }

    fn trainer(
        &self,
        mut params: ParamStore,
        examples: Rc<[Example<T::Label>]>,
    ) -> Result<Trainer> {
        let (config, device) = (self.config, self.machine.device);
        let options = BatchOptions {
            batch_size: config.data.batch_size,
            layout: config.data.packing,
            group_by_length: config.data.group_by_length,
            device,
        };
        let loader = ExampleLoader::new(Rc::clone(&self.task), examples, options, config.seed);
        let accumulate = u64::from(config.train.accumulate);
        let batches = loader.batches_per_epoch() * u64::from(config.train.epochs);
        let each_step = accumulate * self.ranks.group().size() as u64;
        let max_steps = batches.div_ceil(each_step);
        let each_pass = loader.batches_per_epoch().div_ceil(each_step);
        let eval_every = match (config.train.eval_every, &self.validation) {
            (_, None) => 0,
            (0, _) => each_pass,
            (every, _) => every,
        };
        let policy = self.policy.clone();
        let mut optimizer = OptimizerConfig { policy, ..config.optimizer.clone() };
        // Before the user's own groups, which count where both name a parameter.
        optimizer.groups.splice(0..0, layer_groups(config, &params));
        optimizer.groups.extend(still(&params));
        let group = self.ranks.group();
        let optimizer = DataParallel::new(group, optimizer, params.params_mut())?;
        let schedule = config.schedule.resolve(Horizon::Steps(max_steps))?;
        let loop_options = TrainOptions {
            max_steps,
            accumulate: config.train.accumulate,
            log_every: config.train.log_every,
            eval_every,
            max_time: None,
            update_ratio_every: 0,
            execution: Execution::Eager,
        };
        let learner = Box::new(Learner(Rc::clone(&self.task)));
        let trainer =
            Trainer::new(learner, Box::new(loader), params, optimizer, schedule, loop_options)?;
        let best = BestWeights::new(self.task.main_score(), config.train.patience);
        let trainer = match &self.validation {
            None => trainer,
            Some(examples) => trainer.with_best_weights(best).with_validation(ScoreMeasure {
                task: Rc::clone(&self.task),
                examples: Rc::clone(examples),
                batch_size: 2 * config.data.batch_size,
                layout: config.data.packing,
                device,
            }),
        };
        trainer.with_group(group)
    }

    /// Scores and mean loss on examples; nothing where there are none.
    fn measure(&self, examples: Option<&[Example<T::Label>]>) -> Result<BTreeMap<String, f64>> {
        let Some(examples) = examples else { return Ok(BTreeMap::new()) };
        let data = &self.config.data;
        let how = (2 * data.batch_size, data.packing, self.machine.device);
        let found = predict(&*self.task, examples, how)?;
        let mut all: BTreeMap<_, _> =
            scores(&*self.task, examples, &found.all).into_iter().collect();
        all.extend(found.loss.map(|loss| ("loss".to_owned(), loss)));
        Ok(all)
    }
}

/// What training came to.
struct Trained {
    trainer: Trainer,
    summary: Summary,
    /// The step after which the weights that are there now were measured, if they are the best.
    best_step: Option<u64>,
    /// The signal that stopped it.
    signal: Option<u8>,
}

/// The groups of parameters that adapters leave as they are.
fn still(params: &ParamStore) -> Vec<ParamGroup> {
    let params = params.params();
    let still = params.iter().filter(|param| !param.weight.requires_grad());
    let group = |name: &String| ParamGroup {
        names: name.clone(),
        lr_scale: 1.0,
        weight_decay: None,
        frozen: true,
    };
    still.map(|param| group(&param.name)).collect()
}

/// The groups of parameters that do not learn at full speed.
fn layer_groups(config: &FinetuneConfig, params: &ParamStore) -> Vec<ParamGroup> {
    let names: Vec<String> = params.params().iter().map(|param| param.name.clone()).collect();
    let frozen = usize::try_from(config.train.freeze).ok();
    let group = |speed: ParamSpeed| ParamGroup {
        names: speed.name,
        lr_scale: speed.lr_scale,
        weight_decay: None,
        frozen: speed.frozen,
    };
    speeds(&names, config.train.layer_decay, frozen).into_iter().map(group).collect()
}

/// Matrix products of one token, forward and backward: two FLOPs a weight and three passes.
/// Those of attention's scores, which grow with a text's length, are left out.
fn flops_per_token(params: &ParamStore) -> f64 {
    let params = params.params();
    let weights = params.iter().filter(|param| param.role == Role::Matrix);
    6.0 * weights.map(|param| param.weight.numel() as f64).sum::<f64>().max(1.0)
}

fn tell(console: &Console, summary: &FinetuneSummary, folder: &Path) {
    if console.shows_object("summary", summary) {
        return;
    }
    let padding = 1.0 - summary.run.tokens as f64 / summary.run.positions.max(1) as f64;
    console.line(&format!(
        "speed      {:.1} examples/s, {:.0} tokens/s, {:.1}% padding",
        summary.examples_per_s,
        summary.run.tokens_per_s,
        100.0 * padding
    ));
    if let Some(step) = summary.best_step {
        console.line(&format!("best       after step {step}"));
    }
    for (name, scores) in [("validation", &summary.validation), ("test", &summary.test)] {
        if !scores.is_empty() {
            console.line(&format!("{name:<10} {}", scores_text(scores)));
        }
    }
    console.line(&format!("model      {}", folder.display()));
}

/// `accuracy 0.9000, loss 0.3000`.
pub fn scores_text(scores: &BTreeMap<String, f64>) -> String {
    let scores = scores.iter().map(|(name, value)| format!("{name} {value:.4}"));
    scores.collect::<Vec<_>>().join(", ")
}
