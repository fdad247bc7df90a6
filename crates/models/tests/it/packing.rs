//! Documents of packed rows, as bounds and as a mask: the same attention.

use bert4rs_models::mask::AttentionMask;
use bert4rs_tensor_core::attention::{AttentionImplementation, AttentionOptions, Scores, attend};
use bert4rs_tensor_core::varlen::{AttentionWindow, plain};
use bert4rs_tensor_core::{Device, Kind, Tensor};

const CPU: Device = Device::Cpu;

fn joined(window: AttentionWindow, queries: i64, mask: &Tensor) -> AttentionMask {
    AttentionMask::new(window, [queries, mask.size()[1]], Some(mask), CPU)
}

fn windows() -> impl Iterator<Item = AttentionWindow> {
    let windows = [None, Some(1), Some(3)];
    let both = [false, true];
    windows
        .into_iter()
        .flat_map(move |window| both.map(|causal| AttentionWindow { causal, window }))
}

#[test]
fn documents_by_bounds_equal_documents_by_a_mask() {
    let document_bt = Tensor::from_slice(&[0i64, 0, 0, 1, 1, 2, 7, 7, 7, 7, 7, 8]).view([2, 6]);
    let [q, k, v] = [4, 2, 2].map(|heads| Tensor::randn([2, heads, 6, 8], (Kind::Float, CPU)));
    let options = AttentionOptions { implementation: AttentionImplementation::Plain, dropout: 0.0 };
    for window in windows() {
        let mask = joined(window, 6, &document_bt);
        let (packing, within) = mask.packing().unwrap().unwrap();
        let found = plain([&q, &k, &v], packing, within, 0.3).unwrap();
        let scores = Scores { visible: mask.borrow(Kind::Float), scale: Some(0.3) };
        let wanted = attend(&q, &k, &v, &scores, &options).unwrap();
        let off = (found - wanted).abs().max().double_value(&[]);
        assert!(off < 1e-5, "{window:?} is off by {off:.1e}");
    }
}

#[test]
fn what_bounds_do_not_say_needs_a_mask() {
    let document_bt = Tensor::from_slice(&[0i64, 0, 1, 1]).view([1, 4]);
    assert!(joined(AttentionWindow::ALL, 4, &document_bt).packing().unwrap().is_some());
    let parted = Tensor::from_slice(&[0i64, 1, 0, 1]).view([1, 4]);
    assert!(joined(AttentionWindow::ALL, 4, &parted).packing().unwrap().is_none(), "in two pieces");
    assert!(
        joined(AttentionWindow::ALL, 1, &document_bt).packing().unwrap().is_none(),
        "a last query"
    );
    let boolean = document_bt.ne(0).view([1, 1, 1, 4]);
    let mask = |mask| AttentionMask::new(AttentionWindow::ALL, [4, 4], mask, CPU);
    assert!(mask(Some(&boolean)).packing().unwrap().is_none(), "a boolean mask");
    assert!(mask(None).packing().unwrap().is_none(), "no documents");
}
