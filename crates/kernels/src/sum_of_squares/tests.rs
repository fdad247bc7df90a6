//! Against a plain sum, and the CUDA kernel against the CPU.

use super::cpu::sum_of_squares_on;
use super::*;
use crate::cpu::isa::Isa;
use crate::testing::random;

#[test]
fn every_isa_agrees_with_a_plain_sum() {
    let values: Vec<f32> = (0..1000).map(|i| (i as f32 - 500.0) * 1e18).collect();
    let plain: f64 = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    for isa in Isa::available() {
        let sum = sum_of_squares_on(isa, &values);
        assert!((sum / plain - 1.0).abs() < 1e-14, "{isa:?}: {sum} for {plain}");
    }
}

#[test]
fn finite_exactly_when_every_value_is() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = vec![f32::MAX; 70_000];
        assert!(sum_of_squares(&Tensor::from_slice(&values)).unwrap().is_finite());
        values[69_999] = bad;
        let tensor = Tensor::from_slice(&values);
        assert!(!sum_of_squares(&tensor).unwrap().is_finite());
        assert!(!sum_of_squares(&tensor.to_kind(Kind::BFloat16)).unwrap().is_finite());
    }
}

#[test]
fn emulated_sums_equal_the_cpu() {
    // More tensors than a launch takes, empty ones and none among them.
    let tensors: Vec<Tensor> = (0..150)
        .map(|index| match index % 5 {
            4 => Tensor::new(),
            form => {
                let count = [1, 0, 8193, 20_000][form];
                random(&[count], [Kind::Float, Kind::BFloat16][index % 2])
            }
        })
        .collect();
    let sums = Vec::<f64>::try_from(cuda::sums(&tensors, Device::Cpu).unwrap()).unwrap();
    for (tensor, found) in tensors.iter().zip(sums) {
        let defined = tensor.defined();
        let expected = if defined { sum_of_squares(tensor).unwrap() } else { 0.0 };
        assert!((found - expected).abs() <= 1e-14 * expected, "{found} for {expected}");
    }
    let huge = [Tensor::from_slice(&[1.0f32, f32::INFINITY])];
    assert!(!cuda::sums(&huge, Device::Cpu).unwrap().double_value(&[0]).is_finite());
}
