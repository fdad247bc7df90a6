//! [`crate::gemm::product_into`] on a GPU: symmetric results by our own kernel where it should be
//! faster, everything else by libtorch, which is to say cuBLAS.

#![expect(unsafe_code, reason = "launches of kernels on raw device memory")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Result, Tensor};

use crate::cuda::launch::KernelLaunch;
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

/// Blocks from which on the kernel is taken: two for each of an H100's processors. With fewer,
/// half the work leaves half the GPU idle. From the published crossover of such kernels, near
/// 1024 rows for one matrix and 768 in stacks; not yet measured here.
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
    if is_worth_it(a, plus.map(|(_, c)| c), out, structure) {
        return symmetric(out, alpha, a, rhs, plus);
    }
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

fn is_worth_it(
    a: &Tensor,
    plus: Option<&Tensor>,
    out: &Tensor,
    structure: OutputStructure,
) -> bool {
    let [stack, side, inner] = a.size()[..] else { return false };
    let tiles = i64::from(blocks(side, TILE));
    let tensors = [a, out].into_iter().chain(plus);
    structure == OutputStructure::Symmetric
        && [side, inner].iter().all(|size| size % 8 == 0)
        && tensors.into_iter().all(|t| t.kind() == Kind::BFloat16 && is_aligned(t))
        && stack <= i64::from(crate::cuda::MOST_GRID_Y)
        && stack * tiles * (tiles + 1) / 2 >= LEAST_BLOCKS
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
