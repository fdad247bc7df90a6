//! Sums of columns on a GPU, for gradients of what all rows share.

#![expect(unsafe_code, reason = "launches of kernels on raw device memory")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Result, Tensor};

use super::launch::KernelLaunch;
use super::{blocks, by_kind, check, check_int, source};

const OP: &str = "sums of columns";

/// As in `column_sums.cu`.
const THREADS: u32 = 256;

/// The sums of `parts`, `[rows, columns]` of FP32, as a row of `kind`, FP32 or BF16.
pub(crate) fn sum(parts: &Tensor, kind: Kind) -> Result<Tensor> {
    let (rows, columns) = parts.size2().during(OP)?;
    check(parts, Kind::Float, parts.device(), "parts of sums")?;
    check_int(rows.max(columns) as usize, "rows or columns")?;
    let out = Tensor::f_empty([columns], (kind, parts.device())).during(OP)?;
    let kernel = by_kind(kind, "columns_float", "columns_bf16");
    let grid = (blocks(columns, 32), 1, 1);
    let launch =
        KernelLaunch { source: &source::COLUMN_SUMS, kernel, grid, block: THREADS, shared: 0 };
    let args = [parts.into(), (rows as i32).into(), (columns as i32).into(), (&out).into()];
    // SAFETY: both are dense, on one device, of these dtypes and sizes.
    unsafe { launch.run(parts.device(), &args)? };
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{distance, random};

    #[test]
    fn emulated_sums_of_columns_equal_libtorch_s() {
        for (rows, columns) in [(1, 1), (7, 33), (100, 64)] {
            let parts = random(&[rows, columns], Kind::Float);
            for kind in [Kind::Float, Kind::BFloat16] {
                let found = sum(&parts, kind).unwrap();
                let expected = parts.sum_dim_intlist([0i64].as_slice(), false, Kind::Double);
                assert!(found.kind() == kind && distance(&found, &expected) < 4e-3);
            }
        }
    }
}
