//! Settings for some parameters, by name: their learning rate, their decay, or that they stay.

use bert4rs_tensor_core::param::Param;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, check};
use crate::group::matches;

/// A user's settings for the parameters of some names. Of several that fit a name, the last counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamGroup {
    /// Names of parameters, `*` for any text. Must match at least one.
    pub names: String,
    /// A factor on the learning rate of what updates them.
    #[serde(default = "one")]
    pub lr_scale: f64,
    /// Their decay; if absent, AdamW's for the parameter's role, or Muon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Whether they stay as they are: they get no gradients.
    #[serde(default)]
    pub frozen: bool,
}

fn one() -> f64 {
    1.0
}

impl ParamGroup {
    pub(crate) fn validate(&self) -> Result<()> {
        let positive = |value: f64| value.is_finite() && value >= 0.0;
        let bad = "must not be negative";
        check("groups.lr_scale", self.lr_scale, positive(self.lr_scale), bad)?;
        let decay = self.weight_decay.unwrap_or(0.0);
        check("groups.weight_decay", decay, positive(decay), bad)?;
        if self.frozen && (self.lr_scale != 1.0 || self.weight_decay.is_some()) {
            return refuse(&self.names, "is frozen, so that lr_scale and weight_decay do nothing");
        }
        Ok(())
    }
}

/// What a parameter's group says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tuning {
    pub(crate) lr_scale: f64,
    pub(crate) weight_decay: Option<f64>,
    pub(crate) frozen: bool,
}

/// What the groups say of each of `params`.
///
/// # Errors
/// A group that matches nothing, and groups that leave nothing to train.
pub(crate) fn tunings(params: &[Param], groups: &[ParamGroup]) -> Result<Vec<Tuning>> {
    let none = Tuning { lr_scale: 1.0, weight_decay: None, frozen: false };
    let mut tunings = vec![none; params.len()];
    for group in groups {
        let mut matched = false;
        for (param, tuning) in params.iter().zip(&mut tunings) {
            if !matches(&group.names, &param.name) {
                continue;
            }
            let ParamGroup { lr_scale, weight_decay, frozen, .. } = *group;
            (*tuning, matched) = (Tuning { lr_scale, weight_decay, frozen }, true);
        }
        if !matched {
            return refuse(&group.names, "matches no parameter");
        }
    }
    if !tunings.is_empty() && tunings.iter().all(|tuning| tuning.frozen) {
        let names = groups.iter().map(|group| group.names.as_str()).collect::<Vec<_>>();
        return refuse(&names.join(", "), "leaves nothing to train");
    }
    Ok(tunings)
}

fn refuse<T>(names: &str, reason: &str) -> Result<T> {
    let (key, value) = ("groups.names".into(), names.to_owned());
    Err(Error::Config { key, value, reason: reason.into() })
}

#[cfg(test)]
mod tests {
    use bert4rs_tensor_core::param::Role;
    use bert4rs_tensor_core::{Device, Kind, Tensor};

    use super::*;
    use crate::{Optimizer, OptimizerConfig, UpdateImplementation};

    fn params() -> Vec<Param> {
        let param = |name: &str| Param {
            name: name.into(),
            role: Role::Matrix,
            weight: Tensor::ones([2, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true),
            master: None,
        };
        ["low.weight", "high.weight", "still.weight"].map(param).into()
    }

    fn group(names: &str, lr_scale: f64, frozen: bool) -> ParamGroup {
        ParamGroup { names: names.into(), lr_scale, weight_decay: None, frozen }
    }

    #[test]
    fn a_group_has_its_own_rate_and_a_frozen_one_stays() {
        let mut params = params();
        let mut config = OptimizerConfig::adamw(0.1);
        config.adamw.weight_decay = 0.0;
        config.groups = vec![group("low.*", 0.25, false), group("still*", 1.0, true)];
        let mut optimizer = Optimizer::new(config, &mut params).unwrap();
        assert_eq!(optimizer.frozen(), [false, false, true]);
        let grad = || Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
        let grads = [grad(), grad(), Tensor::new()];
        optimizer.step(&mut params, &grads, 1.0).unwrap();
        let moved: Vec<f64> =
            params.iter().map(|param| 1.0 - param.weight.double_value(&[0, 0])).collect();
        assert!((moved[1] - 0.1).abs() < 1e-5, "{moved:?}");
        assert!((moved[0] - 0.025).abs() < 1e-5, "{moved:?}");
        assert_eq!(moved[2], 0.0);
    }

    #[test]
    fn muon_moves_a_group_by_its_own_rate_and_decay() {
        for implementation in [UpdateImplementation::Plain, UpdateImplementation::Fused] {
            let moved = |groups: &[ParamGroup]| -> Vec<f64> {
                let mut params = params();
                let mut config = OptimizerConfig::muon(0.1, 0.1);
                if let Some(muon) = &mut config.muon {
                    (muon.implementation, muon.weight_decay) = (implementation, 0.5);
                }
                config.groups = groups.to_vec();
                let mut optimizer = Optimizer::new(config, &mut params).unwrap();
                let grad = || Tensor::from_slice2(&[[2.0f32, 1.0], [0.0, 1.0]]);
                optimizer.step(&mut params, &[grad(), grad(), grad()], 0.5).unwrap();
                params.iter().map(|param| 1.0 - param.weight.double_value(&[0, 0])).collect()
            };
            let plain = moved(&[]);
            assert!(plain[0] > 0.05 && plain[0] == plain[1] && plain[0] == plain[2], "{plain:?}");
            let slow = group("low*", 0.25, false);
            let bare = ParamGroup { weight_decay: Some(0.0), ..group("still*", 1.0, false) };
            let tuned = moved(&[slow, bare]);
            assert!((tuned[0] / plain[0] - 0.25).abs() < 1e-5, "{tuned:?} {plain:?}");
            assert_eq!(tuned[1], plain[1]);
            // Without decay, which is 0.5 of a step of 0.05.
            assert!((plain[2] - tuned[2] - 0.025).abs() < 1e-5, "{tuned:?} {plain:?}");
        }
    }

    #[test]
    fn groups_that_can_not_act_are_refused() {
        let refused = |mut config: OptimizerConfig, groups: &[ParamGroup], part: &str| {
            config.groups = groups.to_vec();
            let error = Optimizer::new(config, &mut params()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        let adamw = || OptimizerConfig::adamw(0.1);
        refused(adamw(), &[group("lower.*", 0.5, false)], "matches no parameter");
        refused(adamw(), &[group("*", 1.0, true)], "leaves nothing to train");
        refused(adamw(), &[group("low*", 0.5, true)], "do nothing");
        refused(adamw(), &[group("low*", -0.5, false)], "must not be negative");
    }
}
