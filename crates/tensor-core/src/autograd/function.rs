//! The [`Function`] trait and the bridge to the C++ node that calls it.

#![expect(unsafe_code, reason = "the border to C and C++")]

use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::Tensor;

use crate::error::{Error, Result, panic_text};
use crate::no_grad;
use crate::shim::{self, RawTensor};

/// One application of a differentiable operation.
///
/// It is `Send` because libtorch may call `backward` and drop it on another thread; it need not
/// be `Sync`, as the node runs one backward at a time. It is dropped when backward has run without
/// keeping the graph, or when the graph goes; at once where nothing is recorded.
pub trait Function: Send + 'static {
    /// The name that graphs and error messages show.
    fn name(&self) -> &'static str;

    /// Computes the outputs. Runs without autograd.
    ///
    /// It must not modify an input in place. An output may be an input or a view of one, but then
    /// libtorch refuses to modify that output in place; outputs that share memory with one
    /// another mustn't be modified so either. An output of an integer or boolean dtype gets no
    /// gradient.
    ///
    /// # Errors
    /// Whatever the implementation refuses: [`apply`] returns it as it is.
    fn forward(&mut self, inputs: &[&Tensor], ctx: &mut ForwardContext) -> Result<Vec<Tensor>>;

    /// Computes one gradient an input, `None` for zero, from one an output, `None` where the
    /// loss does not depend on that output. An entry whose input needs none
    /// ([`BackwardContext::needs`]) is dropped.
    ///
    /// # Errors
    /// An error, like a panic, ends the whole backward with an error that begins with
    /// [`name`](Self::name).
    fn backward(
        &self,
        ctx: &BackwardContext,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>>;

    /// Whether `backward` can be differentiated in its turn: true only if it is made of
    /// differentiable operations on `grads` and on saved inputs and outputs. What `forward`
    /// saves from in between has no history, and would count as constant.
    ///
    /// Where false, a backward with `create_graph` works, but one through its gradients is an
    /// error instead of silently wrong.
    fn twice_differentiable(&self) -> bool {
        false
    }
}

/// What `forward` leaves for `backward`.
#[derive(Default)]
pub struct ForwardContext {
    saved: Vec<Tensor>,
}

impl ForwardContext {
    /// Keeps `tensor`, an input, an output or one in between, until backward has run.
    pub fn save(&mut self, tensor: &Tensor) {
        self.saved.push(tensor.shallow_clone());
    }
}

/// What `backward` sees.
pub struct BackwardContext {
    saved: Vec<Tensor>,
    needs: Vec<bool>,
}

impl BackwardContext {
    /// The tensors that `forward` saved, in that order.
    pub fn saved(&self) -> &[Tensor] {
        &self.saved
    }

    /// Whether the input at `index` needs a gradient in this backward.
    pub fn needs(&self, index: usize) -> bool {
        self.needs[index]
    }
}

/// [`apply`] for a function of one output.
///
/// # Errors
/// As of [`apply`]; a function that gives no output.
pub fn apply_one<F: Function>(function: F, inputs: &[&Tensor]) -> Result<Tensor> {
    let name = function.name();
    let missing = || Error::Torch { op: name.to_owned(), message: "no result".into() };
    apply(function, inputs)?.into_iter().next().ok_or_else(missing)
}

/// Runs `function` on `inputs` and records it for autograd where one of them requires gradients
/// and gradients are on.
///
/// # Errors
/// What [`Function::forward`] returns, and outputs that libtorch can't give a history.
pub fn apply<F: Function>(mut function: F, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let name = function.name();
    let mut ctx = ForwardContext::default();
    let outputs = no_grad(|| function.forward(inputs, &mut ctx))?;
    let twice_differentiable = function.twice_differentiable();

    let c_name = CString::new(name).map_err(|_| Error::Torch {
        op: name.to_owned(),
        message: "a function's name can't hold a NUL".into(),
    })?;
    let input_ptrs: Vec<_> = inputs.iter().map(|tensor| shim::borrow_raw(tensor)).collect();
    let output_ptrs: Vec<_> = outputs.iter().map(shim::borrow_raw).collect();
    let saved_ptrs: Vec<_> = ctx.saved.iter().map(shim::borrow_raw).collect();
    let mut results: Vec<RawTensor> = vec![std::ptr::null_mut(); outputs.len()];
    let closure = Box::into_raw(Box::new(function));
    // SAFETY: all pointers are to live tensors for the length of the call; `results` has room
    // for every output; the closure's ownership goes to C++, which hands it only to the two
    // functions below, made for the same type F.
    let message = unsafe {
        shim::b4_custom_function_attach(
            c_name.as_ptr(),
            input_ptrs.as_ptr(),
            input_ptrs.len(),
            output_ptrs.as_ptr(),
            output_ptrs.len(),
            saved_ptrs.as_ptr(),
            saved_ptrs.len(),
            closure.cast(),
            run_backward::<F>,
            drop_closure::<F>,
            twice_differentiable,
            results.as_mut_ptr(),
        )
    };
    // SAFETY: the message is from malloc, and the results from new, both ours now.
    unsafe {
        shim::check(name, message)?;
        Ok(results.into_iter().filter_map(|raw| shim::take_tensor(raw)).collect())
    }
}

/// Called by the node, from whatever thread runs backward.
///
/// # Safety
/// `closure` is the `Box<F>` of [`apply`], not yet dropped; `saved` and `grads` hold owned
/// tensors or null; `needs` and `input_grads` have `input_count` entries.
unsafe extern "C" fn run_backward<F: Function>(
    closure: *mut c_void,
    saved: *const RawTensor,
    saved_count: usize,
    grads: *const RawTensor,
    grad_count: usize,
    needs: *const bool,
    input_grads: *mut RawTensor,
    input_count: usize,
) -> *mut c_char {
    // SAFETY: the caller's promises; every owned pointer is taken exactly once, before
    // anything can unwind.
    let (function, ctx, grads) = unsafe {
        let take = |raw: *const RawTensor, count: usize| -> Vec<Option<Tensor>> {
            (0..count).map(|i| shim::take_tensor(*raw.add(i))).collect()
        };
        let saved = take(saved, saved_count).into_iter().map(Option::unwrap_or_default).collect();
        let needs = (0..input_count).map(|i| *needs.add(i)).collect();
        (&*closure.cast::<F>(), BackwardContext { saved, needs }, take(grads, grad_count))
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| function.backward(&ctx, &grads)));
    let gradients = match outcome {
        Ok(Ok(gradients)) => gradients,
        Ok(Err(error)) => return shim::give_text(&error.to_string()),
        Err(payload) => {
            let text = panic_text(payload.as_ref());
            return shim::give_text(&format!("backward panicked: {text}"));
        }
    };
    if gradients.len() != input_count {
        return shim::give_text(&format!(
            "backward gave {} gradients for {input_count} inputs",
            gradients.len()
        ));
    }
    for (index, gradient) in gradients.into_iter().enumerate() {
        let wanted = gradient.filter(|_| ctx.needs(index));
        // SAFETY: `input_grads` has room for every input.
        unsafe { *input_grads.add(index) = shim::give_tensor(wanted) };
    }
    std::ptr::null_mut()
}

/// # Safety
/// `closure` is the `Box<F>` of [`apply`], dropped by nobody else.
unsafe extern "C" fn drop_closure<F: Function>(closure: *mut c_void) {
    // SAFETY: the caller's promise. A panic in a destructor must not unwind into C++.
    let owned = unsafe { Box::from_raw(closure.cast::<F>()) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(owned)));
}
