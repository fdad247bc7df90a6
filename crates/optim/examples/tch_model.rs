//! Trains a small `tch` model with NorMuon and AdamW: `cargo run -p bert4rs-optim --example
//! tch_model`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use bert4rs_optim::schedule::{Horizon, ScheduleConfig};
use bert4rs_optim::{Optimizer, OptimizerConfig, group};
use tch::nn::{self, Module};
use tch::{Device, Kind, Tensor};

const STEPS: u64 = 200;

fn main() -> Result<(), bert4rs_optim::Error> {
    let vs = nn::VarStore::new(Device::Cpu);
    let model = nn::seq()
        .add(nn::linear(vs.root() / "hidden", 16, 64, Default::default()))
        .add_fn(|x| x.gelu("none"))
        .add(nn::linear(vs.root() / "head", 64, 4, Default::default()));
    let input = Tensor::randn([512, 16], (Kind::Float, Device::Cpu));
    let labels = input.narrow(1, 0, 4).argmax(1, false);

    let mut params = group::params(vs.variables());
    let mut optimizer = Optimizer::new(OptimizerConfig::normuon(0.02, 3e-3), &mut params)?;
    let schedule = ScheduleConfig::linear(10).resolve(Horizon::Steps(STEPS))?;
    for step in 0..STEPS {
        let loss = model.forward(&input).cross_entropy_for_logits(&labels);
        let grads = group::grads(&loss, &params)?;
        let report = optimizer.step(&mut params, &grads, schedule.factor(step as f64))?;
        if step % 40 == 0 || step + 1 == STEPS {
            println!(
                "step {step}: loss {:.4}, norm {:.3}",
                loss.double_value(&[]),
                report.grad_norm
            );
        }
    }
    Ok(())
}
