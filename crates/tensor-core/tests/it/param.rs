//! The parameter store.

use bert4rs_tensor_core::param::{Init, ParamStore, Role};
use bert4rs_tensor_core::testing::in_own_process;
use bert4rs_tensor_core::{Device, Error, Kind, Tensor, error, random};

use crate::support::values;

/// A store of `kind` with one normal matrix and one gain.
fn small_store(kind: Kind) -> ParamStore {
    let store = ParamStore::new(Device::Cpu, kind);
    let path = store.root() / "layer" / 0;
    let _ = path.param("weight", &[3, 4], Role::Matrix, Init::Normal(0.5)).unwrap();
    let _ = (&path / "norm").param("gain", &[4], Role::Norm, Init::Ones).unwrap();
    store
}

#[test]
fn parameters_keep_names_roles_and_order() {
    let store = small_store(Kind::Float);
    let params = store.params();
    let found: Vec<_> = params.iter().map(|param| (param.name.as_str(), param.role)).collect();
    assert_eq!(found, [("layer.0.weight", Role::Matrix), ("layer.0.norm.gain", Role::Norm)]);
    assert_eq!(store.count(), 16);
    assert!(params.iter().all(|param| param.weight.requires_grad() && param.weight.is_leaf()));
    assert_eq!(values(&params[1].weight), [1.0; 4]);
}

#[test]
fn a_name_made_twice_is_an_error() {
    let store = small_store(Kind::Float);
    let again = (store.root() / "layer.0").param("weight", &[1], Role::Bias, Init::Zeros);
    let error = again.unwrap_err().to_string();
    assert!(error.starts_with("layer.0.weight: "), "{error}");
    assert_eq!(store.params().len(), 2);
}

#[test]
fn a_shape_that_is_none_is_an_error_and_leaves_the_name_free() {
    let store = small_store(Kind::Float);
    let root = store.root();
    assert!(root.param("bias", &[-1], Role::Bias, Init::Zeros).is_err());
    let _ = root.param("bias", &[1], Role::Bias, Init::Zeros).unwrap();
}

#[test]
fn the_leaf_that_a_model_holds_is_the_parameter() {
    let mut store = ParamStore::new(Device::Cpu, Kind::BFloat16);
    let leaf = store.root().param("bias", &[2], Role::Bias, Init::Zeros).unwrap();
    store.params_mut()[0].set(&Tensor::from_slice(&[1.5, 2.5])).unwrap();
    assert_eq!(values(&leaf), [1.5, 2.5]);
    (&leaf * 2.0).sum(Kind::Float).backward();
    assert_eq!(values(&store.params()[0].weight.grad()), [2.0, 2.0]);
}

#[test]
fn one_seed_gives_one_start_whatever_the_dtype() {
    // Other tests draw from the same generator.
    in_own_process("param::one_seed_gives_one_start_whatever_the_dtype", || {
        let start = |kind: Kind| {
            random::seed(7);
            let store = small_store(kind);
            let params = store.params();
            let has_master = !matches!(kind, Kind::Float | Kind::Double);
            assert!(params.iter().all(|param| param.master.is_some() == has_master));
            assert!(params.iter().all(|param| param.weight.kind() == kind));
            let weight = values(&params[0].weight);
            (values(params[0].master_or_weight()), weight)
        };
        let (exact, weight) = start(Kind::Float);
        assert_eq!(exact, weight);
        assert_eq!(start(Kind::Double).0, exact);
        for kind in [Kind::BFloat16, Kind::Half] {
            let (master, weight) = start(kind);
            assert_eq!(master, exact);
            assert_eq!(weight, values(&Tensor::from_slice(&exact).to_kind(kind)));
        }
    });
}

#[test]
fn a_normal_start_has_its_deviation() {
    let store = ParamStore::new(Device::Cpu, Kind::BFloat16);
    let root = store.root();
    let _ = root.param("table", &[256, 256], Role::Embedding, Init::Normal(0.02)).unwrap();
    let deviation = store.params()[0].master_or_weight().std(true).double_value(&[]);
    assert!((deviation - 0.02).abs() < 0.001, "{deviation}");
}

#[test]
fn set_takes_any_dtype_and_updates_the_master() {
    let mut store = small_store(Kind::BFloat16);
    let value = Tensor::from_slice(&[1.0, 1.0 + 1e-6, 1.0 + 1e-12, 0.1]);
    let gain = &mut store.params_mut()[1];
    gain.set(&value).unwrap();
    let exact = value.to_kind(Kind::Float);
    assert_eq!(values(gain.master_or_weight()), values(&exact));
    assert_eq!(values(&gain.weight), values(&exact.to_kind(Kind::BFloat16)));
    assert!(gain.weight.requires_grad() && gain.weight.is_leaf());
}

#[test]
fn set_refuses_another_shape() {
    let mut store = small_store(Kind::Float);
    let gain = &mut store.params_mut()[1];
    // Each of these could be broadcast.
    for shape in [vec![], vec![1], vec![1, 4], vec![5]] {
        let error = gain.set(&Tensor::zeros(&shape, (Kind::Float, Device::Cpu))).unwrap_err();
        assert!(matches!(&error, Error::Shape { found, .. } if *found == shape));
        assert!(error.to_string().contains("layer.0.norm.gain"), "{error}");
    }
    assert_eq!(values(&gain.weight), [1.0; 4]);
}

#[test]
fn roles_are_listed_once() {
    let distinct: std::collections::HashSet<_> = Role::ALL.into_iter().collect();
    assert_eq!(distinct.len(), Role::ALL.len());
}

#[test]
fn ten_thousand_parameters_are_made_quickly() {
    let store = ParamStore::new(Device::Cpu, Kind::Float);
    for index in 0..10_000 {
        let path = store.root() / "layer" / index;
        let _ = path.param("bias", &[1], Role::Bias, Init::Zeros).unwrap();
    }
    assert_eq!(store.count(), 10_000);
    assert!(error::catch_torch_error("borrow", || store.params().len()).is_ok());
}

#[test]
fn a_store_of_shapes_has_everything_but_memory() {
    let store = ParamStore::meta(Kind::BFloat16);
    let leaf = store.root().param("words", &[1 << 40, 8], Role::Embedding, Init::Normal(1.0));
    assert_eq!(leaf.unwrap().size(), [1 << 40, 8]);
    assert_eq!(store.count(), 1 << 43);
    let params = store.params();
    assert_eq!(params[0].weight.kind(), Kind::BFloat16);
    assert_eq!(params[0].master_or_weight().kind(), Kind::Float);
}
