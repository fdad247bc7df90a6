//! Steps that are the same work each time: batches copied to where the last ones were, all other
//! numbers on the device. On a GPU such a step is recorded once for each shape of batches, and then
//! launched as a whole.

use bert4rs_data::Layout;
use bert4rs_models::checkpointing::ActivationCheckpointing;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::graph::{self, Graph};
use bert4rs_tensor_core::{Device, Tensor};

use crate::config::{Config, Graphs};
use crate::error::Result;
use crate::work::Work;

/// Steps of a shape that run operation by operation first: what is made at first use must be there
/// before a step is recorded.
const WARM_UP: u32 = 3;
/// Shapes that have inputs and a graph of their own; each graph keeps memory.
const MOST_SHAPES: usize = 4;

/// Takes such steps.
pub(crate) struct FixedSteps {
    /// The GPU to record on, if any.
    recorder: Option<usize>,
    shapes: Vec<Shape>,
    /// What is to be printed once.
    note: Option<String>,
}

/// Batches of equal shapes.
struct Shape {
    /// For each batch of a step, the tensors that the step reads.
    inputs: Vec<Vec<Tensor>>,
    runs: u32,
    graph: Option<Graph<Tensor>>,
}

impl FixedSteps {
    /// Steps on `device`, recorded if `mode` says so.
    pub(crate) fn new(mode: Graphs, device: Device) -> Self {
        let recorder = match (mode, device) {
            (Graphs::Auto, Device::Cuda(index)) => Some(index),
            _ => None,
        };
        Self { recorder, shapes: Vec::new(), note: None }
    }

    /// One step: its mean loss and the norm of its gradients, on the device.
    pub(crate) fn step(
        &mut self,
        work: &mut Work,
        batches: &[Vec<Tensor>],
        lr_factor: f64,
    ) -> Result<(Tensor, Tensor)> {
        work.optimizer.set_lr_factor(lr_factor)?;
        let loss = match self.shape_of(batches) {
            Some(place) => self.step_in_place(work, place, batches)?,
            None => work.step_capturable(batches)?,
        };
        Ok((loss, work.optimizer.grad_norm().copy()))
    }

    /// What happened that a person should know, once.
    pub(crate) fn take_note(&mut self) -> Option<String> {
        self.note.take()
    }

    /// The place of the shapes of `batches`, if there is room for them.
    fn shape_of(&mut self, batches: &[Vec<Tensor>]) -> Option<usize> {
        let place = self.shapes.iter().position(|shape| same_shapes(&shape.inputs, batches));
        if place.is_none() && self.shapes.len() == MOST_SHAPES {
            if self.recorder.take().is_some() {
                self.note = Some(format!(
                    "graphs     batches have more than {MOST_SHAPES} shapes: no more are recorded"
                ));
            }
            return None;
        }
        place.or_else(|| {
            let copies = |batch: &Vec<Tensor>| batch.iter().map(Tensor::copy).collect();
            let inputs = batches.iter().map(copies).collect();
            self.shapes.push(Shape { inputs, runs: 0, graph: None });
            Some(self.shapes.len() - 1)
        })
    }

    /// A step that reads the inputs of shape number `place`.
    fn step_in_place(
        &mut self,
        work: &mut Work,
        place: usize,
        batches: &[Vec<Tensor>],
    ) -> Result<Tensor> {
        let shape = &mut self.shapes[place];
        for (input, tensor) in shape.inputs.iter_mut().flatten().zip(batches.iter().flatten()) {
            input.f_copy_(tensor).during("copy a batch to where a step reads it")?;
        }
        shape.runs += 1;
        if let (Some(index), None) = (self.recorder, &shape.graph)
            && shape.runs > WARM_UP
        {
            match Graph::record(index, || within(work.step_capturable(&shape.inputs))) {
                Ok(graph) => shape.graph = Some(graph),
                Err(error) => {
                    self.recorder = None;
                    self.note = Some(format!("graphs     not used: {error}"));
                }
            }
        }
        match &shape.graph {
            Some(graph) => {
                graph.replay()?;
                Ok(graph.outputs().copy())
            }
            None => work.step_capturable(&shape.inputs),
        }
    }
}

/// The error of a recorded step, as what records it gives it back.
fn within<T>(outcome: Result<T>) -> bert4rs_tensor_core::Result<T> {
    outcome.map_err(|error| bert4rs_tensor_core::Error::Torch {
        op: "a step".into(),
        message: error.to_string(),
    })
}

fn same_shapes(left: &[Vec<Tensor>], right: &[Vec<Tensor>]) -> bool {
    let of_all = |batches: &[Vec<Tensor>]| -> Vec<Vec<Vec<i64>>> {
        batches.iter().map(|batch| batch.iter().map(Tensor::size).collect()).collect()
    };
    of_all(left) == of_all(right)
}

/// How steps run where `config` asks for graphs, and why not as recorded ones, if so.
pub(crate) fn resolve(config: &Config, device: Device) -> (Graphs, Option<&'static str>) {
    let drops = config.model.dropout > 0.0 || config.model.attention_dropout > 0.0;
    let obstacle = match (config.compute.graphs, device) {
        (Graphs::Off | Graphs::Fixed, _) => return (config.compute.graphs, None),
        (Graphs::Auto, Device::Cuda(_)) if !graph::is_built_in() => {
            "this program was built without CUDA's headers"
        }
        (Graphs::Auto, Device::Cuda(_)) if config.data.packing != Layout::Packed => {
            "padded batches differ in shape; choose data.packing = \"packed\""
        }
        (Graphs::Auto, Device::Cuda(_))
            if drops
                && config.compute.activation_checkpointing != ActivationCheckpointing::None =>
        {
            "a block computed again draws its dropout anew; choose compute.activation_checkpointing = \"none\""
        }
        (Graphs::Auto, Device::Cuda(_)) => return (Graphs::Auto, None),
        (Graphs::Auto, _) => return (Graphs::Off, Some("they are for GPUs")),
    };
    (Graphs::Fixed, Some(obstacle))
}

#[cfg(test)]
mod tests;
