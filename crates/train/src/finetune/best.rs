//! The best weights so far, by a score on held-out examples, and when there is no use in going on.

use std::cell::RefCell;
use std::rc::Rc;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Tensor, no_grad};

use crate::error::Result;
use crate::evaluation::Evaluation;
use crate::hook::{Control, Hook};

/// Keeps the weights that scored best. Clones share them.
#[derive(Debug, Clone)]
pub struct BestWeights(Rc<RefCell<Kept>>);

#[derive(Debug)]
struct Kept {
    score: &'static str,
    /// Measurements without a better score before training stops; 0 never stops.
    patience: u32,
    since_best: u32,
    best: Option<(f64, u64)>,
    /// The weights that are trained, and their exact values.
    live: Vec<(Tensor, Option<Tensor>)>,
    copies: Vec<Tensor>,
}

impl BestWeights {
    /// Watches `score`, of which more is better, while `params` are trained.
    pub fn new(score: &'static str, patience: u32, params: &ParamStore) -> Self {
        let params = params.params();
        let live = params.iter().map(|param| {
            let master = param.master.as_ref().map(Tensor::shallow_clone);
            (param.weight.shallow_clone(), master)
        });
        let live = live.collect();
        let (best, copies) = (None, Vec::new());
        Self(Rc::new(RefCell::new(Kept { score, patience, since_best: 0, best, live, copies })))
    }

    /// The best score, and the step after which it was measured.
    pub fn best(&self) -> Option<(f64, u64)> {
        self.0.borrow().best
    }

    /// Puts the best weights back.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn restore(&self) -> Result<()> {
        let kept = self.0.borrow();
        no_grad(|| {
            for ((weight, master), copy) in kept.live.iter().zip(&kept.copies) {
                for tensor in std::iter::once(weight).chain(master) {
                    tensor.shallow_clone().f_copy_(copy).during("restore the best weights")?;
                }
            }
            Ok(())
        })
    }
}

impl Hook for BestWeights {
    fn on_eval(&mut self, evaluation: &Evaluation, control: &mut Control) -> Result<()> {
        let kept = &mut *self.0.borrow_mut();
        let Some(&score) = evaluation.means.get(kept.score) else { return Ok(()) };
        if kept.best.is_some_and(|(best, _)| score.is_nan() || score <= best) {
            kept.since_best += 1;
            if kept.patience > 0 && kept.since_best >= kept.patience {
                control.stop();
            }
            return Ok(());
        }
        (kept.best, kept.since_best) = (Some((score, evaluation.step)), 0);
        kept.copies = no_grad(|| {
            let copy = |(weight, master): &(Tensor, Option<Tensor>)| {
                let exact = master.as_ref().unwrap_or(weight);
                let mut copy = exact.f_empty_like()?;
                copy.f_copy_(exact)?;
                copy.f_to_device(Device::Cpu)
            };
            kept.live.iter().map(copy).collect::<std::result::Result<_, _>>()
        })
        .during("keep the best weights")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bert4rs_tensor_core::Kind;
    use bert4rs_tensor_core::param::{Init, Role};

    use super::*;

    #[test]
    fn the_best_weights_come_back_and_patience_ends() {
        let params = ParamStore::new(Device::Cpu, Kind::BFloat16);
        let _ = params.root().param("w", &[2], Role::Matrix, Init::Zeros).unwrap();
        let mut best = BestWeights::new("f1", 2, &params);
        let mut control = Control::default();
        for (step, (value, score)) in
            [(0.1, 0.5), (0.2, 0.9), (0.3, 0.9), (0.4, 0.8)].iter().enumerate()
        {
            let param = &params.params()[0];
            no_grad(|| {
                let _ = param.master.as_ref().unwrap().shallow_clone().fill_(*value);
                let _ = param.weight.shallow_clone().fill_(*value);
            });
            assert!(!control.stop, "{step}");
            let means = [("f1".to_owned(), *score)].into();
            let evaluation = Evaluation { step: step as u64 + 1, labels: 1, means };
            best.on_eval(&evaluation, &mut control).unwrap();
        }
        assert!(control.stop);
        assert_eq!(best.best(), Some((0.9, 2)));
        best.restore().unwrap();
        let param = &params.params()[0];
        let value = param.master_or_weight().double_value(&[0]);
        assert!((value - 0.2).abs() < 1e-7, "{value}");
        assert!((param.weight.double_value(&[0]) - 0.2).abs() < 1e-3);
    }
}
