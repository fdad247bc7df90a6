//! Times optimizer steps over BERT-base, on the CPU or the device that the first argument names,
//! and prints one `name seconds` a line; `benches/peers/optimizers.py` sets them beside PyTorch's.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use bert4rs_benches::{
    bert_base, bert_base_hidden, copy_bandwidth, device_of_arguments, fastest, grads, own_kernels,
};
use bert4rs_optim::polar::{Coefficients, Iteration, PolarCompute, PolarOptions, polar_factor};
use bert4rs_optim::{Error, Masters, Optimizer, OptimizerConfig, UpdateImplementation};
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Device, Kind, Tensor};

/// Bytes that AdamW has to move for a value, by the weight's dtype: gradient and weight, two
/// moments, and the master where there is one.
fn adamw_bytes(kind: Kind, masters: Masters) -> f64 {
    match (kind, masters) {
        (Kind::Float, _) => 4.0 + 2.0 * (4.0 + 4.0 + 4.0),
        (_, Masters::Fp32) => 2.0 + 2.0 * (4.0 + 4.0 + 4.0) + 2.0,
        (_, Masters::Bf16Residual) => 2.0 + 2.0 * (4.0 + 4.0 + 2.0 + 2.0),
    }
}

fn time_step(
    rounds: usize,
    mut config: OptimizerConfig,
    mut params: Vec<Param>,
) -> Result<f64, Error> {
    let device = params.first().map_or(Device::Cpu, |param| param.weight.device());
    let grads = grads(&params);
    config.policy = own_kernels();
    let mut optimizer = Optimizer::new(config, &mut params)?;
    let mut failed = None;
    let seconds = fastest(device, rounds, || {
        if let Err(error) = optimizer.step(&mut params, &grads, 1.0) {
            failed = Some(error);
        }
    });
    failed.map_or(Ok(seconds), Err)
}

fn adamw(copy: f64, device: Device) -> Result<(), Error> {
    for (name, kind, masters, implementation) in [
        ("adamw fp32 fused", Kind::Float, Masters::Fp32, UpdateImplementation::Fused),
        ("adamw bf16 fused", Kind::BFloat16, Masters::Fp32, UpdateImplementation::Fused),
        ("adamw bf16 low bits", Kind::BFloat16, Masters::Bf16Residual, UpdateImplementation::Fused),
        ("adamw fp32 plain", Kind::Float, Masters::Fp32, UpdateImplementation::Plain),
    ] {
        let mut config = OptimizerConfig::adamw(1e-4);
        (config.adamw.implementation, config.masters, config.clip) =
            (implementation, masters, None);
        let params = bert_base((kind, device));
        let values: usize = params.iter().map(|param| param.weight.numel()).sum();
        let seconds = time_step(20, config, params)?;
        let share = values as f64 * adamw_bytes(kind, masters) / seconds / copy;
        println!("{name}\t{seconds:.5}\t{share:.3} of copy bandwidth");
    }
    Ok(())
}

fn muon(device: Device) -> Result<(), Error> {
    for (name, kind, compute) in
        [("fp32", Kind::Float, PolarCompute::Fp32), ("bf16", Kind::BFloat16, PolarCompute::Bf16)]
    {
        for (rule, mut config) in [
            ("muon", OptimizerConfig::muon(0.02, 1e-4)),
            ("normuon", OptimizerConfig::normuon(0.02, 1e-4)),
        ] {
            if let Some(muon) = &mut config.muon {
                muon.compute = compute;
            }
            let seconds = time_step(2, config, bert_base_hidden((kind, device)))?;
            println!("{rule} {name}\t{seconds:.5}");
        }
    }
    Ok(())
}

/// The table behind [`Iteration::Auto`]: all iterations for the shapes of models.
fn iterations(device: Device) -> Result<(), Error> {
    for (count, n, m) in [(6, 768, 768), (2, 768, 1536), (2, 768, 2048), (2, 768, 3072)] {
        let stack = Tensor::randn([count, n, m], (Kind::Float, device));
        for compute in [PolarCompute::Fp32, PolarCompute::Bf16] {
            for iteration in [Iteration::Standard, Iteration::Gram, Iteration::Auto] {
                let coefficients = Coefficients::polar_express(5);
                let options = PolarOptions {
                    compute,
                    iteration,
                    policy: own_kernels(),
                    ..PolarOptions::new(coefficients)
                };
                if options.validate("bench").is_err() {
                    continue;
                }
                let mut failed = None;
                let seconds = fastest(device, 2, || {
                    failed = polar_factor(&stack, &options).err();
                });
                failed.map_or(Ok(()), Err)?;
                let each = seconds / count as f64;
                println!("factor {n}x{m} {compute:?} {iteration:?}\t{each:.5}");
            }
        }
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    let device = device_of_arguments()?;
    let threads = bert4rs_tensor_core::get_num_threads();
    let copy = copy_bandwidth(device);
    println!("threads\t{threads}\ncopy bandwidth, GB/s\t{:.2}", copy / 1e9);
    adamw(copy, device)?;
    muon(device)?;
    iterations(device)
}
