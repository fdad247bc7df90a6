//! The iterations: matrix products that apply the quintics to singular values.
//!
//! Legend: `k` matrices in a stack, `n <= m` their sides; `x_knm` has norm at most 1.
//!
//! Both compute the same. The standard one keeps `X`; the Gram one (Dao-AILab's
//! gram-newton-schulz) keeps `R = X Xᵀ` and `Q`, of side `n` alone, and multiplies `X` by `Q` at
//! the end, which costs fewer operations where `m` is much more than `n`. In low precision the
//! small eigenvalues of `R` drown in rounding, so that it starts anew from `X` after some steps.

use bert4rs_kernels::gemm::{self, OutputStructure, Rhs};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::policy::{Backend, Op, OpCall, Policy};
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};

use super::coefficients::Quintic;
use super::workspace::{Buffer, Workspace};

const OP: &str = "polar factor";

/// What computes the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// libtorch, on any device: the reference.
    Libtorch,
    /// [`gemm`], which computes half of a symmetric result.
    Kernel,
}

impl Engine {
    /// What `policy` takes for stacks of `n` by `m` matrices, multiplied in `kind`.
    pub(super) fn of(sides: [i64; 2], device: Device, kind: Kind, policy: &Policy) -> Self {
        let call = OpCall { op: Op::SymmetricProduct, device, kind, shape: sides.to_vec() };
        let is_supported = sides.iter().all(|&inner| gemm::supports(device, kind, inner));
        if is_supported && policy.backend(&call) == Backend::Own {
            Self::Kernel
        } else {
            Self::Libtorch
        }
    }

    /// `X <- a X + (b A + c A²) X` with `A = X Xᵀ`, for each of `table`. Before the first, rows are
    /// scaled where `scaled`.
    pub(super) fn standard(
        self,
        space: &mut Workspace,
        mut x_knm: Buffer,
        (table, scaled): (&[Quintic], bool),
    ) -> Result<Buffer> {
        for (step, &Quintic { a, b, c }) in table.iter().enumerate() {
            let mut a_knn = self.gram_matrix(space, &x_knm)?;
            if scaled && step == 0 {
                scale_rows(&mut x_knm, &mut a_knn)?;
            }
            let b_knn = self.symmetric(space, c, &a_knn, &a_knn, b, &a_knn)?;
            space.give(a_knn);
            let next =
                self.product(space, 1.0, &b_knn, &x_knm, Some((a, &x_knm)), OutputStructure::Full)?;
            space.give(b_knn);
            space.give(std::mem::replace(&mut x_knm, next));
        }
        Ok(x_knm)
    }

    /// The same by way of `R = X Xᵀ`, starting anew every `restart` steps.
    pub(super) fn gram(
        self,
        space: &mut Workspace,
        mut x_knm: Buffer,
        (table, scaled): (&[Quintic], bool),
        restart: usize,
    ) -> Result<Buffer> {
        for (chunk, table) in table.chunks(restart.max(1)).enumerate() {
            let mut r_knn = self.gram_matrix(space, &x_knm)?;
            if scaled && chunk == 0 {
                scale_rows(&mut x_knm, &mut r_knn)?;
            }
            let q_knn = self.gram_chunk(space, r_knn, table)?;
            let next = self.product(space, 1.0, &q_knn, &x_knm, None, OutputStructure::Full)?;
            space.give(q_knn);
            space.give(std::mem::replace(&mut x_knm, next));
        }
        Ok(x_knm)
    }

    /// The same for `X` in BF16, with `R` and `Q` in FP32. `R` is exact for the `X` that was
    /// rounded, so that no eigenvalue is off by more than FP32's rounding, and the two products
    /// with `X` run at BF16's rate. Where rows are `scaled`, `X` stays as it is, so that `R` stays
    /// exact, and the columns of `Q` are scaled instead. The kernel's alone: libtorch has no
    /// products of BF16 whose result is FP32.
    pub(super) fn gram_mixed(
        space: &mut Workspace,
        x_knm: Buffer,
        (table, scaled): (&[Quintic], bool),
    ) -> Result<Buffer> {
        let (k, n, _) = x_knm.size3().during(OP)?;
        let (device, shape) = (x_knm.device(), x_knm.size());
        let mut r_knn = space.take(&[k, n, n], Kind::Float, device)?;
        let rhs = Rhs::Transposed(&x_knm);
        gemm::product_into(&mut r_knn, 1.0, &x_knm, rhs, None, OutputStructure::Symmetric)?;
        let factors_k1n = match scaled {
            true => Some(scale_gram(&mut r_knn)?.f_transpose(1, 2).during(OP)?),
            false => None,
        };
        let mut q_knn = Self::Kernel.gram_chunk(space, r_knn, table)?;
        if let Some(factors_k1n) = factors_k1n {
            let _ = q_knn.f_mul_(&factors_k1n).during(OP)?;
        }
        let mut rounded = space.take(&[k, n, n], Kind::BFloat16, device)?;
        rounded.f_copy_(&q_knn).during(OP)?;
        space.give(q_knn);
        let mut out = space.take(&shape, Kind::Float, device)?;
        gemm::product_into(
            &mut out,
            1.0,
            &rounded,
            Rhs::Plain(&x_knm),
            None,
            OutputStructure::Full,
        )?;
        space.give(rounded);
        space.give(x_knm);
        Ok(out)
    }

