//! The bytes foretold are those that are held.

use bert4rs_optim::memory::{self, MemoryFootprint};
use bert4rs_optim::{Masters, Optimizer, OptimizerConfig};
use bert4rs_tensor_core::{Kind, Tensor};

use crate::model;

/// Bytes of the tensors whose names end in one of `ends`.
fn held(optimizer: &Optimizer, ends: &[&str]) -> u64 {
    let state = optimizer.state().unwrap();
    let fits = |name: &str| ends.iter().any(|end| name.contains(end));
    state.iter().filter(|(name, _)| fits(name)).map(|(_, tensor)| bytes(tensor)).sum()
}

fn bytes(tensor: &Tensor) -> u64 {
    (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64
}

#[test]
fn what_is_foretold_is_held() {
    let rules = [
        OptimizerConfig::adamw(1e-3),
        OptimizerConfig::muon(0.02, 1e-3),
        OptimizerConfig::normuon(0.02, 1e-3),
    ];
    for rule in rules {
        for (kind, masters) in [
            (Kind::Float, Masters::Fp32),
            (Kind::BFloat16, Masters::Fp32),
            (Kind::BFloat16, Masters::Bf16Residual),
        ] {
            let config = OptimizerConfig { masters, ..rule.clone() };
            let mut params = model(kind);
            let foretold = MemoryFootprint::of(&config, &params).unwrap();
            let optimizer = Optimizer::new(config, &mut params).unwrap();
            let weights: u64 = params.iter().map(|param| bytes(&param.weight)).sum();
            let masters: u64 =
                params.iter().filter_map(|param| param.master.as_ref()).map(bytes).sum();
            let found = MemoryFootprint {
                weights,
                masters: masters + held(&optimizer, &["bf16_residual"]),
                gradients: weights,
                adamw: held(&optimizer, &["exp_avg"]),
                muon: held(&optimizer, &["momentum_buffer"]),
            };
            assert_eq!(foretold, found, "{kind:?}");
            // All but counters of steps, 8 bytes each.
            let counters = 8 * (3 + params.len() as u64);
            let counted = memory::allocated_bytes(&optimizer, &params).unwrap();
            assert!((foretold.total()..=foretold.total() + counters).contains(&counted));
        }
    }
}
