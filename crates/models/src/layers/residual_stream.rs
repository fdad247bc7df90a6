//! Hidden states on their way from one residual connection to the next.

use bert4rs_tensor_core::Tensor;

/// Hidden states, in the form that spares the next kernel a pass over memory.
#[derive(Debug)]
pub enum ResidualStream {
    /// As they are.
    Whole(Tensor),
    /// The same twice, one for each of its uses: the kernel that made them adds both gradients.
    Forked([Tensor; 2]),
    /// Two summands: the kernel of the next norm adds them.
    Sum([Tensor; 2]),
}

impl From<Tensor> for ResidualStream {
    fn from(whole: Tensor) -> Self {
        Self::Whole(whole)
    }
}

impl ResidualStream {
    /// One tensor.
    pub fn whole(self) -> Tensor {
        match self {
            Self::Whole(x) | Self::Forked([x, _]) => x,
            Self::Sum([x, y]) => x + y,
        }
    }

    /// One tensor for each of two uses. The gradients of the first use are summed before that of
    /// the second is added, with and without a fused kernel, so that both give the same bits.
    pub(super) fn twice(self) -> [Tensor; 2] {
        match self {
            Self::Forked(both) => both,
            other => {
                let x = other.whole();
                [x.alias(), x]
            }
        }
    }

    /// One tensor, and what is still to be added to it.
    pub(super) fn summands(self) -> (Tensor, Option<Tensor>) {
        match self {
            Self::Sum([x, y]) => (x, Some(y)),
            other => (other.whole(), None),
        }
    }
}
