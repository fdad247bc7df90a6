//! A linear map after pooling: sentence-transformers' `Dense`.
//!
//! Axes: `b` batch, `d` features.

use std::path::Path;

use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::safetensors;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::hugging_face::from_keys;
use crate::pretrained::LoadOptions;

/// `f(x Wᵀ + b)`.
#[derive(Debug)]
pub(super) struct Dense {
    weight: Tensor,
    bias: Option<Tensor>,
    activation: DenseActivation,
}

/// The activations that published models have, by their classes in torch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DenseActivation {
    Tanh,
    Identity,
    Relu,
    Gelu,
    Sigmoid,
}

impl DenseActivation {
    fn named(class: &str) -> Option<Self> {
        match class.rsplit('.').next()? {
            "Tanh" => Some(Self::Tanh),
            "Identity" => Some(Self::Identity),
            "ReLU" => Some(Self::Relu),
            "GELU" => Some(Self::Gelu),
            "Sigmoid" => Some(Self::Sigmoid),
            _ => None,
        }
    }
}

#[derive(Debug, Deserialize)]
struct Keys {
    in_features: i64,
    out_features: i64,
    #[serde(default = "yes")]
    bias: bool,
    #[serde(default = "tanh")]
    activation_function: String,
    #[serde(default)]
    use_residual: bool,
    #[serde(default)]
    module_input_name: Option<String>,
    #[serde(default)]
    module_output_name: Option<String>,
}

fn yes() -> bool {
    true
}

fn tanh() -> String {
    "torch.nn.modules.activation.Tanh".into()
}

impl Dense {
    /// Reads `config.json`, whose value is `json`, and `model.safetensors` in `folder`.
    ///
    /// # Errors
    /// Values that we don't compute; weights that are missing or of another shape.
    pub(super) fn read(folder: &Path, json: &Value, options: LoadOptions) -> Result<Self> {
        let file = |name: &str, reason: String| Error::File { path: folder.join(name), reason };
        let bad = |reason: String| file("config.json", reason);
        let keys: Keys = from_keys(json).map_err(bad)?;
        let activation = DenseActivation::named(&keys.activation_function).ok_or_else(|| {
            let class = &keys.activation_function;
            bad(format!(
                "activation_function = {class:?}: expected Tanh, Identity, ReLU, GELU or Sigmoid"
            ))
        })?;
        let reads = [&keys.module_input_name, &keys.module_output_name];
        if keys.use_residual || reads.into_iter().flatten().any(|name| name != "sentence_embedding")
        {
            let reason = "use_residual and other inputs than sentence_embedding are not computed";
            return Err(bad(reason.into()));
        }
        let path = folder.join("model.safetensors");
        if !path.exists() {
            let reason = "is missing; weights as pickles are not read: load the model with \
                          sentence-transformers and save it again";
            return Err(file("model.safetensors", reason.into()));
        }
        let mut tensors = safetensors::load(&path)?;
        let mut take = |name: &str, shape: &[i64]| match tensors.remove(name) {
            Some(tensor) if tensor.size() == shape => {
                Ok(tensor.to_kind(options.kind).to_device(options.device))
            }
            found => {
                let found = found.map_or("missing".into(), |x| format!("of shape {:?}", x.size()));
                Err(file("model.safetensors", format!("{name} is {found}, expected {shape:?}")))
            }
        };
        let weight = take("linear.weight", &[keys.out_features, keys.in_features])?;
        let bias = if keys.bias { Some(take("linear.bias", &[keys.out_features])?) } else { None };
        Ok(Self { weight, bias, activation })
    }

    /// `[b, d]` to `[b, out_features]`.
    ///
    /// # Errors
    /// Vectors of another number of features, as by another pooling.
    pub(super) fn forward(&self, x_bd: &Tensor) -> Result<Tensor> {
        let (found, expected) = (x_bd.size()[1], self.weight.size()[1]);
        if found != expected {
            return Err(Error::Input {
                name: "pooled vectors",
                found: format!("{found} features"),
                expected: format!("{expected}, which the model's Dense module takes"),
            });
        }
        let y = x_bd.to_kind(self.weight.kind()).linear(&self.weight, self.bias.as_ref());
        Ok(match self.activation {
            DenseActivation::Tanh => y.tanh(),
            DenseActivation::Identity => y,
            DenseActivation::Relu => y.relu(),
            DenseActivation::Gelu => y.gelu("none"),
            DenseActivation::Sigmoid => y.sigmoid(),
        })
    }
}
