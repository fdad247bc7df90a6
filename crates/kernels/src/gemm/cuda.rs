//! [`crate::gemm::product_into`] on a GPU: symmetric results by our own kernel where it is faster
//! on the device at hand, everything else by libtorch, which is to say cuBLAS.

#![expect(unsafe_code, reason = "launches of kernels on raw device memory")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};

use crate::cuda::kernel_cache::KernelCache;
use crate::cuda::launch::{self, KernelLaunch};
use crate::cuda::measured::{self, MeasuredChoices, Way};
use crate::cuda::{blocks, is_aligned, source};
use crate::gemm::{OutputStructure, Rhs};

const OP: &str = "matrix product";

/// As in `gemm.cu`.
const THREADS: u32 = 256;
const TILE: i64 = 128;
const DEPTH: u32 = 32;
const STAGES: u32 = 3;
/// Bytes of shared memory: three stages of both operands, which is more than a result takes.
const SHARED: u32 = STAGES * 2 * TILE as u32 * (DEPTH + 8) * 2;

/// Which of the kernel and cuBLAS is faster, by shape and device.
static CHOICES: MeasuredChoices = MeasuredChoices::new("symmetric product: own, cuBLAS");

/// Blocks from which on the kernel is taken where nothing can be measured, as a step is being
/// recorded that never ran: two for each of an H100's processors. With fewer, half the work leaves
/// half the GPU idle. From the published crossover of such kernels, near 1024 rows for one matrix
/// and 768 in stacks.
const LEAST_BLOCKS: i64 = 2 * 132;

/// See [`crate::gemm::product_into`], which has checked shapes, dtypes and that nothing overlaps.
pub(crate) fn product_into(
    out: &mut Tensor,
    alpha: f32,
    a: &Tensor,
    rhs: Rhs<'_>,
    plus: Option<(f32, &Tensor)>,
    structure: OutputStructure,
) -> Result<()> {
    let (Rhs::Plain(b) | Rhs::Transposed(b)) = rhs;
    if is_possible([a, b], plus.map(|(_, c)| c), out, structure)
        && is_faster(out, alpha, a, rhs, plus)?
    {
        return symmetric(out, alpha, a, rhs, plus);
    }
    by_cublas(out, alpha, a, rhs, plus)
}

/// Whether the kernel is the faster one for such a product, which is done once or more often to
/// find out. What `out` holds afterwards is the product or nothing of use.
fn is_faster(
    out: &mut Tensor,
    alpha: f32,
    a: &Tensor,
    rhs: Rhs<'_>,
    plus: Option<(f32, &Tensor)>,
) -> Result<bool> {
    let (stack, side, inner) = a.size3().during(OP)?;
    let Device::Cuda(device) = a.device() else { return Ok(true) };
    let operand = if matches!(rhs, Rhs::Plain(_)) { "plain" } else { "transposed" };
    let sum = if plus.is_some() { "with" } else { "without" };
    let key = format!("{} {stack}x{side}x{inner} {operand} {sum} sum", launch::model(device)?);
    if let Some(way) = CHOICES.known(&key) {
        return Ok(way == Way::First);
    }
    if measured::is_recording(device)? {
        let tiles = i64::from(blocks(side, TILE));
        return Ok(stack * tiles * (tiles + 1) / 2 >= LEAST_BLOCKS);
    }
    let cache = KernelCache::of_user();
    let way = CHOICES.choose(&key, cache.as_ref(), |way| {
        measured::milliseconds(device, || match way {
            Way::First => symmetric(out, alpha, a, rhs, plus),
            Way::Second => by_cublas(out, alpha, a, rhs, plus),
        })
    })?;
    Ok(way == Way::First)
}

fn by_cublas(
    out: &mut Tensor,
    alpha: f32,
    a: &Tensor,
    rhs: Rhs<'_>,
    plus: Option<(f32, &Tensor)>,
) -> Result<()> {
    let b = match rhs {
        Rhs::Plain(b) => b.shallow_clone(),
        Rhs::Transposed(b) => b.f_transpose(1, 2).during(OP)?,
    };
    if out.kind() != a.kind() {
        // BF16 operands with an FP32 result: exact in FP32, and rare.
        let [a, b] = [a, &b].map(|tensor| tensor.f_to_kind(out.kind()).during(OP));
        return by_libtorch(out, alpha, &a?, &b?, plus);
    }
    by_libtorch(out, alpha, a, &b, plus)
}

fn by_libtorch(
    out: &mut Tensor,
    alpha: f32,
    a: &Tensor,
    b: &Tensor,
    plus: Option<(f32, &Tensor)>,
) -> Result<()> {
    let product = match plus {
        Some((beta, c)) => c.f_baddbmm(a, b, f64::from(beta), f64::from(alpha)).during(OP)?,
        None => a.f_bmm(b).during(OP)?.f_mul_scalar_(f64::from(alpha)).during(OP)?,
    };
    out.f_copy_(&product).during(OP)
}

/// Whether the kernel can compute it.
fn is_possible(
    [a, b]: [&Tensor; 2],
    plus: Option<&Tensor>,
    out: &Tensor,
    structure: OutputStructure,
) -> bool {
    let [stack, side, inner] = a.size()[..] else { return false };
    let tensors = [a, b, out].into_iter().chain(plus);
    structure == OutputStructure::Symmetric
        && [side, inner].iter().all(|size| size % 8 == 0)
        && tensors.into_iter().all(|t| t.kind() == Kind::BFloat16 && is_aligned(t))
        && stack <= i64::from(crate::cuda::MOST_GRID_Y)
}

pub(super) fn symmetric(
    out: &mut Tensor,
    alpha: f32,
    a: &Tensor,
    rhs: Rhs<'_>,
    plus: Option<(f32, &Tensor)>,
) -> Result<()> {
    let (stack, side, inner) = a.size3().during(OP)?;
    // A plain one is symmetric, and so its own transpose.
    let (Rhs::Plain(b) | Rhs::Transposed(b)) = rhs;
    let tiles = blocks(side, TILE);
    let grid = (tiles * (tiles + 1) / 2, stack as u32, 1);
    let kernel = "symmetric_product";
    let launch =
        KernelLaunch { source: &source::GEMM, kernel, grid, block: THREADS, shared: SHARED };
    let args = [
        a.into(),
        b.into(),
        plus.map(|(_, c)| c).into(),
        (&*out).into(),
        (side as i32).into(),
        (inner as i32).into(),
        alpha.into(),
        plus.map_or(0.0, |(beta, _)| beta).into(),
    ];
    // SAFETY: all are dense BF16 on one device, of these sizes, multiples of 8 and at 16-byte
    // boundaries; `out` overlaps none.
    unsafe { launch.run(a.device(), &args) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel reads 16 bytes at a time.
    #[test]
    fn an_operand_between_boundaries_is_left_to_libtorch() {
        let options = (Kind::BFloat16, Device::Cpu);
        let aligned = || Tensor::zeros([4, 2048, 2048], options);
        let (a, out) = (aligned(), aligned());
        let beside = Tensor::zeros([4 * 2048 * 2048 + 1], options);
        let beside = beside.narrow(0, 1, 4 * 2048 * 2048).view([4, 2048, 2048]);
        let taken = |a, b, c| is_possible([a, b], c, &out, OutputStructure::Symmetric);
        assert!(taken(&a, &a, None) && taken(&a, &a, Some(&a)));
        assert!(!taken(&beside, &a, None));
        assert!(!taken(&a, &beside, None));
        assert!(!taken(&a, &a, Some(&beside)));
    }
}
