//! Autograd functions written in Rust.
//!
//! Implement [`Function`], then call [`apply`]. `forward` runs without autograd and may use any
//! kernel; what `backward` needs is handed to [`ForwardContext::save`] rather than captured, so
//! that libtorch notices when it is modified in place. Both what was saved and the function
//! itself are freed once backward has run. [`check::gradients`] compares `backward` with finite
//! differences in FP64.
//!
//! ```
//! use bert4rs_tensor_core::autograd::{self, BackwardContext, ForwardContext, Function};
//! use bert4rs_tensor_core::{Result, Tensor};
//!
//! /// `scale · x²`
//! struct ScaledSquare {
//!     scale: f64,
//! }
//!
//! impl Function for ScaledSquare {
//!     fn name(&self) -> &'static str {
//!         "scaled square"
//!     }
//!
//!     fn forward(&mut self, inputs: &[&Tensor], ctx: &mut ForwardContext) -> Result<Vec<Tensor>> {
//!         ctx.save(inputs[0]);
//!         Ok(vec![inputs[0].square() * self.scale])
//!     }
//!
//!     fn backward(
//!         &self,
//!         ctx: &BackwardContext,
//!         grads: &[Option<Tensor>],
//!     ) -> Result<Vec<Option<Tensor>>> {
//!         let x = &ctx.saved()[0];
//!         Ok(vec![grads[0].as_ref().map(|grad| grad * x * (2.0 * self.scale))])
//!     }
//! }
//!
//! fn scaled_square(inputs: &[Tensor]) -> Result<Vec<Tensor>> {
//!     autograd::apply(ScaledSquare { scale: 3.0 }, &[&inputs[0]])
//! }
//!
//! let x = Tensor::from_slice(&[1.0, -2.0]).set_requires_grad(true);
//! autograd::check::gradients(scaled_square, &[x], 1e-6)?;
//! # Ok::<(), bert4rs_tensor_core::Error>(())
//! ```

mod checkpoint;
mod function;
mod gradients;

pub mod check;

pub use checkpoint::checkpoint;
pub use function::{BackwardContext, ForwardContext, Function, apply, apply_one};
pub use gradients::gradients;
