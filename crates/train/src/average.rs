//! An exponential moving average of the weights, which often does better on unseen text than the
//! last of them.
//!
//! ```text
//! d = min(decay, (1 + t) / (10 + t))     after t steps
//! average = d average + (1 - d) weight
//! ```
//!
//! The smaller `d` of the first steps lets the start be forgotten.

use std::collections::BTreeMap;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::{Param, ParamStore};
use bert4rs_tensor_core::{Error as Core, Kind, Tensor, no_grad};

use crate::error::Result;

const OP: &str = "average weights";

/// The averages of all parameters, in FP32, in the store's order.
#[derive(Debug)]
pub struct WeightAverage {
    decay: f64,
    averages: Vec<(String, Tensor)>,
}

impl WeightAverage {
    /// Averages that begin with the weights in `params`; each step keeps `decay` of them.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn new(decay: f64, params: &ParamStore) -> Result<Self> {
        let start = |param: &Param| -> Result<(String, Tensor)> {
            let exact = param.master_or_weight().detach();
            let kind = if exact.kind() == Kind::Double { Kind::Double } else { Kind::Float };
            let mut average = exact.f_zeros_like().during(OP)?.f_to_kind(kind).during(OP)?;
            average.f_copy_(&exact).during(OP)?;
            Ok((param.name.clone(), average))
        };
        let averages = params.params().iter().map(start).collect::<Result<_>>()?;
        Ok(Self { decay, averages })
    }

    /// Takes in the weights after `step` steps. Waits for no device.
    ///
    /// # Errors
    /// What libtorch throws.
    pub(crate) fn update(&mut self, params: &ParamStore, step: u64) -> Result<()> {
        let step = step as f64;
        let kept = self.decay.min((1.0 + step) / (10.0 + step));
        no_grad(|| {
            for ((_, average), param) in self.averages.iter_mut().zip(params.params().iter()) {
                let exact = param.master_or_weight().detach();
                let exact = exact.f_to_kind(average.kind()).during(OP)?;
                let _ = average.f_lerp_(&exact, 1.0 - kept).during(OP)?;
            }
            Ok(())
        })
    }

    /// The averages by name, memory shared.
    pub(crate) fn state(&self) -> impl Iterator<Item = (String, Tensor)> + '_ {
        self.averages.iter().map(|(name, average)| (name.clone(), average.shallow_clone()))
    }

    /// Takes over what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// A name or shape that is not there; the averages of another model.
    pub(crate) fn restore(&mut self, saved: &BTreeMap<String, Tensor>) -> Result<()> {
        no_grad(|| {
            for (name, average) in &mut self.averages {
                let refuse = |reason: &str| Core::Unsupported {
                    what: format!("the average of {name}"),
                    reason: reason.into(),
                };
                let value = saved.get(name).ok_or_else(|| refuse("it is missing"))?;
                if value.size() != average.size() {
                    return Err(refuse("it has another shape").into());
                }
                average.f_copy_(value).during(OP)?;
            }
            Ok(())
        })
    }

    /// Lets `work` see the averages where the weights are, which are put back afterwards.
    ///
    /// # Errors
    /// What `work` refuses, and what libtorch throws.
    pub(crate) fn with_averages<T>(
        &self,
        params: &mut ParamStore,
        work: impl FnOnce(&ParamStore) -> Result<T>,
    ) -> Result<T> {
        let copy = |tensor: &Tensor| no_grad(|| tensor.detach().copy());
        let before: Vec<(Tensor, Option<Tensor>)> = params
            .params()
            .iter()
            .map(|param| (copy(&param.weight), param.master.as_ref().map(copy)))
            .collect();
        for ((_, average), param) in self.averages.iter().zip(params.params_mut()) {
            param.set(average)?;
        }
        let outcome = work(params);
        // To the bit: a master is not what its rounded weight would give.
        for ((weight, master), param) in before.iter().zip(params.params_mut()) {
            no_grad(|| param.weight.f_copy_(weight)).during(OP)?;
            if let (Some(own), Some(master)) = (&mut param.master, master) {
                no_grad(|| own.f_copy_(master)).during(OP)?;
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use bert4rs_tensor_core::Device;
    use bert4rs_tensor_core::param::{Init, Role};

    use super::*;

    fn store(kind: Kind) -> ParamStore {
        let params = ParamStore::new(Device::Cpu, kind);
        drop(params.root().param("w", &[2], Role::Matrix, Init::Ones).unwrap());
        params
    }

    fn set(params: &mut ParamStore, value: f64) {
        params.params_mut()[0].set(&Tensor::full([2], value, (Kind::Float, Device::Cpu))).unwrap();
    }

    #[test]
    fn it_follows_the_formula_and_shows_itself_for_a_while() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let mut params = store(kind);
            let mut average = WeightAverage::new(0.5, &params).unwrap();
            let mut expected = 1.0;
            for step in 1..=40u64 {
                set(&mut params, step as f64);
                average.update(&params, step).unwrap();
                let kept = (1.0 + step as f64) / (10.0 + step as f64);
                let kept = kept.min(0.5);
                expected = kept * expected + (1.0 - kept) * step as f64;
            }
            let found = average.averages[0].1.double_value(&[0]);
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            let inside = average
                .with_averages(&mut params, |params| {
                    Ok(params.params()[0].master_or_weight().double_value(&[1]))
                })
                .unwrap();
            assert!((inside - expected).abs() < 1e-4);
            assert_eq!(params.params()[0].master_or_weight().double_value(&[1]), 40.0);
        }
    }
}
