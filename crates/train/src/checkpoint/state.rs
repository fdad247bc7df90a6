//! What a run needs to go on to the bit.

use std::collections::BTreeMap;

use bert4rs_optim::DataParallel;
use bert4rs_tensor_core::distributed::{ProcessGroup, gather};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::random::{self, RandomState};
use bert4rs_tensor_core::{Device, Error as Core, TchError, Tensor, no_grad};
use serde::{Deserialize, Serialize};

use crate::average::WeightAverage;
use crate::best_weights::{BestScore, BestWeights};
use crate::distributed::{MeteredGroup, seed_of_rank};
use crate::early_stopping::BestLoss;
use crate::error::Result;
use crate::trouble::Incident;

/// What the states of the CPU's and the GPU's random generators are called among the buffers.
const CPU_RANDOM: &str = "random.cpu";
const GPU_RANDOM: &str = "random.gpu";
/// What names of the model's own buffers begin with.
const BUFFER: &str = "buffer.";

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunProgress {
    /// Steps taken.
    pub step: u64,
    /// The number of the batch that comes next.
    pub position: u64,
    /// A hash of the corpus as tokens; see [`Facts::data_hash`](crate::facts::Facts::data_hash).
    pub dataset: String,
    /// A hash of all batches so far, 64 hexadecimal digits.
    pub fingerprint: String,
    /// Batches that a step learns from, of all processes; absent in checkpoints of older programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batches_per_step: Option<u64>,
    /// The loss on held-out text after this step, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_loss: Option<f64>,
    /// Seconds of training so far, of a run whose length is a time; else 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trained_s: f64,
    /// The best held-out loss, of a run that ends where it gets no better.
    #[serde(default, skip_serializing_if = "BestLoss::is_empty")]
    pub best: BestLoss,
    /// The best score, of a run that keeps the weights that had it.
    #[serde(default, skip_serializing_if = "BestScore::is_empty")]
    pub best_score: BestScore,
    /// Steps whose batches are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incidents: Vec<Incident>,
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// The whole state of a training run, on the CPU.
#[derive(Debug)]
pub struct TrainState {
    /// How far it is.
    pub progress: RunProgress,
    /// The most exact values of all parameters, by name.
    pub weights: BTreeMap<String, Tensor>,
    /// The optimizer's state; see [`bert4rs_optim::Optimizer::state`].
    pub optimizer: BTreeMap<String, Tensor>,
    /// What the model keeps beside its parameters, and the random generators' states.
    pub buffers: BTreeMap<String, Tensor>,
    /// Averages of the weights; empty where there are none.
    pub average: BTreeMap<String, Tensor>,
    /// The weights that scored best; empty where they are not kept.
    pub best: BTreeMap<String, Tensor>,
}

impl TrainState {
    /// Copies everything, so that training can go on at once. What the ranks of `group` have
    /// divided is gathered: all call it.
    ///
    /// # Errors
    /// What libtorch throws, and those of the group.
    pub fn capture(
        progress: RunProgress,
        params: &ParamStore,
        (optimizer, average, best): (&DataParallel, Option<&WeightAverage>, Option<&BestWeights>),
        group: &MeteredGroup,
    ) -> Result<Self> {
        let weights = exact_weights(params, optimizer, group)?;
        let stored = params.params();
        let own = params.buffers().all().into_iter();
        let own = own.map(|(name, tensor)| (format!("{BUFFER}{name}"), tensor));
        let mut buffers = copies(own)?;
        for (name, device) in generators(params.device()) {
            let own = Tensor::f_from_slice(&RandomState::of(device)?.bytes()?).during(name)?;
            let ranks = gather(group, &own)?.f_chunk(group.size() as i64, 0).during(name)?;
            let named = ranks.into_iter().enumerate();
            buffers.extend(copies(named.map(|(rank, bytes)| (of_rank(name, rank), bytes)))?);
        }
        let average =
            average.map(|average| average.whole(&stored, optimizer, group)).transpose()?;
        let names = stored.iter().map(|param| param.name.clone());
        Ok(Self {
            progress,
            weights,
            // They are replaced as a whole, never changed.
            best: best.map(|best| shared(best.weights())).unwrap_or_default(),
            optimizer: copies(optimizer.state(group)?)?,
            average: copies(names.zip(average.unwrap_or_default()))?,
            buffers,
        })
    }

    /// Gives everything back to rank `rank`, of as many as there are now. The random generators are
    /// restored last.
    ///
    /// # Errors
    /// The state of another model or optimizer: the first name that differs.
    pub fn restore(
        &self,
        params: &mut ParamStore,
        optimizer: &mut DataParallel,
        rank: usize,
    ) -> Result<()> {
        let device = params.device();
        let is_known = |name: &String| params.params().iter().any(|param| param.name == *name);
        if let Some(name) = self.weights.keys().find(|name| !is_known(name)) {
            return Err(refuse(name, "belongs to no parameter of this model"));
        }
        for param in params.params_mut() {
            let value = self.weights.get(&param.name);
            param.set(value.ok_or_else(|| refuse(&param.name, "is missing"))?)?;
        }
        optimizer.load_state(&self.optimizer, &self.weights)?;
        let mut buffers = BTreeMap::new();
        for (name, tensor) in &self.buffers {
            if let Some(name) = name.strip_prefix(BUFFER) {
                buffers.insert(name.to_owned(), tensor.f_to_device(device).during(name)?);
            }
        }
        params.buffers().replace(buffers);
        self.restore_generators(device, rank)
    }

    fn restore_generators(&self, device: Device, rank: usize) -> Result<()> {
        for (name, device) in generators(device) {
            // What was saved on another kind of device has no state of this one's generator.
            let Some(first) = self.buffers.get(name) else { continue };
            let own = self.buffers.get(&of_rank(name, rank));
            let bytes = Vec::<u8>::try_from(own.unwrap_or(first)).during(name)?;
            match own {
                Some(_) => RandomState::from_bytes(device, &bytes).restore()?,
                // There were fewer ranks: this one begins with a stream of its own.
                None => random::seed(seed_of_rank(&bytes, rank)),
            }
        }
        Ok(())
    }
}

/// Copies of the most exact values of all parameters by name, on the CPU. What the ranks of `group`
/// have divided is gathered: all call it.
///
/// # Errors
/// What libtorch throws, and those of the group.
pub(crate) fn exact_weights(
    params: &ParamStore,
    optimizer: &DataParallel,
    group: &MeteredGroup,
) -> Result<BTreeMap<String, Tensor>> {
    let masters = optimizer.gather_masters(group)?;
    let stored = params.params();
    copies(stored.iter().enumerate().map(|(index, param)| {
        let exact = masters.get(index).unwrap_or_else(|| param.master_or_weight());
        (param.name.clone(), exact.shallow_clone())
    }))
}

/// The same tensors by the same names.
pub(crate) fn shared(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let own = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.shallow_clone());
    tensors.iter().map(own).collect()
}

