//! A task of fine-tuning as a task of the trainer.

use std::path::Path;
use std::rc::Rc;

use bert4rs_models::layers::AttentionBackend;
use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::param::ParamStore;

use super::FinetuneTask;
use crate::batch::NamedTensors;
use crate::error::Result;
use crate::task::Task;

/// Lends a [`FinetuneTask`] to a [`Trainer`](crate::trainer::Trainer).
pub struct Learner<T>(pub Rc<T>);

impl<T: FinetuneTask> Task for Learner<T> {
    fn loss(&self, batch: &NamedTensors, divisor: &Tensor) -> Result<Tensor> {
        Ok(self.0.loss(batch)? / divisor)
    }

    fn evaluate(&self, batch: &NamedTensors) -> Result<Vec<(&'static str, Tensor)>> {
        let (_, loss) = self.0.predict(batch)?;
        Ok(loss.map(|loss| ("loss", loss)).into_iter().collect())
    }

    fn export(&self, folder: &Path, params: &ParamStore) -> Result<()> {
        self.0.export(folder, params)
    }

    fn attention_backend(&self) -> Option<AttentionBackend> {
        self.0.model().model.attention_backend()
    }
}
