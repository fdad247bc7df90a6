//! `bert4rs doctor --selftest`: a small check of each part, on this machine, in seconds.

use std::process::ExitCode;

use bert4rs_models::bert::{BertConfig, BertForMaskedLm, BertInput, BertSize};
use bert4rs_optim::polar::{Coefficients, PolarOptions, polar_factor};
use bert4rs_optim::{Optimizer, OptimizerConfig};
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::error::catch_torch_error;
use bert4rs_tensor_core::param::{Init, ParamStore, Role};
use bert4rs_tensor_core::{Device, Kind, Tensor, no_grad, random};
use bert4rs_train::Result;
use bert4rs_train::config::{Overlay, resolve};
use bert4rs_train::output::print_line;
use bert4rs_train::presets::PRESETS;

use super::probe;

/// What a check found: `Ok` passes, with a remark.
type Outcome = std::result::Result<String, String>;

pub(super) fn run(device: Device) -> Result<ExitCode> {
    let checks: [(&str, &dyn Fn() -> Outcome); 6] = [
        ("config", &config),
        ("Polar Express", &|| polar_express(device)),
        ("Muon", &|| muon(device)),
        ("BERT forward", &|| bert_forward(device, Kind::Float)),
        ("BF16", &|| bert_forward(device, Kind::BFloat16)),
        ("FP8 detection", &|| fp8_detection(device)),
    ];
    print_line("")?;
    let mut failed = 0;
    for (name, check) in checks {
        let outcome = catch_torch_error(name, check).unwrap_or_else(|error| Err(error.to_string()));
        let (mark, remark) = match &outcome {
            Ok(remark) => ("passed", remark),
            Err(reason) => ("FAILED", reason),
        };
        failed += usize::from(outcome.is_err());
        print_line(&format!("{name:<16}{mark}  {remark}"))?;
    }
    print_line(&format!("\n{} passed, {failed} failed", checks.len() - failed))?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every preset resolves, and survives being written and read back.
fn config() -> Outcome {
    for preset in PRESETS {
        let resolved = Overlay::parse(preset.name, preset.toml)
            .and_then(|overlay| resolve(&[overlay]))
            .map_err(|error| error.to_string())?;
        let again = resolved
            .to_toml()
            .and_then(|text| Overlay::parse(preset.name, &text))
            .and_then(|overlay| resolve(&[overlay]))
            .map_err(|error| error.to_string())?;
        if again != resolved {
            return Err(format!("preset {} changes when written and read back", preset.name));
        }
    }
    Ok(format!("{} presets", PRESETS.len()))
}

/// Enough steps of Polar Express make a random matrix's rows orthonormal.
fn polar_express(device: Device) -> Outcome {
    random::seed(1);
    let wide = Tensor::randn([64, 128], (Kind::Float, device));
    let options = PolarOptions::new(Coefficients::polar_express(8));
    let factor = polar_factor(&wide, &options).map_err(|error| error.to_string())?;
    let apart = factor.matmul(&factor.tr()) - Tensor::eye(64, (Kind::Float, device));
    let apart = apart.abs().max().double_value(&[]);
    let found = format!("8 steps leave max |XXᵀ - I| = {apart:.1e}");
    if apart < 1e-5 { Ok(found) } else { Err(found) }
}

/// Muon, with its default settings, brings a small matrix to another one.
fn muon(device: Device) -> Outcome {
    let describe = |error: bert4rs_optim::Error| error.to_string();
    random::seed(1);
    let mut store = ParamStore::new(device, Kind::Float);
    let weight = store
        .root()
        .param("weight", &[16, 24], Role::Matrix, Init::Normal(1.0))
        .map_err(|error| error.to_string())?;
    let target = Tensor::randn([16, 24], (Kind::Float, device));
    let loss = || (&weight - &target).square().mean(Kind::Float);
    let mut optimizer =
        Optimizer::new(OptimizerConfig::muon(0.1, 1e-3), store.params_mut()).map_err(describe)?;
    let before = loss().double_value(&[]);
    for _ in 0..60 {
        let gradients = Tensor::run_backward(&[loss()], &[&weight], false, false);
        optimizer.step(store.params_mut(), &gradients, 1.0).map_err(describe)?;
    }
    let after = loss().double_value(&[]);
    let found = format!("60 steps take the loss from {before:.2} to {after:.2}");
    if after < 0.5 * before { Ok(found) } else { Err(found) }
}

/// A fresh BERT gives finite hidden states and, knowing nothing, a loss near that of guessing.
fn bert_forward(device: Device, kind: Kind) -> Outcome {
    let describe = |error: bert4rs_models::Error| error.to_string();
    random::seed(1);
    let mut config = BertConfig::published(BertSize::Tiny);
    config.vocab_size = 1000;
    config.attention_probs_dropout_prob = 0.0;
    let store = ParamStore::new(device, kind);
    let model = BertForMaskedLm::new(&store.root(), &config, AttentionImplementation::Fused)
        .map_err(describe)?;
    let ids = Tensor::randint(config.vocab_size, [2, 32], (Kind::Int64, device));
    let positions = Tensor::arange(64, (Kind::Int64, device));
    let loss = no_grad(|| {
        let logits = bert4rs_models::bert::LogitsOf::MaskedOnly;
        model.mlm_loss(&BertInput::new(&ids), &positions, &ids.flatten(0, -1), logits, false)
    })
    .map_err(describe)?
    .double_value(&[]);
    let guessing = (config.vocab_size as f64).ln();
    if (loss - guessing).abs() < 1.0 {
        Ok(format!("loss {loss:.3}, guessing would be {guessing:.3}"))
    } else {
        Err(format!("loss {loss}, but guessing would be {guessing:.3}"))
    }
}

/// The casts round as the format says: e4m3 holds 4 significant bits.
fn fp8_detection(device: Device) -> Outcome {
    if !probe::fp8_converts(Kind::Float8e4m3fn, device) {
        return Ok("this libtorch has no FP8 casts here".into());
    }
    let value = Tensor::from_slice(&[1.06f32]).to_device(device);
    let back = value.to_kind(Kind::Float8e4m3fn).to_kind(Kind::Float).double_value(&[0]);
    if back == 1.0 { Ok(probe::fp8(device)) } else { Err(format!("1.06 became {back}, not 1")) }
}
