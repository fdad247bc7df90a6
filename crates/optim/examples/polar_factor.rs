//! The orthogonal matrix nearest to a matrix, which is Muon's update:
//! `cargo run -p bert4rs-optim --example polar_factor`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use bert4rs_optim::polar::{Coefficients, PolarOptions, polar_factor};
use bert4rs_tensor_core::{Device, Kind, Tensor};

fn main() -> Result<(), bert4rs_optim::Error> {
    let matrix = Tensor::randn([256, 512], (Kind::Float, Device::Cpu));
    for steps in [3, 5, 8] {
        let options = PolarOptions::new(Coefficients::polar_express(steps));
        let factor = polar_factor(&matrix, &options)?;
        let product = factor.matmul(&factor.tr());
        let identity = Tensor::eye(256, (Kind::Float, Device::Cpu));
        let off = (product - identity).abs().max().double_value(&[]);
        println!("{steps} steps of Polar Express: a product of rows is off by at most {off:.4}");
    }
    Ok(())
}
