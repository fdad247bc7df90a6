//! What the tests of this crate share.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use bert4rs_tensor_core::random::seed;
use bert4rs_tensor_core::{Device, Kind, Tensor, get_num_threads, set_num_threads};

use crate::weight::{Weight, split_tensor};

/// Runs on all threads and on one; all results must be the same.
#[track_caller]
pub(crate) fn assert_same_on_one_thread(run: impl Fn() -> Vec<Tensor>) {
    let many = run();
    let threads = get_num_threads();
    set_num_threads(1);
    let one = run();
    set_num_threads(threads);
    assert!(many.iter().zip(&one).all(|(many, one)| many.equal(one)));
}

/// Normal numbers of `kind`. A test draws the same ones each time, whatever runs beside it: bounds
/// on errors of rounding that hold once hold always.
pub(crate) fn random(shape: &[i64], kind: Kind) -> Tensor {
    /// libtorch has one generator for all threads.
    static DRAWING: Mutex<()> = Mutex::new(());
    thread_local! { static DRAWN: Cell<u64> = const { Cell::new(0) }; }

    let _guard = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
    seed(DRAWN.replace(DRAWN.get() + 1));
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind)
}

/// ‖found - expected‖ / ‖expected‖
pub(crate) fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    let [found, expected] = [found, expected].map(|x| x.to_kind(Kind::Double));
    f64::try_from((found - &expected).norm() / expected.norm()).unwrap()
}

/// Whether two tensors of one dtype hold the same bits.
pub(crate) fn same_bits(found: &Tensor, expected: &Tensor) -> bool {
    found.view_dtype(Kind::Uint8).equal(&expected.view_dtype(Kind::Uint8))
}

/// An exact weight in each form in which it is kept.
pub(crate) fn weight_forms(exact: &Tensor) -> [Vec<Tensor>; 3] {
    let (high, low) = split_tensor(exact).unwrap();
    [vec![exact.copy()], vec![exact.copy(), exact.to_kind(Kind::BFloat16)], vec![low, high]]
}

/// One of [`weight_forms`], as kernels take it.
pub(crate) fn weight_of(tensors: &mut [Tensor]) -> Weight<'_> {
    match tensors {
        [weight] => Weight::Single(weight),
        [other, weight] => match other.kind() {
            Kind::Float => Weight::Master { master: other, weight },
            _ => Weight::Bf16Residual { weight, residual: other },
        },
        _ => unreachable!("a weight has one tensor or two"),
    }
}

/// Runs this program's tests again as each class of processor that this machine can play, and that
/// has less than it. Those of GPUs' sources don't ask the CPU.
#[test]
fn every_class_of_processor_passes_these_tests() {
    use bert4rs_tensor_core::cpu::CpuFeatures;
    use bert4rs_tensor_core::cpu_isa::CpuIsa;

    if CpuIsa::of_process().unwrap().is_some() {
        return;
    }
    let here = CpuFeatures::of_machine();
    for isa in CpuIsa::playable(here).filter(|isa| here.limited_to(*isa) != here) {
        let mut tests = std::process::Command::new(std::env::current_exe().unwrap());
        let output = tests.args(["--skip", "emulated"]).envs(isa.environment()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{isa:?}: {said}");
    }
}
