//! Attention against the plain formula in FP64, forward and backward.

use bert4rs_kernels::attention::{self, AttentionArgs, VisibleKeys};
use bert4rs_tensor_core::attention as plain;
use bert4rs_tensor_core::{Device, Kind, Tensor, random};

use crate::support::{assert_close, double, leaf, tolerance};

/// What one case is made of.
#[derive(Debug, Clone, Copy)]
struct Case {
    batch: i64,
    heads: i64,
    groups: i64,
    queries: i64,
    keys: i64,
    features: i64,
    documents: bool,
    causal: bool,
    window: Option<i64>,
    bias: bool,
}

const PLAIN: Case = Case {
    batch: 2,
    heads: 2,
    groups: 2,
    queries: 70,
    keys: 70,
    features: 32,
    documents: false,
    causal: false,
    window: None,
    bias: false,
};

/// Documents of uneven length, `[b, n]`.
fn documents(batch: i64, n: i64, rows: i64) -> Tensor {
    let of = |row: i64, place: i64| (place * rows / n.max(1) + row) / 2;
    let numbers: Vec<i64> = (0..batch).flat_map(|b| (0..n).map(move |i| of(b, i))).collect();
    Tensor::from_slice(&numbers).view([batch, n])
}

/// True where a query sees a key, `[b, 1, t, s]`.
fn mask(case: &Case, of: Option<(&Tensor, &Tensor)>) -> Tensor {
    let place = (Kind::Int64, Device::Cpu);
    let query = Tensor::arange(case.queries, place).unsqueeze(1) + (case.keys - case.queries);
    let back = query - Tensor::arange(case.keys, place).unsqueeze(0);
    let mut mask = back.ones_like().to_kind(Kind::Bool);
    if case.causal {
        mask = mask.logical_and(&back.ge(0));
    }
    if let Some(window) = case.window {
        mask = mask.logical_and(&back.abs().lt(window));
    }
    let mask = mask.unsqueeze(0).unsqueeze(0);
    match of {
        None => mask,
        Some((queries, keys)) => {
            let same = queries.unsqueeze(2).eq_tensor(&keys.unsqueeze(1)).unsqueeze(1);
            mask.logical_and(&same)
        }
    }
}

/// `[1, h, t, s]` of `[h, t + s - 1]`.
fn spread(bias: &Tensor, case: &Case) -> Tensor {
    bias.unfold(1, case.keys, 1).flip([1]).unsqueeze(0)
}

fn reference(inputs: &[Tensor], case: &Case, of: Option<(&Tensor, &Tensor)>) -> Tensor {
    let hidden = mask(case, of).logical_not();
    let zero = Tensor::zeros([1], (Kind::Double, Device::Cpu));
    let added = match inputs.get(3) {
        Some(bias) => spread(bias, case).masked_fill(&hidden, f64::NEG_INFINITY),
        None => zero.masked_fill(&hidden, f64::NEG_INFINITY),
    };
    let options = plain::AttentionOptions {
        implementation: plain::AttentionImplementation::Plain,
        dropout: 0.0,
    };
    let scores = plain::Scores { visible: plain::MaskView::Mask(&added), scale: Some(0.3) };
    plain::attend(&inputs[0], &inputs[1], &inputs[2], &scores, &options).expect("plain attention")
}

fn check(case: Case, kind: Kind) {
    random::seed(7);
    // As models have them: views of `[b, t, h, d]`.
    let heads = |n, h| leaf(&[case.batch, n, h, case.features], kind).transpose(1, 2);
    let mut inputs = vec![
        heads(case.queries, case.heads),
        heads(case.keys, case.groups),
        heads(case.keys, case.groups),
    ];
    if case.bias {
        inputs.push(leaf(&[case.heads, case.queries + case.keys - 1], kind));
    }
    let of = case
        .documents
        .then(|| (documents(case.batch, case.queries, 5), documents(case.batch, case.keys, 5)));
    let of = of.as_ref().map(|(queries, keys)| (queries, keys));
    let visible = VisibleKeys { documents: of, causal: case.causal, window: case.window };
    let scores = AttentionArgs { visible, bias: inputs.get(3), scale: 0.3 };
    let found = attention::attend(&inputs[0], &inputs[1], &inputs[2], &scores);
    let found = found.expect("attention");
    let doubles: Vec<Tensor> = inputs.iter().map(double).collect();
    let expected = reference(&doubles, &case, of);
    let name = format!("{kind:?} {case:?}");
    assert_close(&name, &found, &expected, tolerance(kind));

    let weight = leaf(&found.size(), kind).detach();
    let grads = Tensor::run_backward(&[(&found * &weight).sum(Kind::Float)], &inputs, false, false);
    let loss = (&expected * weight.to_kind(Kind::Double)).sum(Kind::Double);
    let expected = Tensor::run_backward(&[loss], &doubles, false, false);
    for (i, (found, expected)) in grads.iter().zip(&expected).enumerate() {
        assert_close(&format!("gradient {i} of {name}"), found, expected, 1.5 * tolerance(kind));
    }
}