/// The name of a generator's state of `rank`.
fn of_rank(name: &str, rank: usize) -> String {
    if rank == 0 { name.to_owned() } else { format!("{name}.rank{rank}") }
}

/// The random generators that a run on `device` draws from.
fn generators(device: Device) -> Vec<(&'static str, Device)> {
    let gpu = (device != Device::Cpu).then_some((GPU_RANDOM, device));
    [(CPU_RANDOM, Device::Cpu)].into_iter().chain(gpu).collect()
}

/// Copies on the CPU.
fn copies(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Result<BTreeMap<String, Tensor>> {
    let copy = |tensor: &Tensor| -> std::result::Result<Tensor, TchError> {
        let tensor = tensor.f_detach()?;
        if tensor.device() != Device::Cpu {
            return tensor.f_to_device(Device::Cpu);
        }
        let mut copy = tensor.f_empty_like()?;
        copy.f_copy_(&tensor).map(|()| copy)
    };
    let mut copied = BTreeMap::new();
    for (name, tensor) in tensors {
        let tensor = no_grad(|| copy(&tensor)).during(&name)?;
        copied.insert(name, tensor);
    }
    Ok(copied)
}

fn refuse(name: &str, reason: &str) -> crate::Error {
    Core::Unsupported { what: format!("the parameter {name}"), reason: reason.into() }.into()
}
