//! libtorch's errors, made typed and readable.

use bert4rs_tensor_core::error::{Context, catch_torch_error};
use bert4rs_tensor_core::{Device, Error, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Asserts that `error` is one line for a user, of `op`.
fn readable(error: &Error, op: &str) -> String {
    let text = error.to_string();
    assert!(text.starts_with(&format!("{op}: ")), "{text}");
    for junk in ["\n", "Exception raised from", "frame #", "Result::unwrap", "Torch(\"", "\\n"] {
        assert!(!text.contains(junk), "{text}");
    }
    text
}

#[test]
fn a_shape_mismatch_is_one_clean_line() {
    let (left, right) = (Tensor::ones([2, 3], FLOAT), Tensor::ones([4, 5], FLOAT));
    let expected = "product: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)";
    let contained = catch_torch_error("product", || left.matmul(&right)).unwrap_err();
    assert_eq!(readable(&contained, "product"), expected);
    let returned = left.f_matmul(&right).during("product").unwrap_err();
    assert_eq!(readable(&returned, "product"), expected);
    assert!(matches!(contained, Error::Torch { .. }) && matches!(returned, Error::Torch { .. }));
}

#[test]
fn quotes_in_an_error_survive_containment() {
    let error = catch_torch_error("product", || {
        Tensor::ones([2, 2], FLOAT).matmul(&Tensor::ones([2, 2], (Kind::Half, Device::Cpu)))
    });
    let text = readable(&error.unwrap_err(), "product");
    assert!(!text.contains('\\'), "{text}");
}

#[test]
fn other_panics_are_contained() {
    let error = catch_torch_error("step", || panic!("index {} is too far", 7)).unwrap_err();
    assert_eq!(readable(&error, "step"), "step: index 7 is too far");
    assert_eq!(catch_torch_error("step", || 3).unwrap(), 3);
    let error = catch_torch_error("step", || std::panic::panic_any(7)).unwrap_err();
    assert_eq!(readable(&error, "step"), "step: panic without a message");
}

#[test]
fn too_much_memory_is_an_error_of_its_own() {
    // More than a process can address, and more than a number can count.
    for size in [vec![1 << 45], vec![1 << 62, 1 << 62]] {
        let error = Tensor::f_ones(&size, FLOAT).during("allocate").unwrap_err();
        let text = readable(&error, "allocate");
        assert!(matches!(error, Error::OutOfMemory { .. }), "{text}");
        assert!(text.contains("try a smaller batch"), "{text}");
        let error = catch_torch_error("allocate", || Tensor::ones(&size, FLOAT)).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    }
}

#[test]
fn cuda_out_of_memory_is_recognised() {
    let text = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of \
                79.11 GiB of which 3.00 GiB is free.\nException raised from malloc at x.cpp:1\n\
                frame #0: c10::Error";
    let error = Error::torch("step", tch::TchError::Torch(text.into()));
    assert!(matches!(error, Error::OutOfMemory { .. }));
    assert!(readable(&error, "step").contains("3.00 GiB is free. (try"));
}
