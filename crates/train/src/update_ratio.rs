//! How far a step moves the weights of each layer, relative to their size: about 0.001 where a
//! learning rate suits a layer.

use std::collections::BTreeMap;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::{Param, ParamStore};
use bert4rs_tensor_core::{Kind, Tensor, no_grad};

use crate::error::Result;

const OP: &str = "measure an update";

/// The weights before a step.
#[derive(Debug)]
pub(crate) struct WeightsBefore(Vec<Tensor>);

impl WeightsBefore {
    /// Copies them.
    pub(crate) fn take(params: &ParamStore) -> Self {
        let copy = |param: &Param| no_grad(|| param.master_or_weight().detach().copy());
        Self(params.params().iter().map(copy).collect())
    }

    /// Of each layer, the norm of what was added since over the norm of what was there before; 0
    /// where all was 0. Waits for the device.
    pub(crate) fn ratios(&self, params: &ParamStore) -> Result<BTreeMap<String, f64>> {
        let square = |tensor: &Tensor| -> Result<f64> {
            let norm = tensor.f_norm_scalaropt_dtype(2, Kind::Double).during(OP)?;
            Ok(norm.f_double_value(&[]).during(OP)?.powi(2))
        };
        let mut sums: BTreeMap<String, [f64; 2]> = BTreeMap::new();
        for (before, param) in self.0.iter().zip(params.params().iter()) {
            let now = param.master_or_weight().detach();
            let update = no_grad(|| now.f_sub(before)).during(OP)?;
            let sum = sums.entry(layer_of(&param.name)).or_default();
            sum[0] += square(&update)?;
            sum[1] += square(before)?;
        }
        let ratio = |[update, weight]: [f64; 2]| {
            if weight > 0.0 { (update / weight).sqrt() } else { 0.0 }
        };
        Ok(sums.into_iter().map(|(layer, sums)| (layer, ratio(sums))).collect())
    }
}

/// The layer that a parameter belongs to: its block, or, outside of blocks, what its name has
/// before the last part.
fn layer_of(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let is_number = |part: &&str| part.parse::<u32>().is_ok();
    let end = match parts.iter().position(is_number) {
        Some(block) => block + 1,
        None => parts.len().saturating_sub(1).max(1),
    };
    parts[..end].join(".")
}

#[cfg(test)]
mod tests {
    use bert4rs_tensor_core::Device;
    use bert4rs_tensor_core::param::{Init, Role};

    use super::*;

    #[test]
    fn layers_are_blocks_and_what_stands_beside_them() {
        for (name, layer) in [
            ("bert.encoder.layer.11.attention.self.query.weight", "bert.encoder.layer.11"),
            ("bert.embeddings.word_embeddings.weight", "bert.embeddings.word_embeddings"),
            ("encoder.block.0.layer.1.layer_norm.weight", "encoder.block.0"),
            ("transformer.h.3.ln_1.bias", "transformer.h.3"),
            ("w", "w"),
        ] {
            assert_eq!(layer_of(name), layer);
        }
    }

    #[test]
    fn the_ratio_is_that_of_norms_over_a_layer() {
        let mut params = ParamStore::new(Device::Cpu, Kind::Float);
        let root = params.root();
        drop((&root / "h" / 0).param("a", &[4], Role::Matrix, Init::Ones).unwrap());
        drop((&root / "h" / 0).param("b", &[5], Role::Matrix, Init::Ones).unwrap());
        drop(root.param("still", &[2], Role::Matrix, Init::Ones).unwrap());
        let before = WeightsBefore::take(&params);
        let moved = Tensor::full([4], 1.5, (Kind::Float, Device::Cpu));
        params.params_mut()[0].set(&moved).unwrap();
        let ratios = before.ratios(&params).unwrap();
        // Four values moved by a half: the root of 1 over the root of 9.
        assert!((ratios["h.0"] - 1.0 / 3.0).abs() < 1e-9, "{ratios:?}");
        assert_eq!(ratios["still"], 0.0);
    }
}
