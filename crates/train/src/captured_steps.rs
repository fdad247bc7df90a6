//! Steps that are the same work each time: batches copied to where the last ones were, all other
//! numbers on the device. On a GPU such a step is captured once for each shape of batches, and then
//! replayed as a whole.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::graph::Graph;
use bert4rs_tensor_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::batch::NamedTensors;
use crate::error::Result;
use crate::execution::Execution;
use crate::task::divisor;
use crate::train_step::TrainStep;

/// Steps of a shape that run operation by operation first: what is made at first use must be there
/// before a step is captured.
pub(crate) const WARM_UP: u32 = 3;
/// Shapes that have inputs and a graph of their own; each graph keeps memory.
const MOST_SHAPES: usize = 4;

/// What became of steps that could be captured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureUsage {
    /// Shapes that batches had, of those that have inputs of their own.
    pub shapes: u64,
    /// Those of which a step was recorded as a CUDA graph.
    pub graphs: u64,
    /// Steps that were a graph's.
    pub replays: u64,
}

/// Takes such steps.
pub(crate) struct CapturedSteps {
    /// The number of labels in a step's batches, I64 `[]`.
    labels: Tensor,
    /// The GPU to capture on, if any.
    capture_on: Option<usize>,
    shapes: Vec<Shape>,
    replays: u64,
    /// What is to be printed once.
    warning: Option<String>,
}

/// Batches of equal shapes.
struct Shape {
    /// For each batch of a step, the tensors that the step reads.
    inputs: Vec<NamedTensors>,
    runs: u32,
    graph: Option<Graph<Tensor>>,
}

impl CapturedSteps {
    /// Steps on `device`, captured if `execution` says so.
    ///
    /// # Errors
    /// What libtorch throws.
    pub(crate) fn new(execution: Execution, device: Device) -> Result<Self> {
        let capture_on = match (execution, device) {
            (Execution::CudaGraphs, Device::Cuda(index)) => Some(index),
            _ => None,
        };
        let labels = divisor(0, device)?;
        Ok(Self { labels, capture_on, shapes: Vec::new(), replays: 0, warning: None })
    }

    /// One step on batches with so many `labels`: its mean loss and the norm of its gradients, on
    /// the device.
    pub(crate) fn step(
        &mut self,
        work: &mut TrainStep,
        batches: &[NamedTensors],
        labels: u64,
        lr_factor: f64,
    ) -> Result<(Tensor, Tensor)> {
        work.optimizer.local_mut().set_lr_factor(lr_factor)?;
        let _ = self.labels.f_fill_(labels as i64).during("count labels")?;
        let loss = match self.shape_of(batches) {
            Some(index) => self.step_of_shape(work, index, batches)?,
            None => work.step_capturable(batches, &self.labels)?,
        };
        Ok((loss, work.optimizer.local().grad_norm().copy()))
    }

    /// What became of the steps so far.
    pub(crate) fn usage(&self) -> CaptureUsage {
        let graphs = self.shapes.iter().filter(|shape| shape.graph.is_some()).count();
        CaptureUsage {
            shapes: self.shapes.len() as u64,
            graphs: graphs as u64,
            replays: self.replays,
        }
    }

    /// What happened that a person should know, once.
    pub(crate) fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    /// The index of the shapes of `batches`, if there is room for them.
    fn shape_of(&mut self, batches: &[NamedTensors]) -> Option<usize> {
        let index = self.shapes.iter().position(|shape| same_shapes(&shape.inputs, batches));
        if index.is_none() && self.shapes.len() == MOST_SHAPES {
            if self.capture_on.take().is_some() {
                self.warning = Some(format!(
                    "execution  batches have more than {MOST_SHAPES} shapes: no more are captured"
                ));
            }
            return None;
        }
        index.or_else(|| {
            let inputs = batches.iter().map(NamedTensors::copy).collect();
            self.shapes.push(Shape { inputs, runs: 0, graph: None });
            Some(self.shapes.len() - 1)
        })
    }

    /// A step that reads the inputs of shape number `index`.
    fn step_of_shape(
        &mut self,
        work: &mut TrainStep,
        index: usize,
        batches: &[NamedTensors],
    ) -> Result<Tensor> {
        let shape = &mut self.shapes[index];
        let inputs = shape.inputs.iter().flat_map(NamedTensors::tensors);
        for (input, tensor) in inputs.zip(batches.iter().flat_map(NamedTensors::tensors)) {
            let mut input = input.shallow_clone();
            input.f_copy_(tensor).during("copy a batch to where a step reads it")?;
        }
        shape.runs += 1;
        let labels = &self.labels;
        if let (Some(device), None) = (self.capture_on, &shape.graph)
            && shape.runs > WARM_UP
        {
            let touched = touched(work, &shape.inputs, labels);
            let body = || within(work.step_capturable(&shape.inputs, labels));
            match Graph::record(device, &touched, body) {
                Ok(graph) => shape.graph = Some(graph),
                Err(error) => {
                    self.capture_on = None;
                    self.warning = Some(format!("execution  no CUDA graphs: {error}"));
                }
            }
        }
        match &shape.graph {
            Some(graph) => {
                graph.replay()?;
                self.replays += 1;
                Ok(graph.outputs().copy())
            }
            None => work.step_capturable(&shape.inputs, labels),
        }
    }
}

/// All memory that a captured step reads or changes, but for what it makes itself: a replay goes
/// there again, so the graph must own it.
fn touched(work: &TrainStep, inputs: &[NamedTensors], labels: &Tensor) -> Vec<Tensor> {
    let params = work.params.params();
    let params =
        params.iter().flat_map(|param| [Some(&param.weight), param.master.as_ref()]).flatten();
    let inputs = inputs.iter().flat_map(NamedTensors::tensors);
    let all = params.chain(inputs).chain([labels]).chain(work.optimizer.local().tensors());
    let buffers = work.params.buffers().all();
    all.map(Tensor::shallow_clone).chain(buffers.into_values()).collect()
}

/// The error of a captured step, as what captures it gives it back.
fn within<T>(outcome: Result<T>) -> bert4rs_tensor_core::Result<T> {
    outcome.map_err(|error| bert4rs_tensor_core::Error::Torch {
        op: "a step".into(),
        message: error.to_string(),
    })
}

fn same_shapes(left: &[NamedTensors], right: &[NamedTensors]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(left, right)| left.same_shapes(right))
}

#[cfg(test)]
mod tests;
