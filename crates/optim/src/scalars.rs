//! Tables of the scalars of a step, on the weights' device.
//!
//! Kernels read them from there, so that a step is the same launches whatever the values, and can
//! be captured and replayed. Each table has an idle row: scalars with which an update is a no-op,
//! for gradients that are not finite.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};

const OP: &str = "scalars of a step";

/// `k` scalars for each of `n` parameters, or for all alike.
#[derive(Debug)]
pub(crate) struct ScalarTable {
    /// What a step writes, FP64 `[n, k]`.
    active_nk: Tensor,
    /// The columns of `active_nk`.
    columns: Vec<Tensor>,
    /// What stands for it where gradients are not finite, FP64 `[k]`.
    idle_k: Tensor,
    /// What updates read, FP64 `[n, k]`, and the same in FP32.
    exact_nk: Tensor,
    float_nk: Tensor,
    rows: Vec<ScalarRow>,
}

/// The scalars of one parameter.
#[derive(Debug)]
pub(crate) struct ScalarRow {
    /// FP64 `[k]`.
    pub(crate) exact: Tensor,
    /// FP32 `[k]`, as kernels take them.
    pub(crate) float: Tensor,
}

impl ScalarTable {
    /// Rows of `active`, of which a step writes some columns, and the row of a no-op.
    pub(crate) fn new<const K: usize>(
        rows: usize,
        active: [f64; K],
        idle: [f64; K],
        device: Device,
    ) -> Result<Self> {
        let active_nk = upload(&active.repeat(rows), device)?;
        let active_nk = active_nk.f_view([rows as i64, K as i64]).during(OP)?;
        let exact_nk = active_nk.f_zeros_like().during(OP)?;
        let float_nk = exact_nk.f_to_kind(Kind::Float).during(OP)?;
        let row = |index: usize| {
            let of = |table: &Tensor| table.f_get(index as i64).during(OP);
            Ok(ScalarRow { exact: of(&exact_nk)?, float: of(&float_nk)? })
        };
        Ok(Self {
            columns: active_nk.f_unbind(1).during(OP)?,
            idle_k: upload(&idle, device)?,
            rows: (0..rows).map(row).collect::<Result<_>>()?,
            active_nk,
            exact_nk,
            float_nk,
        })
    }

    /// Column `index`, FP64 `[n]`, to be written in place before [`commit`](Self::commit).
    pub(crate) fn column(&mut self, index: usize) -> &mut Tensor {
        &mut self.columns[index]
    }

    /// Makes what was written the rows that updates read, or the idle row where `finite`, bool
    /// `[]`, is false.
    pub(crate) fn commit(&mut self, finite: &Tensor) -> Result<()> {
        let exact_nk = self.active_nk.f_where_self(finite, &self.idle_k).during(OP)?;
        self.exact_nk.f_copy_(&exact_nk).during(OP)?;
        self.float_nk.f_copy_(&exact_nk).during(OP)
    }

    /// All memory that a step reads or changes here.
    pub(crate) fn tensors(&self) -> [&Tensor; 4] {
        [&self.active_nk, &self.idle_k, &self.exact_nk, &self.float_nk]
    }

    /// The row of parameter `index`.
    pub(crate) fn row(&self, index: usize) -> &ScalarRow {
        &self.rows[index]
    }
}

impl ScalarRow {
    /// The scalars one by one, `[]` of `kind`.
    pub(crate) fn unbind<const K: usize>(&self, kind: Kind) -> Result<[Tensor; K]> {
        let row = if kind == Kind::Float { &self.float } else { &self.exact };
        let all = row.f_unbind(0).during(OP)?;
        all.try_into().map_err(|_| bert4rs_tensor_core::Error::Shape {
            op: OP,
            tensor: "scalars",
            found: row.size(),
            expected: format!("[{K}]"),
        })
    }
}

/// `values` on `device`, FP64 `[n]`.
pub(crate) fn upload(values: &[f64], device: Device) -> Result<Tensor> {
    Tensor::f_from_slice(values).and_then(|host| host.f_to_device(device)).during(OP)
}
