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

use bert4rs_optim::DataParallel;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::{Param, ParamStore};
use bert4rs_tensor_core::{Error as Core, Kind, Tensor, no_grad};

use crate::distributed::MeteredGroup;
use crate::error::Result;

const OP: &str = "average weights";

/// The averages of all parameters, in FP32 or FP64, in the store's order. Ranks that divide the
/// optimizer divide these alike: each has the averages of its own pieces.
#[derive(Debug)]
pub struct WeightAverage {
    decay: f64,
    averages: Vec<Tensor>,
}

impl WeightAverage {
    /// Averages that begin with the weights in `exact`, of
    /// [the optimizer's](DataParallel::exact); each step keeps `decay` of them.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn new(decay: f64, exact: &[Param]) -> Result<Self> {
        let start = |param: &Param| -> Result<Tensor> {
            let exact = param.master_or_weight().detach();
            let mut average =
                exact.f_zeros_like().during(OP)?.f_to_kind(kind_for(&exact)).during(OP)?;
            average.f_copy_(&exact).during(OP)?;
            Ok(average)
        };
        Ok(Self { decay, averages: exact.iter().map(start).collect::<Result<_>>()? })
    }

    /// Takes in the weights after `step` steps. Waits for no device.
    ///
    /// # Errors
    /// What libtorch throws.
    pub(crate) fn update(&mut self, exact: &[Param], step: u64) -> Result<()> {
        let step = step as f64;
        let kept = self.decay.min((1.0 + step) / (10.0 + step));
        no_grad(|| {
            for (average, param) in self.averages.iter_mut().zip(exact) {
                let exact = param.master_or_weight().detach();
                let exact = exact.f_to_kind(average.kind()).during(OP)?;
                let _ = average.f_lerp_(&exact, 1.0 - kept).during(OP)?;
            }
            Ok(())
        })
    }

    /// The averages of whole parameters, in the order of `params`: all ranks call it, and each gets
    /// all of them.
    ///
    /// # Errors
    /// Those of the group.
    pub(crate) fn whole(
        &self,
        params: &[Param],
        optimizer: &DataParallel,
        group: &MeteredGroup,
    ) -> Result<Vec<Tensor>> {
        let kind = params.first().map_or(Kind::Float, |param| kind_for(param.master_or_weight()));
        Ok(optimizer.gather_parts(group, &self.averages, kind)?)
    }

    /// Takes over what was saved of [`whole`](Self::whole) averages, by name.
    ///
    /// # Errors
    /// A name or shape that is not there; the averages of another model.
    pub(crate) fn restore(
        &mut self,
        saved: &BTreeMap<String, Tensor>,
        params: &[Param],
        optimizer: &DataParallel,
    ) -> Result<()> {
        let of = |param: &Param| -> Result<Tensor> {
            let refuse = |reason: &str| Core::Unsupported {
                what: format!("the average of {}", param.name),
                reason: reason.into(),
            };
            let value = saved.get(&param.name).ok_or_else(|| refuse("it is missing"))?;
            match value.size() == param.weight.size() {
                true => Ok(value.shallow_clone()),
                false => Err(refuse("it has another shape").into()),
            }
        };
        let wholes = params.iter().map(of).collect::<Result<Vec<_>>>()?;
        no_grad(|| {
            for (average, part) in self.averages.iter_mut().zip(optimizer.parts_of(&wholes)?) {
                average.f_copy_(&part).during(OP)?;
            }
            Ok(())
        })
    }
}

/// The dtype of an average of `exact` values.
fn kind_for(exact: &Tensor) -> Kind {
    if exact.kind() == Kind::Double { Kind::Double } else { Kind::Float }
}

/// Lets `work` see `averages`, one a parameter, where the weights are, which are put back
/// afterwards.
///
/// # Errors
/// What `work` refuses, and what libtorch throws.
pub(crate) fn with_averages<T>(
    averages: &[Tensor],
    params: &mut ParamStore,
    work: impl FnOnce(&ParamStore) -> Result<T>,
) -> Result<T> {
    let copy = |tensor: &Tensor| no_grad(|| tensor.detach().copy());
    let before: Vec<(Tensor, Option<Tensor>)> = params
        .params()
        .iter()
        .map(|param| (copy(&param.weight), param.master.as_ref().map(copy)))
        .collect();
    for (average, param) in averages.iter().zip(params.params_mut()) {
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
            let mut average = WeightAverage::new(0.5, &params.params()).unwrap();
            let mut expected = 1.0;
            for step in 1..=40u64 {
                set(&mut params, step as f64);
                average.update(&params.params(), step).unwrap();
                let kept = (1.0 + step as f64) / (10.0 + step as f64);
                let kept = kept.min(0.5);
                expected = kept * expected + (1.0 - kept) * step as f64;
            }
            let found = average.averages[0].double_value(&[0]);
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            let inside = with_averages(&average.averages, &mut params, |params| {
                Ok(params.params()[0].master_or_weight().double_value(&[1]))
            })
            .unwrap();
            assert!((inside - expected).abs() < 1e-4);
            assert_eq!(params.params()[0].master_or_weight().double_value(&[1]), 40.0);
        }
    }
}
