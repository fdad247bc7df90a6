//! Device names, and devices that are not there.

use bert4rs_tensor_core::device::{Cuda, DeviceChoice, cuda};
use bert4rs_tensor_core::testing::cuda_or_skip;
use bert4rs_tensor_core::{Device, Error};

#[test]
fn names_round_trip() {
    for (name, choice) in [
        ("auto", DeviceChoice::Auto),
        ("cpu", DeviceChoice::Cpu),
        ("cuda:0", DeviceChoice::Cuda(0)),
        ("cuda:17", DeviceChoice::Cuda(17)),
    ] {
        assert_eq!(name.parse::<DeviceChoice>().unwrap(), choice);
        assert_eq!(choice.to_string(), name);
    }
    assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
}

#[test]
fn other_names_are_errors() {
    let names = ["", "CPU", "gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda: 1", "cuda:x", "cuda0"];
    for name in names.into_iter().chain(["cuda:99999999999999999999999"]) {
        let error = name.parse::<DeviceChoice>().unwrap_err();
        assert!(matches!(&error, Error::Device { asked, .. } if asked == name));
        assert!(error.to_string().contains("use auto, cpu, or cuda:N"), "{error}");
    }
}

#[test]
fn the_cpu_is_there() {
    assert_eq!(DeviceChoice::Cpu.resolve().unwrap(), Device::Cpu);
}

#[test]
fn a_missing_cuda_device_is_an_error() {
    let (index, count) = match cuda() {
        Cuda::Devices(count) => (*count, *count),
        Cuda::None(_) => (0, 0),
    };
    let error = DeviceChoice::Cuda(index).resolve().unwrap_err().to_string();
    assert!(error.starts_with(&format!("device \"cuda:{index}\": ")), "{error}");
    assert!(error.ends_with("; use --device cpu or --device auto"), "{error}");
    let reason = if count > 0 { "this machine has" } else { "no NVIDIA driver (libcuda.so.1)" };
    assert!(error.contains(reason) || error.contains("libtorch_cuda.so"), "{error}");
}

#[test]
fn auto_takes_what_is_there() {
    let expected = match cuda() {
        Cuda::Devices(_) => Device::Cuda(0),
        Cuda::None(_) => Device::Cpu,
    };
    assert_eq!(DeviceChoice::Auto.resolve().unwrap(), expected);
}

#[test]
fn a_cuda_device_computes() {
    let Some(device) = cuda_or_skip() else { return };
    let ones = tch::Tensor::ones([64, 64], (tch::Kind::Float, device));
    assert_eq!(ones.matmul(&ones).double_value(&[63, 63]), 64.0);
}
