//! `bert4rs forward`: tensors of a file through a model, to hold it against another
//! implementation.

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;

use bert4rs_models::pretrained::{Inputs, Outputs, Pretrained};
use bert4rs_tensor_core::{Error as Core, Tensor, no_grad, safetensors};
use bert4rs_train::Result;
use bert4rs_train::output::print_line;

use super::output_file;
use crate::model_flags::ForwardFlags;

pub(crate) fn run(flags: &ForwardFlags) -> Result<ExitCode> {
    output_file(&flags.output, flags.overwrite, &flags.model.model, &[&flags.input])?;
    let options = flags.model.options()?;
    let given = safetensors::load(&flags.input)?;
    let model = Pretrained::load(&flags.model.model, options)?;
    let of_input = |error| of_file(&flags.input, error);
    let inputs = Inputs::new(model.architecture(), &given, options.device).map_err(of_input)?;
    let outputs =
        if flags.grads { model.forward(&inputs) } else { no_grad(|| model.forward(&inputs)) };
    let outputs = outputs.map_err(of_input)?;
    let gradients = match (flags.grads, &outputs.loss) {
        (false, _) => Vec::new(),
        (true, Some(loss)) => model.gradients(loss)?,
        (true, None) => return Err(no_loss(&flags.input, &model)),
    };
    write(&flags.output, outputs, gradients)?;
    Ok(ExitCode::SUCCESS)
}

/// Names the file in an error about what is in it.
fn of_file(path: &Path, error: bert4rs_models::Error) -> bert4rs_train::Error {
    use bert4rs_models::Error;
    match error {
        Error::Input { .. } | Error::UnknownInput { .. } => {
            Core::File { path: path.to_owned(), reason: error.to_string() }.into()
        }
        other => other.into(),
    }
}

fn no_loss(input: &Path, model: &Pretrained) -> bert4rs_train::Error {
    let name = model.architecture();
    let reason = format!(
        "--grads takes the gradients of a loss: add the labels of {name}, or, if it has no head, \
         use a model that has one"
    );
    Core::File { path: input.to_owned(), reason }.into()
}

fn write(path: &Path, outputs: Outputs, gradients: Vec<(String, Tensor)>) -> Result<()> {
    let loss = outputs.loss.map(|loss| ("loss", loss));
    let named = outputs.named.into_iter().chain(loss);
    let results: Vec<(String, Tensor)> =
        named.map(|(name, tensor)| (name.to_owned(), tensor.contiguous())).collect();
    let count = gradients.len();
    let gradients =
        gradients.into_iter().map(|(name, tensor)| (format!("grad.{name}"), tensor.contiguous()));
    let shapes: Vec<String> = results.iter().map(|(name, tensor)| shape_of(name, tensor)).collect();
    let all: Vec<(String, Tensor)> = results.into_iter().chain(gradients).collect();
    let borrowed: Vec<_> = all.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::save(path, &borrowed, Some(metadata))?;
    let gradients = if count > 0 { format!(" with {count} gradients") } else { String::new() };
    shapes.iter().try_for_each(|shape| print_line(shape))?;
    print_line(&format!("written to {}{gradients}", path.display()))
}

/// A result's name and shape; of the loss, its value too.
fn shape_of(name: &str, tensor: &Tensor) -> String {
    let value = match name {
        "loss" => format!(" {:.6}", tensor.double_value(&[])),
        _ => String::new(),
    };
    format!("{name} {:?}{value}", tensor.size())
}
