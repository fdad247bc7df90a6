//! Recorded results of transformers, and comparisons with them.

#![expect(clippy::print_stdout, reason = "shows measured deviations with --nocapture")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use bert4rs_models::loss::{self, LossOptions};
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Kind, Tensor, safetensors};

/// Plain losses go with plain attention, chunked ones with every other.
pub(crate) fn loss_options(attention: AttentionImplementation) -> LossOptions {
    let implementation = match attention {
        AttentionImplementation::Plain => loss::LossImplementation::Plain,
        _ => loss::LossImplementation::Chunked,
    };
    LossOptions { implementation, ..LossOptions::default() }
}

/// One file of `tests/vectors`, made by `make_vectors.py`.
pub(crate) struct Vectors {
    tensors: BTreeMap<String, Tensor>,
    config: String,
}

pub(crate) fn vectors_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

impl Vectors {
    pub(crate) fn load(name: &str) -> Self {
        let folder = vectors_folder();
        Self {
            tensors: safetensors::load(&folder.join(format!("{name}.safetensors"))).unwrap(),
            config: std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap(),
        }
    }

    pub(crate) fn config<C: serde::de::DeserializeOwned>(&self) -> C {
        serde_json::from_str(&self.config).unwrap()
    }

    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the vectors have no {name}"))
    }

    /// The tensors whose names begin with `prefix`, without it.
    pub(crate) fn under(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let with = |(name, tensor): (&String, &Tensor)| {
            Some((name.strip_prefix(prefix)?.to_owned(), tensor.shallow_clone()))
        };
        self.tensors.iter().filter_map(with).collect()
    }

    /// The same vectors with weights and gradients renamed and reshaped.
    pub(crate) fn with_names(
        mut self,
        rename: impl Fn(BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor>,
    ) -> Self {
        for prefix in ["weight.", "grad."] {
            let renamed = rename(self.under(prefix));
            self.tensors.retain(|name, _| !name.starts_with(prefix));
            let with_prefix = renamed.into_iter().map(|(name, x)| (format!("{prefix}{name}"), x));
            self.tensors.extend(with_prefix);
        }
        self
    }

    /// Sets every parameter to the recorded weight of its name; both have the same names.
    pub(crate) fn set_weights(&self, store: &mut ParamStore) {
        let mut weights = self.under("weight.");
        for param in store.params_mut() {
            let weight = weights.remove(&param.name);
            let weight = weight.unwrap_or_else(|| panic!("the vectors have no {}", param.name));
            param.set(&weight).unwrap();
        }
        assert!(weights.is_empty(), "the model has no {:?}", weights.keys());
    }

    /// Holds every parameter's gradient against the recorded one, within 1e-4 of its largest
    /// value. The gradient of a key's bias is 0 but for rounding, hence the absolute floor.
    pub(crate) fn check_grads(&self, store: &ParamStore) {
        let mut worst = 0f64;
        for param in store.params().iter() {
            let want = self.tensor(&format!("grad.{}", param.name));
            let found = param.weight.grad();
            assert!(found.defined(), "{} has no gradient", param.name);
            let scale = max_abs(want).max(1e-3);
            let relative = max_abs(&(found - want)) / scale;
            worst = worst.max(relative);
            assert!(relative <= 1e-4, "gradient of {}: off by {relative:.1e}", param.name);
        }
        println!("gradients: largest relative deviation {worst:.1e}");
    }
}

/// The largest absolute value.
pub(crate) fn max_abs(x: &Tensor) -> f64 {
    x.abs().max().double_value(&[])
}

/// Asserts that no value differs by more than `tolerance`.
#[track_caller]
pub(crate) fn assert_close(what: &str, found: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(found.size(), want.size(), "{what}: shape");
    let off = max_abs(&(found.to_kind(Kind::Double) - want.to_kind(Kind::Double)));
    println!("{what}: largest deviation {off:.1e}");
    assert!(off <= tolerance, "{what}: off by {off:.1e}, more than {tolerance:.0e}");
}

/// [`assert_close`] where `keep_bt` is not 0; `[b, t, ..]`.
#[track_caller]
pub(crate) fn assert_close_where(
    what: &str,
    found: &Tensor,
    want: &Tensor,
    keep_bt: &Tensor,
    tolerance: f64,
) {
    assert!(!bool::try_from(found.isnan().any()).unwrap(), "{what}: not a number");
    let keep = keep_bt.unsqueeze(-1);
    assert_close(what, &(found * &keep), &(want * &keep), tolerance);
}

/// Sets parameters of `to` to those of the same name in `from`, which may have more. (Seeding
/// twice would not do: tests in other threads draw from the same generator.)
pub(crate) fn copy_weights(from: &ParamStore, to: &mut ParamStore) {
    for param in to.params_mut() {
        let params = from.params();
        let source = params.iter().find(|source| source.name == param.name).unwrap();
        param.set(&source.weight).unwrap();
    }
}
