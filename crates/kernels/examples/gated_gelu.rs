//! GELU's `tanh` form as a gate, in one pass each way, beside libtorch's operations:
//! `cargo run -p bert4rs-kernels --example gated_gelu`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Instant;

use bert4rs_kernels::activation::{Activation, activate};
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};

fn main() -> Result<()> {
    let normal = || Tensor::randn([512, 1024], (Kind::Float, Device::Cpu));
    let (x, gated) = (normal().set_requires_grad(true), normal());
    let plain = |x: &Tensor| x.gelu("tanh") * &gated;
    let fused = activate(Activation::GeluTanh, &x, Some(&gated))?;
    let off = (&fused - plain(&x)).abs().max().double_value(&[]);
    println!("the two differ by at most {off:.1e}");
    assert!(off < 1e-5);

    for (name, fused) in [("libtorch", false), ("fused", true)] {
        let began = Instant::now();
        for _ in 0..20 {
            let y = match fused {
                true => activate(Activation::GeluTanh, &x, Some(&gated))?,
                false => plain(&x),
            };
            let _ = Tensor::run_backward(&[y.sum(Kind::Float)], &[&x], false, false);
        }
        println!("{name}: {:.2} ms forward and backward", began.elapsed().as_secs_f64() * 50.0);
    }
    Ok(())
}
