//! Losses read, sinks filled, and the model measured on held-out text.

use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::param::ParamStore;

use super::{Due, Trainer};
use crate::average::{WeightAverage, with_averages};
use crate::best_weights::BestWeights;
use crate::captured_steps::CapturedSteps;
use crate::checkpoint::exact_weights;
use crate::error::Result;
use crate::evaluation::Evaluation;
use crate::hook::Control;
use crate::metrics::StepRecord;
use crate::task::Task;
use crate::train_step::TrainStep;

impl Trainer {
    /// Reads the losses since the last report and gives them to the sinks: the loop's one wait for
    /// the device. Whether the run went back instead.
    pub(super) fn report(&mut self, due: Due, control: &mut Control) -> Result<bool> {
        let mut records = self.meter.flush()?;
        self.work.optimizer.local_mut().sync_counters()?;
        let trouble = self.judge(&mut records);
        if let Some(incident) = &trouble
            && self.goes_back(incident)?
        {
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
        self.keep_best(&evaluation, control)?;
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

    /// Keeps the weights that were measured if they are the best, and ends training where they get
    /// no better. Ranks are given the same scores, and so decide alike.
    fn keep_best(&mut self, evaluation: &Evaluation, control: &mut Control) -> Result<()> {
        let Some(best) = &mut self.best_weights else { return Ok(()) };
        if best.judge(evaluation) {
            let TrainStep { params, optimizer, group, .. } = &self.work;
            best.keep(exact_weights(params, optimizer, group)?);
        }
        control.stop |= self.is_over_by_score();
        Ok(())
    }

    /// Whether the score has got no better for too long, before the last step.
    pub(super) fn is_over_by_score(&mut self) -> bool {
        let why = self.best_weights.as_ref().and_then(BestWeights::is_over);
        let is_over = why.is_some() && self.steps < self.options.max_steps;
        if is_over {
            self.ended_early = why;
        }
        is_over
    }

    /// Puts the weights that scored best back, if any were kept: the step after which they were
    /// measured. All ranks call it, after the last step and
    /// [`gather_weights`](Self::gather_weights).
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn restore_best(&mut self) -> Result<Option<u64>> {
        let Some(best) = &self.best_weights else { return Ok(None) };
        for param in self.work.params.params_mut() {
            if let Some(value) = best.weights().get(&param.name) {
                param.set(value)?;
            }
        }
        Ok((!best.weights().is_empty()).then_some(best.best().step))
    }

    pub(super) fn warn(&mut self, text: &str) {
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

    /// Measures the average of the weights; nothing where there is none, or no held-out text.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    pub fn evaluate_average(&mut self) -> Result<Option<Evaluation>> {
        let averages = self.whole_averages()?;
        let (Some(averages), Some(validation)) = (averages, &mut self.validation) else {
            return Ok(None);
        };
        let TrainStep { task, params, group, .. } = &mut self.work;
        with_averages(&averages, params, |_| validation.measure(&**task, self.steps, group))
    }

    /// Lets `export` see the average of the weights in place of the weights, if there is one. Of
    /// ranks that divide it, [`gather_weights`](Self::gather_weights) comes before.
    ///
    /// # Errors
    /// What `export` refuses.
    pub fn export_average(
        &mut self,
        export: impl FnOnce(&dyn Task, &ParamStore) -> Result<()>,
    ) -> Result<()> {
        let averages = match self.last_average.take() {
            Some(averages) => Some(averages),
            None => self.whole_averages()?,
        };
        let Some(averages) = averages else { return Ok(()) };
        let TrainStep { task, params, .. } = &mut self.work;
        with_averages(&averages, params, |params| export(&**task, params))
    }

    /// The averages, one a parameter, of which ranks may have parts; nothing where there are none.
    pub(super) fn whole_averages(&self) -> Result<Option<Vec<Tensor>>> {
        let TrainStep { params, optimizer, group, .. } = &self.work;
        let whole = |average: &WeightAverage| average.whole(&params.params(), optimizer, group);
        self.average.as_ref().map(whole).transpose()
    }
}
