//! What a run will hold for its parameters, told before anything is allocated.

use bert4rs_models::bert::BertForMaskedLm;
use bert4rs_models::gpt::Gpt;
use bert4rs_models::t5::T5;
use bert4rs_optim::memory::MemoryFootprint;
use bert4rs_tensor_core::device::DeviceChoice;
use bert4rs_tensor_core::param::ParamStore;

use crate::config::{Config, Family};
use crate::error::Result;

/// Bytes by purpose, and what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Trained values.
    pub parameters: u64,
    /// Bytes of weights, masters, gradients and the optimizer's state.
    pub memory: MemoryFootprint,
}

impl MemoryPlan {
    /// The plan of a run of `config` on so many processes, for the one that holds most, by the
    /// formulas of [`bert4rs_optim::memory`]. Activations come on top; they depend on the batch.
    ///
    /// # Errors
    /// A device or model that can't be had.
    pub fn of(config: &Config, processes: usize) -> Result<Self> {
        let device = config.compute.device.parse::<DeviceChoice>()?.resolve()?;
        let (precision, _) = config.compute.precision.resolve(device);
        let store = ParamStore::meta(precision.compute_kind());
        make_model(config, &store)?;
        let memory = MemoryFootprint::of_rank(&config.optimizer, &store.params(), processes)?;
        Ok(Self { parameters: store.count() as u64, memory })
    }
}

/// Makes the parameters of the model that `config` trains. Special tokens don't matter for shapes.
fn make_model(config: &Config, store: &ParamStore) -> Result<()> {
    let (root, attention) = (store.root(), config.compute.attention);
    match config.model.family {
        Family::Bert => BertForMaskedLm::new(&root, &config.bert(0), attention).map(drop)?,
        Family::Gpt => Gpt::new(&root, &config.gpt(0), attention).map(drop)?,
        Family::T5 => T5::new(&root, &config.t5(0, 1), attention).map(drop)?,
    }
    Ok(())
}
