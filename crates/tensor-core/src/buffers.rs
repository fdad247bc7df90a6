//! Tensors that a model keeps from step to step beside its parameters, by name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::Tensor;

/// Named tensors that belong to a model, but that no optimizer trains. Clones share them.
///
/// A tensor is changed in place once it is there, so that steps captured in a CUDA graph go on
/// with it.
#[derive(Debug, Clone, Default)]
pub struct Buffers {
    all: Arc<Mutex<BTreeMap<String, Tensor>>>,
    prefix: String,
}

impl Buffers {
    /// The same tensors, with names that begin with `name`.
    pub fn within(&self, name: &str) -> Self {
        Self { all: Arc::clone(&self.all), prefix: format!("{}{name}.", self.prefix) }
    }

    /// The tensor of this name, if it is there yet.
    pub fn get(&self, name: &str) -> Option<Tensor> {
        self.lock().get(&self.full_name(name)).map(Tensor::shallow_clone)
    }

    /// Puts a tensor in the place of the one of this name, if any.
    pub fn set(&self, name: &str, tensor: Tensor) {
        self.lock().insert(self.full_name(name), tensor);
    }

    /// All tensors by their full names.
    pub fn all(&self) -> BTreeMap<String, Tensor> {
        self.lock().iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
    }

    /// Puts `tensors`, by their full names, in the place of all.
    pub fn replace(&self, tensors: BTreeMap<String, Tensor>) {
        *self.lock() = tensors;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Tensor>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_whole_model() {
        let all = Buffers::default();
        let layer = all.within("layer.0");
        layer.set("scale", Tensor::from(2.0));
        assert!(all.get("layer.0.scale").is_some() && all.get("scale").is_none());
        let kept = all.all();
        all.replace(BTreeMap::new());
        assert!(layer.get("scale").is_none());
        all.replace(kept);
        assert_eq!(layer.get("scale").unwrap().double_value(&[]), 2.0);
    }
}
