//! The iterations: matrix products that apply the quintics to singular values.
//!
//! Legend: `k` matrices in a stack, `n <= m` their sides; `x_knm` has norm at most 1.
//!
//! Both compute the same. The standard one keeps `X`; the Gram one (Dao-AILab's
//! gram-newton-schulz) keeps `R = X Xᵀ` and `Q`, of side `n` alone, and multiplies `X` by `Q` at
//! the end, which costs fewer operations where `m` is much more than `n`. In low precision the
//! small eigenvalues of `R` drown in rounding, so that it starts anew from `X` after some steps.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Result, Tensor};

use super::coefficients::Quintic;

const OP: &str = "polar factor";

/// `X <- a X + (b A + c A²) X` with `A = X Xᵀ`, for each of `table`.
pub(super) fn standard(x_knm: Tensor, table: &[Quintic]) -> Result<Tensor> {
    table.iter().try_fold(x_knm, |x_knm, &Quintic { a, b, c }| {
        let a_knn = gram_matrix(&x_knm)?;
        let b_knn = a_knn.f_baddbmm(&a_knn, &a_knn, b, c).during(OP)?;
        x_knm.f_baddbmm(&b_knn, &x_knm, a, 1.0).during(OP)
    })
}

/// The same by way of `R = X Xᵀ`, starting anew every `restart` steps.
pub(super) fn gram(x_knm: Tensor, table: &[Quintic], restart: usize) -> Result<Tensor> {
    table.chunks(restart.max(1)).try_fold(x_knm, |x_knm, table| {
        let q_knn = gram_chunk(gram_matrix(&x_knm)?, table)?;
        q_knn.f_bmm(&x_knm).during(OP)
    })
}

/// The product `Q` of all polynomials of `table`, as matrices: `Q X` is their composition at `X`,
/// where `R = X Xᵀ`.
fn gram_chunk(mut r_knn: Tensor, table: &[Quintic]) -> Result<Tensor> {
    let mut q_knn: Option<Tensor> = None;
    for (step, &Quintic { a, b, c }) in table.iter().enumerate() {
        let z_knn = r_knn.f_baddbmm(&r_knn, &r_knn, b, c).during(OP)?;
        let is_last = step + 1 == table.len();
        if !is_last {
            // R <- P R P with P = a I + Z; everything here is a polynomial in R and commutes.
            let rz_knn = r_knn.f_baddbmm(&r_knn, &z_knn, a, 1.0).during(OP)?;
            r_knn = rz_knn.f_baddbmm(&z_knn, &rz_knn, a, 1.0).during(OP)?;
        }
        q_knn = Some(match q_knn {
            Some(q_knn) => q_knn.f_baddbmm(&q_knn, &z_knn, a, 1.0).during(OP)?,
            None => plus_identity(z_knn, a)?,
        });
    }
    q_knn.map_or_else(|| plus_identity(r_knn.f_zeros_like().during(OP)?, 1.0), Ok)
}

/// `X Xᵀ`.
fn gram_matrix(x_knm: &Tensor) -> Result<Tensor> {
    x_knm.f_bmm(&x_knm.f_transpose(1, 2).during(OP)?).during(OP)
}

/// `Z + a I`, in place.
fn plus_identity(z_knn: Tensor, a: f64) -> Result<Tensor> {
    let mut diagonal = z_knn.f_diagonal(0, 1, 2).during(OP)?;
    let _ = diagonal.f_add_scalar_(a).during(OP)?;
    Ok(z_knn)
}
