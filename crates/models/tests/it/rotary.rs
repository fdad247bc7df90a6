//! RoPE and YaRN against transformers' own frequencies.

use bert4rs_models::layers::Rotary;
use bert4rs_tensor_core::policy::{Kernels, Policy};
use bert4rs_tensor_core::{Device, Kind, Tensor};
use serde::Deserialize;

use crate::support::{assert_close, vectors_folder};

#[derive(Deserialize)]
struct Case {
    head_size: i64,
    rotary: Rotary,
    frequencies: Vec<f64>,
    attention_factor: f64,
    cos_of_7: Vec<f64>,
}

#[test]
fn frequencies_equal_transformers() {
    let text = std::fs::read_to_string(vectors_folder().join("rotary.json")).unwrap();
    for case in serde_json::from_str::<Vec<Case>>(&text).unwrap() {
        let found = Tensor::from_slice(&case.rotary.frequencies(case.head_size));
        let want = Tensor::from_slice(&case.frequencies);
        assert_close("frequencies", &(found / &want), &want.ones_like(), 1e-5);
        assert!((case.rotary.attention_factor() - case.attention_factor).abs() < 1e-6);
        // Turning (1, .., 1, 0, .., 0) shows the cosines in its first half.
        let half = case.head_size / 2;
        let x = Tensor::ones([1, 1, 1, half], (Kind::Float, Device::Cpu));
        let x = Tensor::cat(&[&x, &x.zeros_like()], -1);
        let rotation =
            case.rotary.rotation_of_range(7, 1, case.head_size, Kind::Float, Device::Cpu);
        let want = Tensor::from_slice(&case.cos_of_7).narrow(0, 0, half);
        for kernels in [Kernels::Plain, Kernels::Fused] {
            let turned = rotation.forward(&x, None, &Policy::new(kernels, false)).unwrap();
            let cos = turned.flatten(0, -1).narrow(0, 0, half);
            assert_close("cosines", &cos, &want, 1e-6);
        }
    }
}
