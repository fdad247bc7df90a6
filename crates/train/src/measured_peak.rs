//! The machine's best matrix-product rate, measured once, and where it keeps nothing waiting.

use std::cell::OnceCell;
use std::rc::Rc;

use bert4rs_tensor_core::Device;
use bert4rs_tensor_core::speed_of_light::{self, SpeedOfLight};

use crate::error::Result;
use crate::hook::{Control, Hook, StepContext};

/// The rate, and when it is measured. Clones share it.
///
/// Nothing needs it before the first step, which would wait half a second for it: on a CPU it is
/// measured after that step, as a hook of every rank at the same moment, since ranks share the
/// processor's cores. On a GPU it is measured at once, so that its operands are never held beside
/// a model, whose most memory is reported.
#[derive(Debug, Clone)]
pub struct MeasuredPeak {
    device: Device,
    found: Rc<OnceCell<SpeedOfLight>>,
}

impl MeasuredPeak {
    /// The peak of `device`.
    ///
    /// # Errors
    /// What libtorch throws, such as too little memory.
    pub fn new(device: Device) -> Result<Self> {
        let peak = Self { device, found: Rc::default() };
        if device.is_cuda() {
            peak.get()?;
        }
        Ok(peak)
    }

    /// The rates, measured now if they were not yet.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn get(&self) -> Result<SpeedOfLight> {
        if let Some(found) = self.found.get() {
            return Ok(*found);
        }
        let measured = speed_of_light::measure(self.device)?;
        Ok(*self.found.get_or_init(|| measured))
    }
}

impl Hook for MeasuredPeak {
    fn on_step(&mut self, _: &StepContext<'_>, _: &mut Control) -> Result<()> {
        self.get().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use bert4rs_tensor_core::testing::in_own_process;
    use bert4rs_tensor_core::{Kind, Tensor, random};

    use super::*;

    // Other tests draw from the same generator.
    #[test]
    fn it_is_measured_once_and_draws_nothing() {
        in_own_process("measured_peak::tests::it_is_measured_once_and_draws_nothing", || {
            random::seed(5);
            let expected = Tensor::randn([4], (Kind::Float, Device::Cpu));
            random::seed(5);
            let peak = MeasuredPeak::new(Device::Cpu).unwrap();
            assert!(peak.found.get().is_none(), "a CPU is measured later");
            let found = peak.clone().get().unwrap();
            assert!(found.best_flops() > 0.0);
            assert_eq!(peak.get().unwrap(), found, "clones share what was measured");
            assert_eq!(Tensor::randn([4], (Kind::Float, Device::Cpu)), expected);
        });
    }
}