    /// The product `Q` of all polynomials of `table`, as matrices: `Q X` is their composition at
    /// `X`, where `R = X Xᵀ`. All here are polynomials in `R`, symmetric, and commute.
    fn gram_chunk(
        self,
        space: &mut Workspace,
        mut r_knn: Buffer,
        table: &[Quintic],
    ) -> Result<Buffer> {
        let mut q_knn: Option<Buffer> = None;
        for (step, &Quintic { a, b, c }) in table.iter().enumerate() {
            let z_knn = self.symmetric(space, c, &r_knn, &r_knn, b, &r_knn)?;
            if step + 1 < table.len() {
                // R <- P R P with P = a I + Z.
                let rz_knn = self.symmetric(space, 1.0, &r_knn, &z_knn, a, &r_knn)?;
                let next = self.symmetric(space, 1.0, &z_knn, &rz_knn, a, &rz_knn)?;
                space.give(rz_knn);
                space.give(std::mem::replace(&mut r_knn, next));
            }
            q_knn = Some(match q_knn {
                Some(q_knn) => {
                    let next = self.symmetric(space, 1.0, &q_knn, &z_knn, a, &q_knn)?;
                    space.give(q_knn);
                    space.give(z_knn);
                    next
                }
                None => plus_identity(z_knn, a)?,
            });
        }
        space.give(r_knn);
        q_knn.ok_or_else(|| Error::Unsupported {
            what: OP.into(),
            reason: "there are no coefficients".into(),
        })
    }

    /// `X Xᵀ`.
    fn gram_matrix(self, space: &mut Workspace, x_knm: &Tensor) -> Result<Buffer> {
        if self == Self::Libtorch {
            let transposed = x_knm.f_transpose(1, 2).during(OP)?;
            return Ok(x_knm.f_bmm(&transposed).during(OP)?.into());
        }
        let (k, n, _) = x_knm.size3().during(OP)?;
        let mut out = space.take(&[k, n, n], x_knm.kind(), x_knm.device())?;
        let rhs = Rhs::Transposed(x_knm);
        gemm::product_into(&mut out, 1.0, x_knm, rhs, None, OutputStructure::Symmetric)?;
        Ok(out)
    }

    /// `alpha A B + beta C`, known to be symmetric.
    fn symmetric(
        self,
        space: &mut Workspace,
        alpha: f64,
        a: &Tensor,
        b: &Tensor,
        beta: f64,
        c: &Tensor,
    ) -> Result<Buffer> {
        self.product(space, alpha, a, b, Some((beta, c)), OutputStructure::Symmetric)
    }

    /// `alpha A B + beta C`; `structure` is what the caller knows of the result.
    fn product(
        self,
        space: &mut Workspace,
        alpha: f64,
        a: &Tensor,
        b: &Tensor,
        plus: Option<(f64, &Tensor)>,
        structure: OutputStructure,
    ) -> Result<Buffer> {
        match (self, plus) {
            (Self::Libtorch, Some((beta, c))) => {
                Ok(c.f_baddbmm(a, b, beta, alpha).during(OP)?.into())
            }
            (Self::Libtorch, None) => {
                let product = a.f_bmm(b).during(OP)?;
                Ok(if alpha == 1.0 { product } else { product * alpha }.into())
            }
            (Self::Kernel, _) => {
                let (k, rows, _) = a.size3().during(OP)?;
                let (_, _, cols) = b.size3().during(OP)?;
                let mut out = space.take(&[k, rows, cols], a.kind(), a.device())?;
                let plus = plus.map(|(beta, c)| (beta as f32, c));
                gemm::product_into(&mut out, alpha as f32, a, Rhs::Plain(b), plus, structure)?;
                Ok(out)
            }
        }
    }
}

/// Scales each row of `X`, whose Gram matrix `a_knn` is, by `1 / sqrt(Σ |A|)` over its row there,
/// which bounds all singular values by 1; and `A` alike, which thus costs no other product.
fn scale_rows(x_knm: &mut Tensor, a_knn: &mut Tensor) -> Result<()> {
    let factors_kn1 = scale_gram(a_knn)?;
    let _ = x_knm.f_mul_(&factors_kn1).during(OP)?;
    Ok(())
}

/// The factors of rows of [`scale_rows`], with which `a_knn` alone is scaled.
fn scale_gram(a_knn: &mut Tensor) -> Result<Tensor> {
    let sums = a_knn.f_abs().during(OP)?.f_sum_dim_intlist([2i64].as_slice(), true, Kind::Float);
    let sums = sums.during(OP)?.f_clamp_min(f64::from(f32::MIN_POSITIVE)).during(OP)?;
    let factors_kn1 = sums.f_rsqrt().during(OP)?;
    let _ = a_knn.f_mul_(&factors_kn1).during(OP)?;
    let _ = a_knn.f_mul_(&factors_kn1.f_transpose(1, 2).during(OP)?).during(OP)?;
    Ok(factors_kn1)
}