fn check_both(case: Case) {
    check(case, Kind::Float);
    check(case, Kind::BFloat16);
}

#[test]
fn every_length_around_a_block() {
    for (queries, keys) in [(1, 1), (1, 65), (31, 33), (32, 64), (64, 63), (65, 129), (200, 70)] {
        check_both(Case { queries, keys, ..PLAIN });
    }
}

#[test]
fn documents_of_uneven_length() {
    for (queries, keys) in [(33, 33), (130, 130), (300, 300), (100, 170)] {
        check_both(Case { queries, keys, documents: true, ..PLAIN });
    }
}

/// Long enough to be cut between documents.
#[test]
fn documents_in_long_rows() {
    let case = Case { queries: 1200, keys: 1200, heads: 1, groups: 1, documents: true, ..PLAIN };
    check_both(case);
    check_both(Case { causal: true, window: Some(150), ..case });
}

#[test]
fn causal_and_windows_with_and_without_documents() {
    for documents in [false, true] {
        check_both(Case { causal: true, documents, queries: 150, keys: 150, ..PLAIN });
        let window = Some(17);
        check_both(Case { window, documents, queries: 150, keys: 150, ..PLAIN });
        check_both(Case { window, causal: true, documents, queries: 150, keys: 150, ..PLAIN });
    }
    check_both(Case { causal: true, queries: 40, keys: 140, ..PLAIN });
}

#[test]
fn a_bias_by_distance_and_its_gradient() {
    check_both(Case { bias: true, ..PLAIN });
    check_both(Case { bias: true, queries: 65, keys: 130, ..PLAIN });
    check_both(Case { bias: true, causal: true, documents: true, ..PLAIN });
}

#[test]
fn grouped_heads_of_every_size() {
    for (heads, groups, features) in [(4, 2, 64), (3, 1, 96), (2, 2, 128)] {
        check_both(Case { heads, groups, features, queries: 40, keys: 40, ..PLAIN });
    }
}

#[test]
fn a_nan_reaches_those_who_see_it_and_no_other_head() {
    let case = Case { documents: true, queries: 128, keys: 128, ..PLAIN };
    let kind = Kind::Float;
    let make = || leaf(&[2, 2, 128, 32], kind).detach();
    let (q, k, v) = (make(), make(), make());
    let _ = v.get(0).get(0).get(5).fill_(f64::NAN);
    let numbers = documents(2, 128, 5);
    let visible = VisibleKeys { documents: Some((&numbers, &numbers)), ..VisibleKeys::default() };
    let scores = AttentionArgs { visible, bias: None, scale: 0.3 };
    let found = attention::attend(&q, &k, &v, &scores).unwrap();
    let sees = mask(&case, Some((&numbers, &numbers))).get(0).get(0).select(1, 5);
    let is_nan = found.isnan();
    let missed = is_nan.get(0).get(0).select(1, 0).logical_not().logical_and(&sees);
    assert_eq!(missed.any().int64_value(&[]), 0);
    assert_eq!(is_nan.get(0).get(1).any().int64_value(&[]), 0);
    assert_eq!(is_nan.get(1).any().int64_value(&[]), 0);
}

#[test]
fn a_query_that_sees_no_key_gets_0() {
    let x = leaf(&[1, 1, 128, 32], Kind::Float);
    // The second half of the queries is of a document that no key is of.
    let of_keys = Tensor::zeros([1, 128], (Kind::Int64, Device::Cpu));
    let of_queries = Tensor::arange(128, (Kind::Int64, Device::Cpu)).ge(70).to_kind(Kind::Int64);
    let of_queries = of_queries.unsqueeze(0);
    let documents = Some((&of_queries, &of_keys));
    let scores = AttentionArgs {
        visible: VisibleKeys { documents, ..VisibleKeys::default() },
        bias: None,
        scale: 1.0,
    };
    let found = attention::attend(&x, &x, &x, &scores).unwrap();
    assert!(found.narrow(2, 0, 70).ne(0.0).all().int64_value(&[]) == 1);
    assert!(found.narrow(2, 70, 58).eq(0.0).all().int64_value(&[]) == 1);
    let grads = Tensor::run_backward(&[found.sum(Kind::Float)], &[&x], false, false);
    assert_eq!(grads[0].isnan().any().int64_value(&[]), 0);
}

#[test]
fn refuses_what_it_cannot_do() {
    let x = |features: i64, kind| Tensor::zeros([1, 2, 8, features], (kind, Device::Cpu));
    let scores = AttentionArgs { visible: VisibleKeys::default(), bias: None, scale: 1.0 };
    let odd = x(24, Kind::Float);
    assert!(!attention::supports(&odd, &odd, &odd));
    assert!(attention::attend(&odd, &odd, &odd, &scores).is_err());
    let (q, k) = (x(32, Kind::Float), x(64, Kind::Float));
    assert!(attention::attend(&q, &k, &k, &scores).is_err());
    let bias = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
    let biased = AttentionArgs { bias: Some(&bias), ..scores };
    assert!(attention::attend(&q, &q, &q, &biased).is_err());
}
