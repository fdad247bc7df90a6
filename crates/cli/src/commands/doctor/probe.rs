//! Tries each dtype and implementation on the device, rather than guessing from its name.

use bert4rs_tensor_core::attention::{self, Implementation, Options};
use bert4rs_tensor_core::error::contain;
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

/// Which attention implementations run, with which dtypes, forward and backward.
pub(super) fn attention(device: Device) -> String {
    let implementations = [("plain", Implementation::Plain), ("fused", Implementation::Fused)];
    let kinds = [("FP32", Kind::Float), ("BF16", Kind::BFloat16)];
    let rows = implementations.map(|(name, implementation)| {
        let found =
            list(kinds.map(|(name, kind)| {
                (name, works(|| attention_trains(implementation, kind, device)))
            }));
        format!("{name} {found}")
    });
    rows.join("; ")
}

fn attention_trains(implementation: Implementation, kind: Kind, device: Device) -> bool {
    let q = Tensor::ones([1, 2, 8, 16], (kind, device)).set_requires_grad(true);
    let options = Options { implementation, dropout: 0.0 };
    let Ok(out) = attention::attention(&q, &q, &q, None, &options) else { return false };
    let grad = Tensor::run_backward(&[out.sum(Kind::Float)], &[&q], false, false);
    no_grad(|| grad[0].isfinite().all().int64_value(&[]) == 1)
}

fn works(attempt: impl FnOnce() -> bool) -> bool {
    contain("probe", attempt).unwrap_or(false)
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
