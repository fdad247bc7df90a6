//! Tensors by name, as a batch holds them.

use bert4rs_tensor_core::Tensor;

use crate::error::{Error, Result};

/// Tensors that belong together, in the order in which they were listed.
#[derive(Debug, Default)]
pub struct NamedTensors(Vec<(&'static str, Tensor)>);

impl NamedTensors {
    /// The tensor of this name.
    ///
    /// # Errors
    /// There is none; the error names those that there are.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.find(name).ok_or_else(|| Error::MissingTensor {
            name: name.to_owned(),
            found: self.0.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
        })
    }

    /// The tensor of this name, for one that a batch may lack.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.0.iter().find(|(other, _)| *other == name).map(|(_, tensor)| tensor)
    }

    /// Names and tensors, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (*name, tensor))
    }

    /// The tensors alone.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.0.iter().map(|(_, tensor)| tensor)
    }

    /// The same without the tensor of this name, if there is one.
    pub fn without(mut self, name: &str) -> Self {
        self.0.retain(|(other, _)| *other != name);
        self
    }

    /// Copies in memory of their own.
    pub fn copy(&self) -> Self {
        Self(self.0.iter().map(|(name, tensor)| (*name, tensor.copy())).collect())
    }

    /// Whether both have the same names with the same shapes, in the same order.
    pub fn same_shapes(&self, other: &Self) -> bool {
        let same = |(left, right): (&(&str, Tensor), &(&str, Tensor))| {
            left.0 == right.0 && left.1.size() == right.1.size()
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
}

impl From<Vec<(&'static str, Tensor)>> for NamedTensors {
    fn from(tensors: Vec<(&'static str, Tensor)>) -> Self {
        Self(tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_name_is_told_with_those_that_there_are() {
        let tensors = NamedTensors::from(vec![("x", Tensor::from(1)), ("y", Tensor::from(2))]);
        assert_eq!(tensors.get("y").unwrap().int64_value(&[]), 2);
        let error = tensors.get("z").unwrap_err().to_string();
        assert!(error.contains("\"z\"") && error.contains("x, y"), "{error}");
        assert!(tensors.without("x").find("x").is_none());
    }

    #[test]
    fn names_and_shapes_decide_what_is_alike() {
        let of =
            |name, length| NamedTensors::from(vec![(name, Tensor::from_slice(&vec![0; length]))]);
        assert!(of("x", 2).same_shapes(&of("x", 2)));
        assert!(!of("x", 2).same_shapes(&of("x", 3)));
        assert!(!of("x", 2).same_shapes(&of("y", 2)));
        assert!(!of("x", 2).same_shapes(&NamedTensors::default()));
    }
}
