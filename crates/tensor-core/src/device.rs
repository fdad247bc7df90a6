//! Which device to compute on. A device that was asked for is had, or it is an error.

#![expect(unsafe_code, reason = "the border to C++")]

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use tch::Device;

use crate::error::{Error, Result};
use crate::shim;

/// What a user may ask for: `auto`, `cpu`, `cuda` (the first) or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA device if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this index.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .filter(|index| index.bytes().all(|letter| letter.is_ascii_digit()))
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| Error::Device {
                    asked: text.to_owned(),
                    reason: "no such device name; use auto, cpu, or cuda:N".into(),
                }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl DeviceChoice {
    /// The device to use, loading libtorch's CUDA backend where it may be needed.
    ///
    /// # Errors
    /// A CUDA device that was asked for by name and is not there: never another one instead.
    pub fn resolve(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto => Ok(match cuda() {
                Cuda::Devices(_) => Device::Cuda(0),
                Cuda::None(_) => Device::Cpu,
            }),
            Self::Cuda(index) => {
                let reason = match cuda() {
                    Cuda::Devices(count) if index < *count => return Ok(Device::Cuda(index)),
                    Cuda::Devices(count) => format!("this machine has {count} CUDA device(s)"),
                    Cuda::None(reason) => reason.clone(),
                };
                let reason = format!("{reason}; use --device cpu or --device auto");
                Err(Error::Device { asked: self.to_string(), reason })
            }
        }
    }
}

/// CUDA as this process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cuda {
    /// The backend is loaded and sees this many devices, at least one.
    Devices(usize),
    /// There is none, for this reason.
    None(String),
}

/// Loads libtorch's CUDA backend, once, if an NVIDIA driver is there, and counts devices.
///
/// The program is linked to libtorch's CPU half alone; the backend registers itself when its
/// library is loaded from the same folder. Where libtorch asks for an accelerator before this is
/// called, such as for a seed, `csrc/cuda_hooks.cpp` loads it then.
pub fn cuda() -> &'static Cuda {
    static CUDA: OnceLock<Cuda> = OnceLock::new();
    CUDA.get_or_init(|| match load() {
        Err(reason) => Cuda::None(reason),
        Ok(()) => match tch::Cuda::device_count() {
            count if count > 0 => Cuda::Devices(count as usize),
            _ => Cuda::None("the NVIDIA driver reports no device".into()),
        },
    })
}

/// Loads that backend, whether or not there is a device; the error says why it is not there.
pub(crate) fn load() -> std::result::Result<(), String> {
    // SAFETY: no pointers go in, and the message is ours.
    unsafe { shim::take_text(shim::b4_load_cuda()) }.map_or(Ok(()), Err)
}
