//! Settings that do nothing in the run at hand. They are said and not refused, as a preset may have
//! set them for other machines.

use bert4rs_optim::Masters;
use bert4rs_tensor_core::precision::Precision;

use super::Config;

impl Config {
    /// The settings that do nothing with weights in `precision`, and why.
    pub fn idle_settings(&self, precision: Precision) -> Vec<&'static str> {
        let (data, train) = (&self.data, &self.train);
        let is_fp32 = precision == Precision::Fp32;
        let idle = [
            (
                self.optimizer.masters == Masters::Bf16Residual && is_fp32,
                "optimizer.masters = \"bf16_residual\": weights are FP32 and have no masters",
            ),
            (self.compute.tf32 && !is_fp32, "compute.tf32: the products are not in FP32"),
            (
                data.workers > 1 && data.prefetch.most() == 0,
                "data.workers: with data.prefetch = 0 the loop makes each batch itself",
            ),
            (
                train.eval_sequences > 0 && data.held_out == 0.0,
                "train.eval_sequences: with data.held_out = 0 there is no text to measure on",
            ),
        ];
        idle.into_iter().filter(|(is_idle, _)| *is_idle).map(|(_, why)| why).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::resolve;
    use crate::presets;

    #[test]
    fn what_does_nothing_is_said_and_nothing_else() {
        let of = |names: &[&str]| resolve(&presets::overlays(names).unwrap()).unwrap();
        let fastest = of(&["fastest"]);
        assert!(fastest.idle_settings(Precision::Fp32)[0].contains("optimizer.masters"));
        assert!(fastest.idle_settings(Precision::Bf16).is_empty());
        assert!(of(&["baseline"]).idle_settings(Precision::Fp32).is_empty());
        let mut idle = of(&["baseline"]);
        (idle.data.workers, idle.data.held_out) = (2, 0.0);
        assert_eq!(idle.idle_settings(Precision::Fp32).len(), 2);
    }
}
