//! What share of a copy's bandwidth the fused kernels reach, on the CPU or the device that the
//! first argument names. Prints one `name seconds share` a line, of a pass forward and backward.
//!
//! The share is of the bytes that a kernel can't avoid to move, each counted once, over the time it
//! takes, over the bytes a second of a plain copy in the same run.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use bert4rs_benches::{copy_bandwidth, device_of_arguments, fastest};
use bert4rs_kernels::activation::{Activation, activate};
use bert4rs_kernels::embedding::lookup;
use bert4rs_kernels::norm::{NormArgs, NormKind, normalize_sum};
use bert4rs_kernels::rotary::{Angles, HeadNorm, rotate};
use bert4rs_kernels::weight::Weight;
use bert4rs_kernels::{fp8, muon};
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};

/// Rows of activations: few on a CPU, where they take long.
fn rows(device: Device) -> i64 {
    if device == Device::Cpu { 4096 } else { 65_536 }
}

const ROUNDS: usize = 5;
const WIDTH: i64 = 768;
/// Bytes of a value of BF16.
const SIZE: f64 = 2.0;

struct Bench {
    device: Device,
    copy: f64,
}

impl Bench {
    fn random(&self, shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::BFloat16, self.device))
    }

    fn print(&self, name: &str, seconds: f64, bytes: f64) {
        let share = bytes / seconds / self.copy;
        // What was taken off can be more than all, where other programs run beside.
        match share > 0.0 {
            true => println!("{name}\t{seconds:.6}\t{share:.3} of copy bandwidth"),
            false => println!("{name}\t-\tno time left: the machine is too busy to tell"),
        }
    }

    /// Times what `forward` and its backward pass take, with gradients of `inputs`. What the
    /// gradient of the result costs beside, on a tensor of the same shape, is taken off.
    fn both_ways(
        &self,
        name: &str,
        bytes: f64,
        inputs: &[Tensor],
        forward: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) -> Result<()> {
        let leaves: Vec<Tensor> = inputs.iter().map(|x| x.copy().set_requires_grad(true)).collect();
        let y = forward(&leaves)?.detach();
        let dy = self.random(&y.size());
        let backward = |y: &Tensor, inputs: &[Tensor]| {
            let loss = (y * &dy).sum(Kind::Float);
            Tensor::run_backward(&[loss], inputs, false, false)
        };
        let mut failed = None;
        let whole = fastest(self.device, ROUNDS, || match forward(&leaves) {
            Ok(y) => drop(backward(&y, &leaves)),
            Err(error) => failed = Some(error),
        });
        failed.map_or(Ok(()), Err)?;
        let leaf = [y.set_requires_grad(true)];
        let beside = fastest(self.device, ROUNDS, || drop(backward(&leaf[0], &leaf)));
        self.print(name, whole - beside, bytes);
        Ok(())
    }

    fn activations(&self) -> Result<()> {
        let shape = [rows(self.device), 4 * WIDTH];
        let [x, u] = [(); 2].map(|()| self.random(&shape));
        let values = x.numel() as f64;
        // Forward x, u in and y out; backward these and dy in, dx and du out.
        let bytes = values * SIZE * (3.0 + 5.0);
        self.both_ways("gate", bytes, &[x, u], |inputs| {
            activate(Activation::GeluTanh, &inputs[0], Some(&inputs[1]))
        })
    }

    fn norms(&self) -> Result<()> {
        let shape = [rows(self.device), WIDTH];
        let [x, y] = [(); 2].map(|()| self.random(&shape));
        let values = x.numel() as f64;
        let [weight, bias] = [(); 2].map(|()| self.random(&[WIDTH]));
        // Forward x, y in, sum and norm out; backward the sum and dy in, dx out.
        let bytes = values * SIZE * (4.0 + 3.0);
        self.both_ways("norm of a sum", bytes, &[x, y, weight, bias], |inputs| {
            let (weight, bias) = (&inputs[2], Some(&inputs[3]));
            let norm = NormArgs { norm_kind: NormKind::Layer, weight, bias, eps: 1e-5 };
            let [normed, _] = normalize_sum(&norm, &inputs[0], &inputs[1])?;
            Ok(normed)
        })
    }

    fn heads(&self) -> Result<()> {
        let x = self.random(&[rows(self.device) / 512, 512, 12, 64]);
        let values = x.numel() as f64;
        let [cos, sin] = [(); 2].map(|()| self.random(&[512, 1, 64]));
        let angles = Angles { cos: &cos, sin: &sin };
        // Forward x in and y out; backward dy in and dx out, and x again where there is a norm.
        let inputs = [x, self.random(&[64])];
        self.both_ways("rotary positions", values * SIZE * 4.0, &inputs[..1], |inputs| {
            rotate(&inputs[0], &angles, None)
        })?;
        let bytes = values * SIZE * 5.0;
        self.both_ways("norm of heads and rotary positions", bytes, &inputs, |inputs| {
            let norm = HeadNorm { weight: &inputs[1], eps: 1e-6 };
            rotate(&inputs[0], &angles, Some(&norm))
        })
    }

    fn lookups(&self) -> Result<()> {
        let (entries, count) = (30_522, rows(self.device));
        let table = self.random(&[entries, WIDTH]);
        let ids = Tensor::randint(entries, [count], (Kind::Int64, self.device));
        // Forward rows in and out; backward dy in, and the rows of a gradient, which on a GPU are
        // all of the table's.
        let written = if self.device == Device::Cpu { entries.min(count) } else { entries };
        let bytes = (3 * count + written) as f64 * WIDTH as f64 * SIZE;
        self.both_ways("lookups", bytes, &[table], |inputs| lookup(&inputs[0], &ids, None))
    }

    /// What is no function of autograd: `call` as it is.
    fn alone(&self, name: &str, bytes: f64, mut call: impl FnMut() -> Result<()>) -> Result<()> {
        let mut failed = None;
        let seconds = fastest(self.device, ROUNDS, || failed = call().err());
        failed.map_or(Ok(()), Err)?;
        self.print(name, seconds, bytes);
        Ok(())
    }

    fn casts(&self) -> Result<()> {
        let x = self.random(&[rows(self.device), WIDTH]);
        let (values, given) = (x.numel() as f64, Tensor::ones([1], (Kind::Float, self.device)));
        for (name, factor) in [
            ("cast to FP8, given factor, and transposed", fp8::Factor::Given(&given)),
            ("cast to FP8 by row, and transposed", fp8::Factor::Row),
        ] {
            // The matrix in, it and its transpose in 8 bits out.
            self.alone(name, values * (SIZE + 2.0), || {
                fp8::cast(&x, fp8::Format::E4M3, factor, true).map(drop)
            })?;
        }
        Ok(())
    }

    /// Muon's passes before and after its products.
    fn muon(&self) -> Result<()> {
        let shape = [WIDTH * 16, WIDTH * 4];
        let (grad, mut x) = (self.random(&shape), self.random(&[shape[1], shape[0]]));
        let mut momentum = Tensor::zeros(shape, (Kind::Float, self.device));
        let scalars = muon::MuonKernelScalars {
            one_minus_momentum: 0.05,
            grad_scale: 1.0,
            lr: 0.0,
            decay_factor: 1.0,
        };
        let numbers = &Tensor::from_slice(&scalars.to_array()).to_device(self.device);
        let values = grad.numel() as f64;
        // The gradient in, momentum in and out, what is normed and cast out.
        let args = muon::MomentumArgs { numbers, nesterov: true, norm_factor: 1.01 };
        self.alone("Muon before its products", values * (SIZE + 8.0 + SIZE), || {
            muon::momentum_update(&args, &grad, &mut momentum, &mut x)
        })?;
        let mut master = Tensor::zeros(shape, (Kind::Float, self.device));
        let mut weight = self.random(&shape);
        let step = muon::UpdateArgs { numbers, factor: 1.0, row: None, col: None, cautious: false };
        // The update in, the master in and out, the weight out.
        self.alone("Muon after its products", values * (SIZE + 8.0 + SIZE), || {
            let (master, weight) = (&mut master, &mut weight);
            muon::apply_update(&step, &x, Weight::Master { master, weight })
        })
    }
}

fn main() -> Result<()> {
    let device = device_of_arguments()?;
    let copy = copy_bandwidth(device);
    println!("copy bandwidth, GB/s\t{:.2}", copy / 1e9);
    let bench = Bench { device, copy };
    bench.activations()?;
    bench.norms()?;
    bench.heads()?;
    bench.lookups()?;
    bench.casts()?;
    bench.muon()
}
