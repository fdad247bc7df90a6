//! The iterations: matrix products that apply the quintics to singular values.
//!
//! Legend: `k` matrices in a stack, `n <= m` their sides; `x_knm` has norm at most 1.
//!
//! Both compute the same. The standard one keeps `X`; the Gram one (Dao-AILab's
//! gram-newton-schulz) keeps `R = X Xᵀ` and `Q`, of side `n` alone, and multiplies `X` by `Q` at
//! the end, which costs fewer operations where `m` is much more than `n`. In low precision the
//! small eigenvalues of `R` drown in rounding, so that it starts anew from `X` after some steps.

use bert4rs_kernels::gemm::{self, Form, Right};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Result, Tensor};

use super::coefficients::Quintic;

const OP: &str = "polar factor";

/// What computes the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    /// libtorch, on any device: the reference.
    Libtorch,
    /// [`gemm`], which computes half of a symmetric result.
    Kernel,
}

impl Engine {
    /// The faster one for this stack.
    pub(super) fn of(x_knm: &Tensor) -> Self {
        let size = x_knm.size();
        let kernel = x_knm.device() == Device::Cpu
            && size[1..].iter().all(|&inner| gemm::available(x_knm.kind(), inner));
        if kernel { Self::Kernel } else { Self::Libtorch }
    }

    /// `X <- a X + (b A + c A²) X` with `A = X Xᵀ`, for each of `table`.
    pub(super) fn standard(self, x_knm: Tensor, table: &[Quintic]) -> Result<Tensor> {
        table.iter().try_fold(x_knm, |x_knm, &Quintic { a, b, c }| {
            let a_knn = self.gram_matrix(&x_knm)?;
            let b_knn = self.product(c, &a_knn, &a_knn, Some((b, &a_knn)), Form::Symmetric)?;
            self.product(1.0, &b_knn, &x_knm, Some((a, &x_knm)), Form::Full)
        })
    }

    /// The same by way of `R = X Xᵀ`, starting anew every `restart` steps.
    pub(super) fn gram(self, x_knm: Tensor, table: &[Quintic], restart: usize) -> Result<Tensor> {
        table.chunks(restart.max(1)).try_fold(x_knm, |x_knm, table| {
            let q_knn = self.gram_chunk(self.gram_matrix(&x_knm)?, table)?;
            self.product(1.0, &q_knn, &x_knm, None, Form::Full)
        })
    }

    /// The product `Q` of all polynomials of `table`, as matrices: `Q X` is their composition at
    /// `X`, where `R = X Xᵀ`. All here are polynomials in `R`, symmetric, and commute.
    fn gram_chunk(self, mut r_knn: Tensor, table: &[Quintic]) -> Result<Tensor> {
        let mut q_knn: Option<Tensor> = None;
        for (step, &Quintic { a, b, c }) in table.iter().enumerate() {
            let z_knn = self.product(c, &r_knn, &r_knn, Some((b, &r_knn)), Form::Symmetric)?;
            if step + 1 < table.len() {
                // R <- P R P with P = a I + Z.
                let rz_knn =
                    self.product(1.0, &r_knn, &z_knn, Some((a, &r_knn)), Form::Symmetric)?;
                r_knn = self.product(1.0, &z_knn, &rz_knn, Some((a, &rz_knn)), Form::Symmetric)?;
            }
            q_knn = Some(match q_knn {
                Some(q_knn) => {
                    self.product(1.0, &q_knn, &z_knn, Some((a, &q_knn)), Form::Symmetric)?
                }
                None => plus_identity(z_knn, a)?,
            });
        }
        q_knn.map_or_else(|| plus_identity(r_knn.f_zeros_like().during(OP)?, 1.0), Ok)
    }

    /// `X Xᵀ`.
    fn gram_matrix(self, x_knm: &Tensor) -> Result<Tensor> {
        match self {
            Self::Libtorch => x_knm.f_bmm(&x_knm.f_transpose(1, 2).during(OP)?).during(OP),
            Self::Kernel => {
                gemm::product(1.0, x_knm, Right::Transposed(x_knm), None, Form::Symmetric)
            }
        }
    }

    /// `alpha A B + beta C`; `form` is what the caller knows of the result.
    fn product(
        self,
        alpha: f64,
        a: &Tensor,
        b: &Tensor,
        plus: Option<(f64, &Tensor)>,
        form: Form,
    ) -> Result<Tensor> {
        match (self, plus) {
            (Self::Libtorch, Some((beta, c))) => c.f_baddbmm(a, b, beta, alpha).during(OP),
            (Self::Libtorch, None) if alpha == 1.0 => a.f_bmm(b).during(OP),
            (Self::Libtorch, None) => (a.f_bmm(b).during(OP)?).f_mul_scalar(alpha).during(OP),
            (Self::Kernel, _) => {
                let plus = plus.map(|(beta, c)| (beta as f32, c));
                gemm::product(alpha as f32, a, Right::Plain(b), plus, form)
            }
        }
    }
}

/// `Z + a I`, in place.
fn plus_identity(z_knn: Tensor, a: f64) -> Result<Tensor> {
    let mut diagonal = z_knn.f_diagonal(0, 1, 2).during(OP)?;
    let _ = diagonal.f_add_scalar_(a).during(OP)?;
    Ok(z_knn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::polar::Coefficients;
    use bert4rs_tensor_core::Kind;

    #[test]
    fn the_kernel_computes_what_libtorch_does() {
        let table = Coefficients::polar_express(5).table();
        for (kind, tolerance) in [(Kind::Float, 1e-4), (Kind::BFloat16, 3e-2)] {
            let x_knm = Tensor::randn([2, 30, 50], (Kind::Float, Device::Cpu));
            let x_knm = (&x_knm / x_knm.norm()).to_kind(kind);
            if Engine::of(&x_knm) == Engine::Libtorch {
                continue;
            }
            let error = |left: Tensor, right: Tensor| {
                let error = (left - right).abs().max();
                assert!(f64::try_from(&error).unwrap() < tolerance, "{kind:?}: {error}");
            };
            let standard = |engine: Engine| engine.standard(x_knm.copy(), &table).unwrap();
            error(standard(Engine::Kernel), standard(Engine::Libtorch));
            if kind == Kind::Float {
                let gram = |engine: Engine| engine.gram(x_knm.copy(), &table, 5).unwrap();
                error(gram(Engine::Kernel), gram(Engine::Libtorch));
            }
        }
    }
}
