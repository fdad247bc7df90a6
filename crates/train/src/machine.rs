//! The machine that a run has: its device and precision, and the process-wide switches of libtorch
//! that go with them. Nothing else in this crate changes the process.

use bert4rs_tensor_core::cpu_isa::CpuIsa;
use bert4rs_tensor_core::device::DeviceChoice;
use bert4rs_tensor_core::policy::Choice;
use bert4rs_tensor_core::precision::{Precision, allow_tf32};
use bert4rs_tensor_core::{Device, cpu, get_num_threads, random, set_num_threads, threads};

use crate::backends;
use crate::error::{Error, Result};
use crate::measured_peak::MeasuredPeak;

/// What a run asks of the machine.
#[derive(Debug, Clone, Copy)]
pub struct MachineOptions {
    /// Which device.
    pub device: DeviceChoice,
    /// Dtype of weights and activations.
    pub precision: Precision,
    /// CPU threads; 0 means one for each core that the process may use.
    pub threads: u32,
    /// Whether FP32 products on GPUs round what they multiply to TF32.
    pub tf32: bool,
    /// Whether backends of operations on the CPU are chosen by measurement.
    pub measures_backends: bool,
    /// Seeds weights and dropout.
    pub seed: u64,
}

impl Default for MachineOptions {
    /// The best device, in FP32.
    fn default() -> Self {
        let (device, precision) = (DeviceChoice::Auto, Precision::Fp32);
        let measures_backends = false;
        Self { device, precision, threads: 0, tf32: false, measures_backends, seed: 1 }
    }
}

/// A device, and how it computes.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Where parameters and batches are.
    pub device: Device,
    /// Dtype of weights and activations.
    pub precision: Precision,
    /// Why this precision.
    pub precision_reason: &'static str,
    /// The best rates of matrix products.
    pub peak: MeasuredPeak,
    /// Backends of operations, measured; none where they are in a fixed order.
    pub backends: Vec<Choice>,
}

impl Machine {
    /// Sets the whole process up as `options` say: CPU threads, TF32, and the seed of every
    /// generator. The last is done last, so that what is drawn next follows from the seed alone.
    ///
    /// # Errors
    /// A device that is not there, and TF32 where none is.
    pub fn set_up(options: &MachineOptions) -> Result<Self> {
        let device = options.device.resolve()?;
        allow_tf32(options.tf32, device).map_err(|error| Error::Config {
            origin: "configuration".into(),
            key: "compute.tf32".into(),
            reason: error.to_string(),
        })?;
        if options.threads > 0 {
            set_num_threads(options.threads.min(i32::MAX as u32) as i32);
        } else {
            threads::limit_to_available_cores();
        }
        let peak = MeasuredPeak::new(device)?;
        let (precision, precision_reason) = options.precision.resolve(device);
        let threads = get_num_threads();
        tracing::debug!(?device, ?precision, because = precision_reason, threads, "the machine");
        let backends = match device {
            Device::Cpu if options.measures_backends => backends::choices(precision),
            _ => Vec::new(),
        };
        random::seed(options.seed);
        Ok(Self { device, precision, precision_reason, peak, backends })
    }

    /// The device's name: `cpu` or `cuda:0`.
    pub fn device_name(&self) -> String {
        match self.device {
            Device::Cpu => "cpu".into(),
            Device::Cuda(index) => format!("cuda:{index}"),
            other => format!("{other:?}"),
        }
    }

    /// A line for people.
    pub fn describe(&self) -> String {
        let (name, threads) = (self.device_name(), get_num_threads());
        let limit = CpuIsa::of_process().ok().flatten();
        let limit = limit.map(|isa| format!(" limited to {}", isa.name())).unwrap_or_default();
        format!("device     {name} ({}{limit}), {threads} threads", cpu::name())
    }
}
