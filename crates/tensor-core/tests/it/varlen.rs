//! Attention within documents: where they start and end, and the reference and flash attention
//! against a mask.

use bert4rs_tensor_core::attention::{
    AttentionImplementation, AttentionOptions, MaskView, Scores, attend,
};
use bert4rs_tensor_core::testing::cuda_or_skip;
use bert4rs_tensor_core::varlen::{AttentionWindow, VarlenLayout, flash, plain, supports};
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};

/// Documents of a row, of unlike length; numbers begin anew in the second row, and the same number
/// ends one row and begins the next.
const ROWS: [[i64; 9]; 3] =
    [[0, 0, 0, 1, 1, 2, 2, 2, 2], [2, 2, 2, 2, 2, 2, 2, 2, 2], [4, 3, 3, 3, -1, 7, 7, 8, 9]];

fn documents(rows: &[[i64; 9]]) -> Tensor {
    Tensor::from_slice(rows.as_flattened()).view([rows.len() as i64, 9])
}

#[test]
fn bounds_are_where_documents_change_and_rows_end() {
    let packing = VarlenLayout::of(&documents(&ROWS)).unwrap().unwrap();
    let bounds = Vec::<i32>::try_from(packing.bounds()).unwrap();
    assert_eq!(bounds, [0, 3, 5, 9, 18, 19, 22, 23, 25, 26, 27]);
    assert_eq!((packing.bounds().kind(), packing.longest()), (Kind::Int, 9));
    let alone = VarlenLayout::of(&Tensor::from_slice(&[5i64]).view([1, 1])).unwrap().unwrap();
    assert_eq!(Vec::<i32>::try_from(alone.bounds()).unwrap(), [0, 1]);
    assert_eq!(alone.longest(), 1);
}

#[test]
fn a_document_in_two_pieces_has_no_bounds() {
    let parted = documents(&[[0, 0, 1, 1, 0, 2, 2, 2, 2]]);
    assert!(VarlenLayout::of(&parted).unwrap().is_none());
    for wrong in [parted.to_kind(Kind::Int), parted.flatten(0, -1), parted.narrow(1, 0, 0)] {
        let error = VarlenLayout::of(&wrong).unwrap_err().to_string();
        assert!(error.contains("document numbers") && error.contains("Int64"), "{error}");
    }
}

/// `[b, 1, t, t]`, by its definition.
fn mask(document_bt: &Tensor, reach: AttentionWindow) -> Tensor {
    let t = document_bt.size()[1];
    let place = Tensor::arange(t, (Kind::Int64, document_bt.device()));
    let back_tt = place.unsqueeze(1) - place.unsqueeze(0);
    let mut mask = document_bt.unsqueeze(2).eq_tensor(&document_bt.unsqueeze(1)).unsqueeze(1);
    if reach.causal {
        mask = mask.logical_and(&back_tt.ge(0));
    }
    if let Some(window) = reach.window {
        mask = mask.logical_and(&back_tt.abs().lt(window));
    }
    mask
}

const REACHES: [AttentionWindow; 5] = [
    AttentionWindow { causal: false, window: None },
    AttentionWindow { causal: true, window: None },
    AttentionWindow { causal: false, window: Some(2) },
    AttentionWindow { causal: true, window: Some(3) },
    AttentionWindow { causal: true, window: Some(100) },
];

type Heads = [Tensor; 3];

/// Views of one product, as after a joint map: queries of 4 heads, keys and values of 2.
fn heads(b: i64, t: i64, features: i64, kind: Kind, device: Device) -> Heads {
    let joint = Tensor::randn([b, t, 8 * features], (Kind::Float, device)).to_kind(kind);
    let parts = joint.split_with_sizes([4 * features, 2 * features, 2 * features], -1);
    [0, 1, 2].map(|index| {
        let part = parts[index].detach().set_requires_grad(true);
        part.unflatten(2, [-1, features]).transpose(1, 2)
    })
}

/// The result, and the gradients of its weighted sum, in FP32.
fn run(x: &Heads, compute: impl FnOnce(&Heads) -> Result<Tensor>) -> Vec<Tensor> {
    let y = compute(x).unwrap();
    assert_eq!(y.size(), x[0].size());
    let place = (Kind::Float, y.device());
    let weights = Tensor::arange(y.numel() as i64, place).sin().to_kind(y.kind());
    let loss = (y.reshape(-1) * weights).sum(Kind::Float);
    let grads = Tensor::run_backward(&[loss], &x.each_ref(), false, false);
    std::iter::once(y).chain(grads).map(|found| found.to_kind(Kind::Float)).collect()
}

/// By a mask and the plain formula.
fn masked(x: &Heads, document_bt: &Tensor, reach: AttentionWindow) -> Vec<Tensor> {
    let options = AttentionOptions { implementation: AttentionImplementation::Plain, dropout: 0.0 };
    let mask = mask(document_bt, reach);
    let scores = Scores { visible: MaskView::Mask(&mask), scale: Some(0.3) };
    run(x, |[q, k, v]| attend(q, k, v, &scores, &options))
}

#[track_caller]
fn assert_close(found: &[Tensor], wanted: &[Tensor], tolerance: f64) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        let off = (found - wanted).abs().max().double_value(&[]);
        let size = wanted.abs().max().double_value(&[]);
        assert!(size > 0.0 && off <= tolerance * size, "off by {off:.1e} of {size:.1e}");
    }
}

#[test]
fn document_by_document_equals_a_mask() {
    let document_bt = documents(&ROWS);
    let packing = VarlenLayout::of(&document_bt).unwrap().unwrap();
    for reach in REACHES {
        let x = heads(3, 9, 8, Kind::Float, Device::Cpu);
        let found = run(&x, |[q, k, v]| plain([q, k, v], &packing, reach, 0.3));
        assert_close(&found, &masked(&x, &document_bt, reach), 1e-5);
    }
}

#[test]
fn flash_attention_is_refused_off_a_gpu() {
    let packing = VarlenLayout::of(&documents(&ROWS)).unwrap().unwrap();
    let [q, k, v] = heads(3, 9, 8, Kind::BFloat16, Device::Cpu);
    assert!(!supports(&q));
    let error = flash([&q, &k, &v], &packing, REACHES[0], 0.3).unwrap_err().to_string();
    assert!(error.contains("CUDA") && error.contains("mask of documents"), "{error}");
    let error = AttentionImplementation::Varlen.check_device(Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("it is for GPUs"), "{error}");
}

#[test]
fn flash_attention_equals_document_by_document_on_a_gpu() {
    let Some(device) = cuda_or_skip() else { return };
    let long = Tensor::arange(300, (Kind::Int64, Device::Cpu)).divide_scalar_mode(130, "floor");
    let cases = [(documents(&ROWS), 3, 9), (long.view([1, 300]), 1, 300)];
    for (document_bt, b, t) in cases {
        let document_bt = document_bt.to_device(device);
        let packing = VarlenLayout::of(&document_bt).unwrap().unwrap();
        for (kind, tolerance) in [(Kind::BFloat16, 2e-2), (Kind::Half, 4e-3)] {
            for reach in REACHES {
                let x = heads(b, t, 64, kind, device);
                let found = run(&x, |[q, k, v]| flash([q, k, v], &packing, reach, 0.3));
                // The same rounded inputs, in FP32.
                let exact = x.each_ref().map(|x| x.detach().to_kind(Kind::Float));
                let exact = exact.map(|x| x.set_requires_grad(true));
                let wanted = run(&exact, |[q, k, v]| plain([q, k, v], &packing, reach, 0.3));
                assert_close(&found, &wanted, tolerance);
            }
        }
    }
}
