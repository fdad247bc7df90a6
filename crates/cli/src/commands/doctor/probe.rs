//! Tries each dtype and implementation on the device, rather than guessing from its name.

use bert4rs_models::gpt::{Gpt, GptConfig, GptInput};
use bert4rs_models::layers::AttentionBackend;
use bert4rs_models::loss::LossOptions;
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::error::catch_torch_error;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind, Tensor, no_grad};

/// Which float dtypes multiply here.
pub(super) fn dtypes(device: Device) -> String {
    let kinds = [
        ("FP64", Kind::Double),
        ("FP32", Kind::Float),
        ("BF16", Kind::BFloat16),
        ("FP16", Kind::Half),
    ];
    list(kinds.map(|(name, kind)| {
        (
            name,
            works(|| {
                let matrix = Tensor::ones([16, 16], (kind, device));
                matrix.matmul(&matrix).sum(Kind::Float).double_value(&[]) == 4096.0
            }),
        )
    }))
}

/// Which FP8 dtypes can be converted to and multiplied here.
pub(super) fn fp8(device: Device) -> String {
    let kinds = [("e4m3", Kind::Float8e4m3fn), ("e5m2", Kind::Float8e5m2)];
    let converts = list(kinds.map(|(name, kind)| (name, fp8_converts(kind, device))));
    let multiplies = works(|| {
        let matrix = Tensor::ones([16, 16], (Kind::Float, device)).to_kind(Kind::Float8e4m3fn);
        let scale = Tensor::ones([1], (Kind::Float, device));
        let none: Option<&Tensor> = None;
        let product = matrix.internal_scaled_mm(
            &matrix.tr(),
            &scale,
            &scale,
            none,
            none,
            Kind::BFloat16,
            false,
        );
        product.to_kind(Kind::Float).sum(Kind::Float).double_value(&[]) == 4096.0
    });
    format!("casts {converts}; scaled products {}", if multiplies { "work" } else { "do not work" })
}

/// Whether a value that FP8 holds exactly survives the way there and back.
pub(super) fn fp8_converts(kind: Kind, device: Device) -> bool {
    works(|| {
        let value = Tensor::from_slice(&[1.5f32]).to_device(device).to_kind(kind);
        value.to_kind(Kind::Float).double_value(&[0]) == 1.5
    })
}

/// Which attention implementations run, with which dtypes, forward and backward, and by which
/// code.
pub(super) fn attention(device: Device) -> String {
    let implementations = [
        ("plain", AttentionImplementation::Plain),
        ("fused", AttentionImplementation::Fused),
        ("own", AttentionImplementation::Own),
        ("math", AttentionImplementation::Math),
        ("flash", AttentionImplementation::Flash),
        ("efficient", AttentionImplementation::Efficient),
        ("cudnn", AttentionImplementation::Cudnn),
        ("varlen", AttentionImplementation::Varlen),
    ];
    let rows = implementations.map(|(name, implementation)| {
        let found = [("FP32", Kind::Float), ("BF16", Kind::BFloat16)].map(|(dtype, kind)| {
            let tier =
                catch_torch_error("probe", || attention_backend(implementation, kind, device));
            match tier.ok().flatten() {
                Some(tier) if falls_back(implementation) => {
                    format!("{dtype} by {}", format!("{tier:?}").to_lowercase())
                }
                Some(_) => dtype.to_owned(),
                None => format!("not {dtype}"),
            }
        });
        format!("{name} {}", found.join(", "))
    });
    rows.join("; ")
}

/// Whether it may be computed by another code than it names.
fn falls_back(implementation: AttentionImplementation) -> bool {
    matches!(implementation, AttentionImplementation::Fused | AttentionImplementation::Varlen)
}

/// Trains an attention of a model for a step; the code that computed it.
fn attention_backend(
    implementation: AttentionImplementation,
    kind: Kind,
    device: Device,
) -> Option<AttentionBackend> {
    implementation.check_device(device).ok()?;
    let mut store = ParamStore::new(device, kind);
    let config = GptConfig {
        vocab_size: 16,
        n_positions: 8,
        n_embd: 64,
        n_layer: 1,
        n_head: 2,
        attn_pdrop: 0.0,
        ..GptConfig::default()
    };
    let model = Gpt::new(&store.root(), &config, implementation).ok()?;
    let ids = Tensor::arange(8, (Kind::Int64, device)).unsqueeze(0);
    let documents = ids.divide_scalar_mode(4, "floor");
    let input = GptInput { mask: Some(&documents), ..GptInput::new(&ids) };
    let loss = model.lm_loss(&input, &ids, &LossOptions::default(), false).ok()?;
    loss.backward();
    let finite = |weight: &Tensor| no_grad(|| weight.grad().isfinite().all().int64_value(&[]) == 1);
    store
        .params_mut()
        .iter()
        .all(|param| finite(&param.weight))
        .then(|| model.attention_backend())?
}

fn works(attempt: impl FnOnce() -> bool) -> bool {
    catch_torch_error("probe", attempt).unwrap_or(false)
}

/// The names that work, and those that don't.
fn list<const N: usize>(found: [(&str, bool); N]) -> String {
    let names = |wanted: bool| -> Vec<&str> {
        found.iter().filter(|(_, works)| *works == wanted).map(|(name, _)| *name).collect()
    };
    match (names(true), names(false)) {
        (yes, no) if no.is_empty() => yes.join(", "),
        (yes, no) if yes.is_empty() => format!("not {}", no.join(", ")),
        (yes, no) => format!("{} (not {})", yes.join(", "), no.join(", ")),
    }
}
