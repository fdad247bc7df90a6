//! What the machine and the process are: memory, CPU, library, precision, speed of light.

use std::time::{Duration, Instant};

use bert4rs_tensor_core::cpu::{self, CpuFeatures};
use bert4rs_tensor_core::device::{Cuda, cuda};
use bert4rs_tensor_core::precision::{Precision, allow_tf32};
use bert4rs_tensor_core::testing::{in_own_process, skip};
use bert4rs_tensor_core::{Device, Kind, Tensor, error, library, memory, speed_of_light};

/// What the system's counts may lag behind, and what else a process touches meanwhile.
const SLACK: u64 = 8 << 20;

fn touch(bytes: u64) {
    let _touched = Tensor::ones([bytes as i64], (Kind::Uint8, Device::Cpu));
    let resident = memory::process().unwrap().resident;
    assert!(resident > bytes, "{resident}");
}

fn resident() -> u64 {
    memory::process().unwrap().resident
}

#[test]
fn memory_counts_what_is_touched() {
    in_own_process("machine::memory_counts_what_is_touched", || {
        const BYTES: u64 = 256 << 20;
        let before = resident();
        touch(BYTES);
        let after = memory::process().unwrap();
        assert!(after.resident.abs_diff(before) < SLACK, "{after:?} after {before}");
        assert!(after.peak_resident - before > BYTES - SLACK, "{after:?} after {before}");
    });
}

#[test]
fn freed_memory_can_be_kept() {
    in_own_process("machine::freed_memory_can_be_kept", || {
        const BYTES: u64 = 40 << 20;
        let start = resident();
        touch(BYTES);
        assert!(resident().abs_diff(start) < SLACK);
        memory::keep_freed_memory();
        touch(BYTES);
        let kept = resident() - start;
        assert!(kept.abs_diff(BYTES) < SLACK, "{kept}");
        let counts = memory::tensors();
        assert!(counts.live < 1 << 20 && counts.peak.abs_diff(BYTES) < SLACK, "{counts:?}");
        assert!(counts.waiting.abs_diff(BYTES) < SLACK, "{counts:?}");
    });
}

#[test]
fn kept_memory_is_used_again_and_does_not_pile_up() {
    in_own_process("machine::kept_memory_is_used_again_and_does_not_pile_up", || {
        memory::keep_freed_memory();
        let make =
            |mib: i64, value: f64| Tensor::full([mib << 18], value, (Kind::Float, Device::Cpu));
        let address = |tensor: &Tensor| tensor.data_ptr() as usize;
        let first = make(8, 1.0);
        let (place, other) = (address(&first), make(8, 2.0));
        drop(first);
        let again = make(8, 3.0);
        assert_eq!(address(&again), place, "a freed block serves the next tensor of its size");
        assert_eq!(address(&again) % 64, 0);
        assert!(other.eq(2.0).all().int64_value(&[]) == 1, "a block has one owner");
        drop((again, other));
        // Ever larger tensors, one at a time: what was freed before does not fit and goes.
        for mib in 1..64 {
            drop(make(mib, 0.0));
        }
        let counts = memory::tensors();
        assert!(counts.live + counts.waiting <= counts.peak / 8 * 9 + SLACK, "{counts:?}");
    });
}

#[test]
fn tensors_of_every_size_and_thread_keep_their_values() {
    in_own_process("machine::tensors_of_every_size_and_thread_keep_their_values", || {
        memory::keep_freed_memory();
        let work = |seed: i64| {
            let mut kept = Vec::new();
            for step in 0..200 {
                let size = 1 + (seed * 7919 + step * 104_729) % 300_000;
                let value = (seed * 1000 + step) as f64;
                kept.push((Tensor::full([size], value, (Kind::Float, Device::Cpu)), value));
                if step % 3 == 2 {
                    drop(kept.swap_remove((step as usize * 31) % kept.len()));
                }
                let (tensor, value) = &kept[(step as usize * 17) % kept.len()];
                assert!(tensor.eq(*value).all().int64_value(&[]) == 1);
            }
        };
        std::thread::scope(|scope| {
            (0..4).for_each(|seed| drop(scope.spawn(move || work(seed))));
        });
    });
}

