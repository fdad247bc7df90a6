//! CUDA's half of libtorch is there whichever call comes first.
//!
//! Where libtorch asks for an accelerator before that half is loaded, it has none for good. The
//! libraries load without a driver or GPU, but for which this looks is libcuda.so.1: an empty
//! library of that name stands in for the driver.

use std::path::Path;
use std::process::Command;

use bert4rs_tensor_core::device::{Cuda, cuda};
use bert4rs_tensor_core::testing::{in_own_process, in_own_process_after, skip};
use bert4rs_tensor_core::{Device, Kind, Tensor, graph, random};

/// Runs `body` in a process that finds a driver: the machine's, or one without a device.
fn with_a_driver(test: &str, body: impl FnOnce()) {
    if Path::new("/proc/driver/nvidia").exists() {
        return in_own_process(test, body);
    }
    let folder = tempfile::tempdir().unwrap();
    let driver = folder.path().join("libcuda.so.1");
    let made =
        Command::new("cc").args(["-shared", "-x", "c", "/dev/null", "-o"]).arg(&driver).status();
    if !made.is_ok_and(|status| status.success()) {
        return skip("no C compiler to make an empty library with");
    }
    let path = prepend(folder.path());
    in_own_process_after(&format!("export LD_LIBRARY_PATH='{path}'"), test, body);
}

fn prepend(folder: &Path) -> String {
    let old = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    format!("{}:{old}", folder.display())
}

/// The reason of a process with libraries, but without a device: theirs, not ours for stubs.
fn check_loaded() {
    match cuda() {
        Cuda::Devices(count) => assert!(*count > 0),
        Cuda::None(reason) if reason.contains("libtorch_cuda.so") => skip(reason),
        Cuda::None(reason) => {
            assert_eq!(reason, "the NVIDIA driver reports no device");
            check_graphs();
        }
    }
}

/// The library of graphs finds all that it calls in libtorch, which does not export everything that
/// its headers declare.
fn check_graphs() {
    match graph::is_built_in() {
        true => graph::available().unwrap(),
        false => skip("built without CUDA's headers"),
    }
}

#[test]
fn cuda_is_loaded_where_it_is_asked_for_first() {
    with_a_driver("cuda_loading::cuda_is_loaded_where_it_is_asked_for_first", || {
        check_loaded();
        random::seed(1);
    });
}

#[test]
fn cuda_is_loaded_where_a_seed_comes_first() {
    with_a_driver("cuda_loading::cuda_is_loaded_where_a_seed_comes_first", || {
        random::seed(1);
        check_loaded();
    });
}

#[test]
fn cuda_is_loaded_where_a_backward_pass_on_the_cpu_comes_first() {
    let test = "cuda_loading::cuda_is_loaded_where_a_backward_pass_on_the_cpu_comes_first";
    with_a_driver(test, || {
        let x = Tensor::ones([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        x.square().sum(Kind::Float).backward();
        check_loaded();
    });
}