/// `Z + a I`, in place.
fn plus_identity(z_knn: Buffer, a: f64) -> Result<Buffer> {
    let mut diagonal = z_knn.f_diagonal(0, 1, 2).during(OP)?;
    let _ = diagonal.f_add_scalar_(a).during(OP)?;
    Ok(z_knn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::polar::Coefficients;

    #[test]
    fn the_kernel_computes_what_libtorch_does() {
        let table = Coefficients::polar_express(5).table();
        for (kind, tolerance) in [(Kind::Float, 1e-4), (Kind::BFloat16, 3e-2)] {
            let x_knm = Tensor::randn([2, 30, 50], (Kind::Float, Device::Cpu));
            let x_knm = (&x_knm / x_knm.norm()).to_kind(kind);
            if Engine::of([30, 50], Device::Cpu, kind, &Policy::default()) == Engine::Libtorch {
                continue;
            }
            let error = |left: Tensor, right: Tensor| {
                let error = (left - right).abs().max();
                assert!(f64::try_from(&error).unwrap() < tolerance, "{kind:?}: {error}");
            };
            let standard = |engine: Engine| {
                let mut space = Workspace::default();
                engine.standard(&mut space, x_knm.copy().into(), (&table, false)).unwrap().copy()
            };
            error(standard(Engine::Kernel), standard(Engine::Libtorch));
            if kind == Kind::Float {
                let gram = |engine: Engine| {
                    let mut space = Workspace::default();
                    engine.gram(&mut space, x_knm.copy().into(), (&table, false), 5).unwrap().copy()
                };
                error(gram(Engine::Kernel), gram(Engine::Libtorch));
            }
        }
    }

    /// BF16 has 8 bits: what is rounded once, the matrix itself and `Q`, is off by as much.
    #[test]
    fn mixed_products_are_the_exact_ones_with_scaled_rows_too() {
        let policy = Policy::default();
        let has = |kind| Engine::of([32, 128], Device::Cpu, kind, &policy) == Engine::Kernel;
        if !has(Kind::BFloat16) || !has(Kind::Float) {
            return;
        }
        for (coefficients, bound) in
            [(Coefficients::polar_express(5), 0.02), (Coefficients::Turbo { steps: 4 }, 0.02)]
        {
            let table = (&coefficients.table()[..], coefficients.scales_rows());
            let x_knm = Tensor::randn([2, 32, 128], (Kind::Float, Device::Cpu));
            let sizes = Tensor::logspace(-1, 0, 32, 10.0, (Kind::Float, Device::Cpu));
            let x_knm = x_knm * sizes.view([1, 32, 1]);
            // Rounded already, so that all begin with the same.
            let x_knm = (&x_knm / (x_knm.norm() * 1.02)).to_kind(Kind::BFloat16);
            let mut space = Workspace::default();
            let exact = x_knm.to_kind(Kind::Float).into();
            let exact = Engine::Libtorch.standard(&mut space, exact, table).unwrap();
            let mixed = Engine::gram_mixed(&mut space, x_knm.copy().into(), table).unwrap();
            let apart = f64::try_from((&*exact - &*mixed).norm() / exact.norm()).unwrap();
            assert!(apart < bound, "{coefficients:?}: {apart}");
        }
    }

    #[test]
    fn scaled_rows_give_near_orthogonal_ones_in_four_steps_by_both_iterations() {
        let turbo = Coefficients::Turbo { steps: 4 };
        let table = (&turbo.table()[..], turbo.scales_rows());
        let x_knm = Tensor::randn([2, 40, 120], (Kind::Float, Device::Cpu));
        // Rows of unlike sizes, which the scaling evens out, and one of zeros.
        let sizes = Tensor::logspace(-3, 0, 40, 10.0, (Kind::Float, Device::Cpu)).view([1, 40, 1]);
        let x_knm = &x_knm * sizes;
        let _ = x_knm.get(1).get(7).fill_(0.0);
        let x_knm = &x_knm / x_knm.norm();
        let mut space = Workspace::default();
        let standard = Engine::Libtorch.standard(&mut space, x_knm.copy().into(), table).unwrap();
        let gram = Engine::Libtorch.gram(&mut space, x_knm.copy().into(), table, 5).unwrap();
        let apart = f64::try_from((&*standard - &*gram).abs().max()).unwrap();
        assert!(apart < 1e-3, "{apart}");
        let (_, values, _) = standard.get(0).svd(true, true);
        let [least, most] = [values.min(), values.max()].map(|x| f64::try_from(x).unwrap());
        assert!(least > 0.6 && most < 1.1, "{least} to {most}");
        assert_eq!(f64::try_from(standard.get(1).get(7).abs().max()).unwrap(), 0.0);
        assert_eq!(standard.isfinite().all().int64_value(&[]), 1);
    }
}
