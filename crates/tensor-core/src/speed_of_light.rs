//! The machine's own best matrix-product rate: what training speed is held against.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{Context, Result};
use crate::no_grad;

/// Matrix-product rates measured on this machine, now.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SpeedOfLight {
    /// FLOP/s of the best FP32 product.
    pub fp32_flops: f64,
    /// FLOP/s of the best BF16 product.
    pub bf16_flops: f64,
}

impl SpeedOfLight {
    /// The better of both rates: no choice of dtype does better.
    pub fn best_flops(&self) -> f64 {
        self.fp32_flops.max(self.bf16_flops)
    }
}

/// Square sizes tried: which is fastest depends on the caches.
const CPU_SIZES: [i64; 2] = [768, 1024];
const GPU_SIZES: [i64; 2] = [4096, 8192];
const BUDGET: Duration = Duration::from_millis(100);

/// Measures `device`, in about half a second.
///
/// # Errors
/// What libtorch throws, such as too little memory.
pub fn measure(device: Device) -> Result<SpeedOfLight> {
    let sizes = if device.is_cuda() { GPU_SIZES } else { CPU_SIZES };
    no_grad(|| {
        Ok(SpeedOfLight {
            fp32_flops: best_rate(sizes, Kind::Float, device)?,
            bf16_flops: best_rate(sizes, Kind::BFloat16, device)?,
        })
    })
}

/// FLOP/s of the fastest square product of any of `sizes`.
fn best_rate(sizes: [i64; 2], kind: Kind, device: Device) -> Result<f64> {
    let mut best = 0f64;
    for size in sizes {
        let started = Instant::now();
        best = best.max(product_rate(size, kind, device)?);
        // So slow a device would take seconds over the next size, and gain nothing by it.
        if started.elapsed() > 2 * BUDGET {
            break;
        }
    }
    Ok(best)
}

/// FLOP/s of the fastest of the `size`³ products that fit the time budget.
fn product_rate(size: i64, kind: Kind, device: Device) -> Result<f64> {
    let op = "speed of light";
    // Not ones: what switches few transistors clocks higher than real numbers do. Not drawn: a
    // run's generators must not know whether anything was measured.
    let varied = |start: i64| {
        let numbers = Tensor::f_arange_start(start, start + size * size, (Kind::Float, device));
        let numbers = numbers.and_then(|x| x.f_sin()).and_then(|x| x.f_to_kind(kind));
        numbers.and_then(|x| x.f_view([size, size])).during(op)
    };
    let (left, right) = (varied(0)?, varied(1)?);
    let product_time = || -> Result<Duration> {
        let start = Instant::now();
        let _product = left.f_matmul(&right).during(op)?;
        if let Device::Cuda(index) = device {
            tch::Cuda::synchronize(index as i64);
        }
        Ok(start.elapsed())
    };
    // The first product also sets the library up, and is not counted.
    product_time()?;
    let started = Instant::now();
    let mut fastest = product_time()?;
    while started.elapsed() < BUDGET {
        fastest = fastest.min(product_time()?);
    }
    Ok(2.0 * (size as f64).powi(3) / fastest.as_secs_f64())
}
