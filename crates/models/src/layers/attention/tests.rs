//! One product for queries, keys and values, as on a GPU, is three.

use bert4rs_tensor_core::Kind;
use bert4rs_tensor_core::fp8::{Fp8Config, Fp8Mode};
use bert4rs_tensor_core::int8::{Int8Config, Int8Products};
use bert4rs_tensor_core::param::ParamStore;

use super::*;

fn attention(params: &ParamStore, biased: Biased) -> MultiHeadAttention {
    let root = params.root();
    let init = Init::Normal(0.3);
    let config = MultiHeadConfig {
        hidden: 16,
        heads: 4,
        kv_heads: 2,
        head_size: 8,
        biased,
        scale: None,
        qk_norm: None,
        implementation: AttentionImplementation::Plain,
        dropout: 0.0,
        init: MultiHeadInit { query: init, key_value: init, output: init },
    };
    let paths = MultiHeadPaths::Separate {
        query: &root / "query",
        key: &root / "key",
        value: &root / "value",
        output: &root / "output",
        norms: params.root(),
    };
    MultiHeadAttention::new(&paths, &config).unwrap()
}

/// Results and gradients of the weights by one product, and by three.
fn by_one_and_three(attention: &MultiHeadAttention, biased: Biased) -> [Vec<Tensor>; 2] {
    let x_btd = Tensor::randn([2, 5, 16], (Kind::Float, Device::Cpu));
    let maps: Vec<_> = attention.weights().collect();
    let maps = &maps[..maps.len() - 1 - usize::from(biased == Biased::Yes)];
    [true, false].map(|joined| {
        let parts = attention.project(&x_btd, joined, false);
        let loss = parts.iter().map(|part| part.sin().sum(Kind::Float)).reduce(|a, b| a + b);
        let gradients = Tensor::run_backward(&[loss.unwrap()], maps, false, false);
        parts.into_iter().chain(gradients).collect()
    })
}

#[test]
fn queries_keys_and_values_of_one_product_are_those_of_three() {
    for biased in [Biased::Yes, Biased::No] {
        let params = ParamStore::new(Device::Cpu, Kind::Float);
        let [one, three] = by_one_and_three(&attention(&params, biased), biased);
        for (one, three) in one.iter().zip(&three) {
            assert_eq!(one.size(), three.size());
            assert!((one - three).abs().max().double_value(&[]) < 1e-5, "{biased:?}");
        }
    }
}

#[test]
fn one_product_of_integers_is_three_to_the_bit() {
    let int8 = Int8Config { products: Int8Products::All, ..Int8Config::default() };
    for biased in [Biased::Yes, Biased::No] {
        let params = ParamStore::new(Device::Cpu, Kind::Float).with_int8(int8.clone());
        let attention = attention(&params, biased);
        assert!(attention.is_of_integers());
        let [one, three] = by_one_and_three(&attention, biased);
        for (one, three) in one.iter().zip(&three) {
            // Gradients of biases are sums of floats, which libtorch adds up in another order.
            let bound = if one.dim() == 1 { 1e-5 } else { 0.0 };
            assert!((one - three).abs().max().double_value(&[]) <= bound, "{biased:?}");
        }
    }
}

#[test]
fn maps_of_unlike_products_stay_apart() {
    let int8 = Int8Config {
        products: Int8Products::All,
        skip: vec!["key".into()],
        ..Int8Config::default()
    };
    let params = ParamStore::new(Device::Cpu, Kind::Float).with_int8(int8);
    let attention = attention(&params, Biased::Yes);
    let Projections::Separate { query, key, value } = &attention.projections else {
        unreachable!()
    };
    let x_btd = Tensor::randn([2, 5, 16], (Kind::Float, Device::Cpu));
    assert!(Linear::forward_joined([query, key, value], &x_btd).is_none());
}

#[test]
fn maps_that_multiply_in_fp8_stay_apart() {
    let fp8 = Fp8Config { scaling: Fp8Mode::Tensor, ..Fp8Config::default() };
    let params = ParamStore::new(Device::Cpu, Kind::BFloat16).with_fp8(fp8);
    let attention = attention(&params, Biased::Yes);
    let Projections::Separate { query, key, value } = &attention.projections else {
        unreachable!()
    };
    let x_btd = Tensor::randn([2, 16, 16], (Kind::BFloat16, Device::Cpu));
    assert!(Linear::forward_joined([query, key, value], &x_btd).is_none());
}
