//! Seeds and the random state. Each test has a process of its own, as all share one generator.

use bert4rs_tensor_core::random::{RandomState, seed};
use bert4rs_tensor_core::testing::{cuda_or_skip, in_own_process};
use bert4rs_tensor_core::{Device, Kind, Tensor};

use crate::support::values;

fn draw(device: Device) -> Vec<f64> {
    // An odd count of normals leaves half of a pair in the generator.
    let normals = Tensor::randn([3], (Kind::Float, device));
    let scalar_path = Tensor::empty([1], (Kind::Double, device)).normal_(0.0, 1.0);
    let integers = Tensor::randint(1000, [5], (Kind::Int64, device));
    [normals, scalar_path, integers].iter().flat_map(values).collect()
}

fn round_trip(device: Device) {
    seed(11);
    let first = draw(device);
    let bytes = RandomState::of(device).unwrap().bytes().unwrap();
    let state = RandomState::of(device).unwrap();
    let second = draw(device);
    assert_ne!(first, second);
    state.restore().unwrap();
    assert_eq!(draw(device), second);
    RandomState::from_bytes(device, &bytes).restore().unwrap();
    assert_eq!(draw(device), second);
    assert_ne!(draw(device), second);
    seed(11);
    assert_eq!(draw(device), first);
}

#[test]
fn seeds_differ_in_every_bit() {
    in_own_process("random::seeds_differ_in_every_bit", || {
        let mut seen = Vec::new();
        for number in [0, 1, 1 << 31, 1 << 32, 1 << 63, u64::MAX] {
            seed(number);
            let bytes = RandomState::of(Device::Cpu).unwrap().bytes().unwrap();
            assert!(!seen.contains(&bytes), "{number}");
            seen.push(bytes);
        }
    });
}

#[test]
fn the_cpu_state_round_trips() {
    in_own_process("random::the_cpu_state_round_trips", || round_trip(Device::Cpu));
}

#[test]
fn the_cuda_state_round_trips() {
    if let Some(device) = cuda_or_skip() {
        in_own_process("random::the_cuda_state_round_trips", || round_trip(device));
    }
}

#[test]
fn other_bytes_are_an_error_and_change_nothing() {
    in_own_process("random::other_bytes_are_an_error_and_change_nothing", || {
        seed(3);
        let good = RandomState::of(Device::Cpu).unwrap().bytes().unwrap();
        let mut junk = good.clone();
        junk.fill(0xff);
        let cut = &good[..good.len() - 1];
        let long: Vec<u8> = good.iter().copied().chain([0]).collect();
        for bytes in [&[][..], &[1, 2, 3], cut, &long, &junk] {
            let error = RandomState::from_bytes(Device::Cpu, bytes).restore().unwrap_err();
            assert!(error.to_string().starts_with("random state: "), "{error}");
            assert!(!error.to_string().contains('\n'));
            assert_eq!(RandomState::of(Device::Cpu).unwrap().bytes().unwrap(), good);
        }
    });
}

#[test]
fn devices_that_are_not_there() {
    for device in [Device::Cuda(100), Device::Cuda(300), Device::Mps] {
        assert!(RandomState::of(device).is_err(), "{device:?}");
        assert!(RandomState::from_bytes(device, &[0; 16]).restore().is_err(), "{device:?}");
    }
}
