//! Which of the choices about products in 8 bits can be used together.

use bert4rs_models::checkpointing::ActivationCheckpointing;
use bert4rs_tensor_core::Device;
use bert4rs_tensor_core::fp8::Fp8Mode;
use bert4rs_tensor_core::int8::{Int8Config, Int8Products, Int8Rounding};

use super::Config;
use super::validate::Fault;

impl Config {
    /// How integers of 8 bits are multiplied on `device`. Where maps multiply in FP8, they leave no
    /// choice to `auto`.
    pub fn int8_on(&self, device: Device) -> Int8Config {
        let mut int8 = self.compute.int8.clone();
        if int8.products == Int8Products::Auto && self.compute.fp8.scaling != Fp8Mode::Off {
            int8.products = Int8Products::Off;
        }
        int8.resolve(device)
    }

    pub(super) fn validate_eight_bits(&self) -> Result<(), Fault> {
        let (fp8, int8) = (&self.compute.fp8, &self.compute.int8);
        let fp8_is_off = fp8.scaling == Fp8Mode::Off;
        let choices = [("heads", fp8.heads), ("skip", !fp8.skip.is_empty())];
        if let Some((key, _)) = choices.iter().find(|(_, is_set)| *is_set)
            && fp8_is_off
        {
            let reason = "chooses among maps that compute.fp8.scaling = \"off\" leaves out; set \
                          that to tensor, delayed or row";
            return Err((format!("compute.fp8.{key}"), reason.into()));
        }
        if fp8.scaling == Fp8Mode::Delayed
            && self.compute.activation_checkpointing != ActivationCheckpointing::None
        {
            let reason = "a block computed again would count twice in delayed scaling; choose \
                          compute.fp8.scaling = \"tensor\" or \
                          compute.activation_checkpointing = \"none\"";
            return Err(("compute.activation_checkpointing".into(), reason.into()));
        }
        if !matches!(int8.products, Int8Products::Off | Int8Products::Auto) && !fp8_is_off {
            let reason = "and compute.fp8.scaling are for the same maps; set one of them to off";
            return Err(("compute.int8.products".into(), reason.into()));
        }
        self.validate_int8()
    }

    fn validate_int8(&self) -> Result<(), Fault> {
        let int8 = &self.compute.int8;
        let is_stochastic = int8.rounding == Int8Rounding::Stochastic;
        let choices =
            [("heads", int8.heads), ("skip", !int8.skip.is_empty()), ("rounding", is_stochastic)];
        if let Some((key, _)) = choices.iter().find(|(_, is_set)| *is_set)
            && int8.products == Int8Products::Off
        {
            let reason = "acts on products that compute.int8.products = \"off\" leaves out; set \
                          that to auto, forward, forward_backward or all";
            return Err((format!("compute.int8.{key}"), reason.into()));
        }
        if is_stochastic && int8.products == Int8Products::Forward {
            let reason = "is of gradients, and compute.int8.products = \"forward\" makes no \
                          integers of them; choose forward_backward or all";
            return Err(("compute.int8.rounding".into(), reason.into()));
        }
        Ok(())
    }
}
