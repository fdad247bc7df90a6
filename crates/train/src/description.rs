//! Lines that say what was chosen, and why.

use bert4rs_tensor_core::Device;
use bert4rs_tensor_core::fp8::Fp8Mode;
use bert4rs_tensor_core::int8::{Int8Products, Int8Rounding};
use bert4rs_tensor_core::policy::Backend;

use crate::build::Parts;
use crate::config::Config;
use crate::execution::Execution;
use crate::machine::Machine;
use crate::names::name_of;

/// Lines about a run of `config` on `machine`, before it begins.
pub fn describe(config: &Config, machine: &Machine, parts: &Parts) -> Vec<String> {
    let compute = &config.compute;
    let mut lines = vec![
        machine.describe(),
        format!(
            "precision  {} ({}); {} attention; logits of {} tokens",
            name_of(machine.precision),
            machine.precision_reason,
            name_of(compute.attention),
            name_of(compute.logits)
        ),
        format!("model      {:.2} M parameters", parts.params.count() as f64 / 1e6),
    ];
    lines.extend(parts.init.iter().cloned());
    if compute.fp8.scaling != Fp8Mode::Off {
        let how = match machine.device {
            Device::Cpu => "emulated, slower than BF16: no CPU multiplies FP8",
            _ => "on the GPU's FP8 units",
        };
        lines.push(format!("FP8        factors by {}; {how}", name_of(compute.fp8.scaling)));
    }
    if !machine.backends.is_empty() {
        let own = machine.backends.iter().filter(|choice| choice.backend == Backend::Own).count();
        lines.push(format!(
            "backends   measured here: own kernels in {own} of {} cases",
            machine.backends.len()
        ));
    }
    let int8 = config.int8_on(machine.device);
    if int8.products != Int8Products::Off {
        lines.push(format!(
            "INT8       {} products of integers by {}; gradients rounded to the {}",
            match int8.products {
                Int8Products::Forward => "forward",
                Int8Products::ForwardBackward => "forward and input gradients'",
                _ => "all",
            },
            bert4rs_kernels::int8::instructions(),
            match int8.rounding {
                Int8Rounding::Nearest => "nearest",
                Int8Rounding::Stochastic => "next, by chance",
            }
        ));
    }
    lines.extend(execution(parts));
    lines.extend(parts.data.facts.description.iter().cloned());
    lines
}

/// How steps are launched, unless it is the plain way that was asked for.
fn execution(parts: &Parts) -> Option<String> {
    let how = match (parts.options.execution, parts.no_graphs) {
        (execution, Some(reason)) => {
            format!("{}, without CUDA graphs: {reason}", name_of(execution))
        }
        (Execution::CudaGraphs, None) => "a step is captured and replayed as a whole".into(),
        (Execution::Capturable, None) => "capturable: no step waits for the device".into(),
        (Execution::Eager, None) => return None,
    };
    Some(format!("execution  {how}"))
}
