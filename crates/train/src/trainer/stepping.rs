//! One optimizer step: its batches, the model's work, and what the sinks get of it.

use std::time::Instant;

use bert4rs_tensor_core::{Tensor, memory};

use super::Trainer;
use crate::batch::{Batch, BatchDigest, BatchSize, NamedTensors};
use crate::distributed::{self, RankTimes, Traffic};
use crate::error::Result;
use crate::metrics::StepOutcome;
use crate::task::divisor;
use crate::train_step::TrainStep;
use crate::update_ratio::WeightsBefore;

impl Trainer {
    /// One optimizer step, without records, hooks and sinks.
    ///
    /// # Errors
    /// What batches and the machine refuse.
    pub fn step(&mut self) -> Result<StepOutcome> {
        let (began, before) = (Instant::now(), self.work.group.traffic());
        let place = match self.options.max_time {
            Some(_) => self.agreed_time()?,
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
                let group = self.work.group.clone();
                let accept = |loss: &Tensor| recovery.accepts(step, loss, &group);
                let (loss, report) = self.work.step(&batches, &labels, factor, accept)?;
                // A step that was left out has no norm, as one with gradients that are not finite.
                (loss, Tensor::from(report.map_or(f64::NAN, |report| report.grad_norm)))
            }
        };
        let (loss, ranks) = self.end_of_ranks(loss, began, before)?;
        self.steps += 1;
        if let Some(average) = &mut self.average {
            let TrainStep { params, optimizer, .. } = &self.work;
            average.update(optimizer.exact(&params.params()), self.steps)?;
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
}
