//! Buffers that are used again and again.
//!
//! A large block that is freed goes back to the system, and every page of the next one costs a
//! fault. Buffers made anew for every product cost about as much as the products.

use std::ops::{Deref, DerefMut};

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};

const OP: &str = "workspace";

/// Buffers not in use. They live as long as it does.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    free: Vec<Tensor>,
}

/// A tensor of a workspace, or one of its own.
#[derive(Debug)]
pub(crate) struct Buffer {
    view: Tensor,
    /// The one-dimensional tensor behind it, if it is a workspace's.
    whole: Option<Tensor>,
}

impl From<Tensor> for Buffer {
    fn from(view: Tensor) -> Self {
        Self { view, whole: None }
    }
}

impl Deref for Buffer {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.view
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Tensor {
        &mut self.view
    }
}

impl Workspace {
    /// A buffer of this shape, with whatever was in it.
    pub(crate) fn take(&mut self, shape: &[i64], kind: Kind, device: Device) -> Result<Buffer> {
        let count: i64 = shape.iter().product();
        let fits = |tensor: &Tensor| {
            let size = tensor.numel() as i64;
            tensor.kind() == kind && tensor.device() == device && size >= count && size / 2 <= count
        };
        let whole = match self.free.iter().position(fits) {
            Some(index) => self.free.swap_remove(index),
            None => Tensor::f_empty([count], (kind, device)).during(OP)?,
        };
        let view = whole.f_narrow(0, 0, count).during(OP)?.f_view(shape).during(OP)?;
        Ok(Buffer { view, whole: Some(whole) })
    }

    /// The buffers not in use.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.free.iter()
    }

    /// Takes a buffer back. One that is not a workspace's is dropped.
    pub(crate) fn give(&mut self, buffer: Buffer) {
        self.free.extend(buffer.whole);
    }
}
