//! Seeds, and the state of libtorch's random generators.

#![expect(unsafe_code, reason = "the border to C and C++")]

use tch::{Device, Tensor};

use crate::error::{Error, Result};
use crate::shim;

/// Seeds every generator of libtorch, on the CPU and on all CUDA devices.
///
/// # Panics
/// Where libtorch refuses, such as while a CUDA graph is recorded: a programmer's error.
pub fn seed(seed: u64) {
    // SAFETY: no pointers go in, and the message is ours.
    let seeded = unsafe { shim::check("seed", shim::b4_random_seed(seed)) };
    if let Err(error) = seeded {
        panic!("{error}");
    }
}

/// The state of one device's default generator.
#[derive(Debug)]
pub struct RandomState {
    device: Device,
    bytes: Tensor,
}

impl RandomState {
    /// Reads the state of `device`'s generator.
    ///
    /// # Errors
    /// A device that is not there, or that is neither a CPU nor a CUDA device.
    pub fn of(device: Device) -> Result<Self> {
        let mut raw: shim::RawTensor = std::ptr::null_mut();
        // SAFETY: `raw` takes one new tensor, of which we become the owner; the message is ours.
        let state = unsafe {
            let message = shim::b4_random_state_get(generator_index(device)?, &mut raw);
            shim::check("random state", message)?;
            shim::take_tensor(raw)
        };
        let bytes = state.ok_or_else(|| Error::Torch {
            op: "random state".into(),
            message: "libtorch gave no state".into(),
        })?;
        Ok(Self { device, bytes })
    }

    /// The device whose generator it is of.
    pub fn device(&self) -> Device {
        self.device
    }

    /// A state of `device` from [`bytes`](Self::bytes) that were kept. [`restore`](Self::restore)
    /// checks them.
    pub fn from_bytes(device: Device, bytes: &[u8]) -> Self {
        Self { device, bytes: Tensor::from_slice(bytes) }
    }

    /// The state as opaque bytes, to keep in a file.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0u8; self.bytes.numel()];
        let count = bytes.len();
        self.bytes
            .f_copy_data_u8(&mut bytes, count)
            .map_err(|error| Error::torch("random state", error))?;
        Ok(bytes)
    }

    /// Makes the device's generator go on from here.
    ///
    /// # Errors
    /// Bytes that are no state of such a generator, which then goes on as it was, and a device
    /// that is not there.
    pub fn restore(&self) -> Result<()> {
        let index = generator_index(self.device)?;
        // SAFETY: the tensor lives through the call; the message is ours.
        unsafe {
            let message = shim::b4_random_state_set(index, shim::borrow_raw(&self.bytes));
            shim::check("random state", message)
        }
    }
}

/// The shim's number for a device's generator: -1 is the CPU.
fn generator_index(device: Device) -> Result<i32> {
    match device {
        Device::Cpu => Ok(-1),
        // libtorch numbers devices in one signed byte.
        Device::Cuda(index) if index <= i8::MAX as usize => Ok(index as i32),
        other => Err(Error::Unsupported {
            what: format!("the random state of {other:?}"),
            reason: "no such device".into(),
        }),
    }
}
