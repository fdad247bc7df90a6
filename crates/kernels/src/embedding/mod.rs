//! Lookups in a table whose gradient holds only the rows that were looked up.
//!
//! With ids `i` and table `w`, `y_p = w[i_p]` and `dw[e] = Σ dy_p` over the positions `p` with
//! `i_p = e`.
//!
//! libtorch fills a gradient of the table's size with zeros, and adds positions one after the
//! other, rounding each time. Where an output layer shares the table, autograd then adds all of
//! that to the output layer's gradient. Here a row is summed in FP32 and rounded once, and the
//! result is a sparse tensor of those rows, which autograd adds to the output layer's gradient in
//! place. On a GPU, where work must have a fixed shape, the gradient is dense.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use bert4rs_tensor_core::autograd::{self, BackwardContext, ForwardContext, Function};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};
use half::bf16;

use crate::cpu::isa::Isa;

const OP: &str = "lookup";

/// Whether [`lookup`] takes a table: FP32 or BF16, `[entries, features]`, on the CPU or a GPU.
pub fn supports(table: &Tensor) -> bool {
    matches!(table.device(), Device::Cpu | Device::Cuda(_))
        && matches!(table.kind(), Kind::BFloat16 | Kind::Float)
        && table.dim() == 2
}

/// The rows of `table`, `[entries, features]`, of `ids`, I64 of any shape: `[.., features]`. The
/// gradient of the table is sparse on the CPU (coalesced COO) and dense on a GPU; looking up
/// `padding` adds nothing to it.
///
/// # Errors
/// A table that it does not [support](supports), ids of another dtype, an id that is no entry.
pub fn lookup(table: &Tensor, ids: &Tensor, padding: Option<i64>) -> Result<Tensor> {
    if !supports(table) || ids.kind() != Kind::Int64 {
        return Err(Error::Unsupported {
            what: format!("{OP} of {:?} in a table of {:?}", ids.kind(), table.kind()),
            reason: "it takes I64 and a matrix of FP32 or BF16".into(),
        });
    }
    let function = Lookup { entries: table.size()[0], padding };
    autograd::apply_one(function, &[table, ids])
}

/// Inputs: the table, ids.
struct Lookup {
    entries: i64,
    padding: Option<i64>,
}

impl Function for Lookup {
    fn name(&self) -> &'static str {
        OP
    }

    fn forward(&mut self, inputs: &[&Tensor], ctx: &mut ForwardContext) -> Result<Vec<Tensor>> {
        ctx.save(inputs[1]);
        Ok(vec![Tensor::f_embedding(inputs[0], inputs[1], -1, false, false).during(OP)?])
    }

    fn backward(
        &self,
        ctx: &BackwardContext,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(grad) = &grads[0] else { return Ok(vec![None, None]) };
        let (grad, ids) = (grad.contiguous(), ctx.saved()[0].contiguous());
        let table_grad = match (grad.device(), grad.kind()) {
            (Device::Cpu, Kind::BFloat16) => {
                cpu::sum_rows::<bf16>(Isa::fastest(), &grad, &ids, self.entries, self.padding)?
            }
            (Device::Cpu, _) => {
                cpu::sum_rows::<f32>(Isa::fastest(), &grad, &ids, self.entries, self.padding)?
            }
            _ => cuda::backward(&grad, &ids, self.entries, self.padding)?,
        };
        Ok(vec![Some(table_grad), None])
    }
}