#[test]
fn precision_follows_the_device() {
    assert_eq!(Precision::Fp32.resolve(Device::Cpu), (Precision::Fp32, "as configured"));
    assert_eq!(Precision::Bf16.resolve(Device::Cpu), (Precision::Bf16, "as configured"));
    let (on_gpu, _) = Precision::Auto.resolve(Device::Cuda(0));
    assert_eq!(on_gpu, Precision::Bf16);
    let (on_cpu, reason) = Precision::Auto.resolve(Device::Cpu);
    assert_eq!(on_cpu == Precision::Bf16, CpuFeatures::detect().has_bf16_products(), "{reason}");
    assert_eq!(Precision::Bf16.compute_kind(), Kind::BFloat16);
    assert_eq!(Precision::Fp32.compute_kind(), Kind::Float);
    assert!(error::catch_torch_error("kind", || Precision::Auto.compute_kind()).is_err());
}

#[test]
fn precision_names() {
    for (name, precision) in
        [("auto", Precision::Auto), ("fp32", Precision::Fp32), ("bf16", Precision::Bf16)]
    {
        let json = format!("\"{name}\"");
        assert_eq!(serde_json::to_string(&precision).unwrap(), json);
        assert_eq!(serde_json::from_str::<Precision>(&json).unwrap(), precision);
    }
    assert!(serde_json::from_str::<Precision>("\"fp16\"").is_err());
}

#[test]
fn cpu_features_agree_with_the_system() {
    let features = CpuFeatures::detect();
    let Ok(system) = std::fs::read_to_string("/proc/cpuinfo") else { return };
    let line = system.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag: &str| line.split_whitespace().any(|word| word == flag);
    // Valgrind shows its programs a smaller CPU than the system's.
    assert!(!features.avx2_fma || has("avx2"));
    assert!(!features.avx512_bf16 || has("avx512_bf16"));
    assert!(!features.amx_bf16 || has("amx_bf16"));
    assert_eq!(features.has_bf16_products(), features.amx_bf16 || features.avx512_bf16);
    assert!(!cpu::name().is_empty());
}

#[test]
fn the_library_is_the_pinned_one() {
    assert_eq!(library::version(), "2.11.0");
    assert!(library::folder().unwrap().join("libtorch_cpu.so").is_file());
    assert!(!library::cpu_capability().is_empty());
}

#[test]
fn speed_of_light_is_quick_and_plausible() {
    let started = Instant::now();
    let speed = speed_of_light::measure(Device::Cpu).unwrap();
    let elapsed = started.elapsed();
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    for flops in [speed.fp32_flops, speed.bf16_flops] {
        assert!((1e8..1e15).contains(&flops), "{speed:?}");
    }
    assert_eq!(speed.best_flops(), speed.fp32_flops.max(speed.bf16_flops));
    println!("{speed:?} in {elapsed:?}");
}

#[test]
fn only_gpus_have_tf32_and_memory_of_their_own() {
    allow_tf32(false, Device::Cpu).unwrap();
    let error = allow_tf32(true, Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("TF32") && error.contains("no CUDA device"), "{error}");
    assert_eq!(memory::of_device(Device::Cpu).unwrap(), None);
    match cuda() {
        Cuda::None(reason) => {
            skip(reason);
            assert!(memory::of_device(Device::Cuda(0)).is_err());
        }
        Cuda::Devices(_) => {
            let x = Tensor::ones([1 << 20], (Kind::Float, Device::Cuda(0)));
            let held = memory::of_device(Device::Cuda(0)).unwrap().unwrap();
            assert!(held.allocated >= 4 << 20 && held.peak_reserved >= held.peak_allocated);
            let products = [true, false].map(|allow| {
                allow_tf32(allow, Device::Cuda(0)).unwrap();
                let matrix = x.view([1024, 1024]) + 1.0 / 4096.0;
                matrix.matmul(&matrix)
            });
            assert!(!products[0].equal(&products[1]), "TF32 drops the last bits");
        }
    }
}
