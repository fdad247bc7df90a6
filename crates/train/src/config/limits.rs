//! What a run would need at the very least, held against what this machine has before anything
//! is allocated.

use bert4rs_models::loss::LossImplementation;
use bert4rs_tensor_core::Device;
use bert4rs_tensor_core::device::DeviceChoice;
use bert4rs_tensor_core::policy::CudaKernels;

use super::{ComputedLogits, Config, Family};
use crate::capacity;
use crate::error::in_units;

/// Bytes of a parameter in training: weight, master and gradient, and AdamW's two moments, of
/// which some presets keep the first three in half as many bytes.
const PARAMETER_BYTES: u128 = 12;
/// Bytes of a token in a batch: four numbers of 64 bits.
const TOKEN_BYTES: u128 = 32;
/// Bytes of a hidden value that a block keeps for the backward pass.
const HIDDEN_BYTES: u128 = 2;

/// A part of what a run needs.
struct Need {
    /// The key that decides it.
    key: &'static str,
    value: u64,
    bytes: u128,
}

impl Config {
    /// Refuses what this machine can't hold in any case: the key and the reason. What is left may
    /// still turn out too much.
    pub(super) fn check_limits(&self) -> Result<(), (String, String)> {
        let most = capacity::most_threads();
        for (key, value) in
            [("compute.threads", self.compute.threads), ("data.workers", self.data.workers)]
        {
            if value > most {
                let reason = format!("{value} threads are more than help here; at most {most}");
                return Err((key.into(), reason));
            }
        }
        self.check_cpu_isa()?;
        if self.compute.cuda_kernels != CudaKernels::Proven && self.is_on_cpu() {
            let reason = "there is no CUDA device that it could act on; leave it \"proven\"";
            return Err(("compute.cuda_kernels".into(), reason.into()));
        }
        capacity::memory_bytes().map_or(Ok(()), |memory| self.check_memory(memory))
    }

    /// The same for a machine with `memory` bytes.
    fn check_memory(&self, memory: u64) -> Result<(), (String, String)> {
        let needs = self.needs();
        let sum = needs.iter().fold(0u128, |sum, need| sum.saturating_add(need.bytes));
        let Some(largest) = needs.iter().max_by_key(|need| need.bytes) else { return Ok(()) };
        if sum <= memory.into() {
            return Ok(());
        }
        let units = |bytes: u128| in_units(u64::try_from(bytes).unwrap_or(u64::MAX));
        let reason = format!(
            "{} is too much for this machine: of at least {} that the run needs, {} are for it, \
             and there are {}; lower it",
            largest.value,
            units(sum),
            units(largest.bytes),
            in_units(memory)
        );
        Err((largest.key.into(), reason))
    }

    /// The parts of the memory of this machine that a run needs at least.
    fn needs(&self) -> Vec<Need> {
        let (model, data) = (&self.model, &self.data);
        let need = |key, value: u32, bytes: u128| Need { key, value: value.into(), bytes };
        let batch = self.batch_bytes();
        // Of keys whose product counts, the largest value is the likeliest slip.
        let of_batches = [
            ("data.seq_len", data.seq_len),
            ("data.batch_size", data.batch_size),
            ("data.prefetch", data.prefetch.most()),
            ("train.accumulate", self.train.accumulate),
        ];
        let (key, value) =
            of_batches.into_iter().max_by_key(|(_, value)| *value).unwrap_or_default();
        let batches = 1 + u128::from(data.prefetch.most()) + u128::from(self.train.accumulate);
        let mut needs = vec![need(key, value, batch.saturating_mul(batches))];
        // What a GPU holds is not this machine's.
        if !self.is_on_cpu() {
            return needs;
        }
        let hidden = u128::from(model.hidden_size);
        let inner = u128::from(self.intermediate_size());
        let heads = u128::from(model.num_heads) * u128::from(model.head_size());
        let layers = u128::from(model.num_layers) + u128::from(model.decoder_layers);
        let tokens = batch / TOKEN_BYTES;
        let table = |rows: u32| u128::from(rows) * hidden * PARAMETER_BYTES;
        // Queries and output of attention, both maps of the feed-forward half, and their weights.
        let layer = 2 * hidden * (heads + inner) * PARAMETER_BYTES;
        needs.push(need("model.vocab_size", model.vocab_size, table(model.vocab_size)));
        let of_layers =
            [("model.num_layers", model.num_layers), ("model.hidden_size", model.hidden_size)];
        let (key, value) =
            of_layers.into_iter().max_by_key(|(_, value)| *value).unwrap_or_default();
        needs.push(need(key, value, layer.saturating_mul(layers)));
        if model.family != Family::T5 {
            let positions = self.max_positions();
            needs.push(need("model.max_positions", positions, table(positions)));
        }
        let kept = tokens.saturating_mul(hidden * HIDDEN_BYTES).saturating_mul(layers);
        let all_logits = self.compute.logits == ComputedLogits::All
            && self.loss.implementation == LossImplementation::Plain;
        let logits = if all_logits { tokens * u128::from(model.vocab_size) * 4 } else { 0 };
        needs[0].bytes = needs[0].bytes.saturating_add(kept);
        // The larger side of the logits is the likelier slip.
        let side = usize::from(u128::from(model.vocab_size) > tokens);
        needs[side].bytes = needs[side].bytes.saturating_add(logits);
        needs
    }

    fn is_on_cpu(&self) -> bool {
        let device = self.compute.device.parse::<DeviceChoice>().and_then(DeviceChoice::resolve);
        device.is_ok_and(|device| device == Device::Cpu)
    }

    /// Bytes of a batch at least.
    pub fn batch_bytes(&self) -> u128 {
        u128::from(self.data.batch_size) * u128::from(self.data.seq_len) * TOKEN_BYTES
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Overlay, resolve};
    use crate::model_zoo;

    /// The key that is refused for a machine of so many GiB.
    fn refused(gib: u64, settings: &str) -> Option<String> {
        let overlay =
            Overlay::parse("test", &format!("compute.device = \"cpu\"\n{settings}")).unwrap();
        let config = resolve(&[overlay]).unwrap();
        config.check_memory(gib << 30).err().map(|(key, _)| key)
    }

    #[test]
    fn the_key_that_asks_for_most_is_named() {
        for (key, value) in [
            ("data.batch_size", 4_000_000_000u32),
            ("data.prefetch", i32::MAX as u32),
            ("train.accumulate", i32::MAX as u32),
            ("model.vocab_size", i32::MAX as u32),
            ("data.seq_len", i32::MAX as u32),
            ("model.hidden_size", 1 << 28),
        ] {
            assert_eq!(refused(64, &format!("{key} = {value}")).as_deref(), Some(key));
            assert_eq!(refused(1, "").as_deref(), None);
        }
    }

    #[test]
    fn what_fits_is_let_through() {
        for (name, gib) in [("bert-base", 4), ("bert-large", 8), ("gpt2", 8), ("t5-small", 2)] {
            let config = resolve(&[model_zoo::overlay(name, true).unwrap()]).unwrap();
            assert_eq!(config.check_memory(gib << 30), Ok(()), "{name}");
            assert!(config.check_memory(256 << 20).is_err(), "{name}");
        }
    }
}
