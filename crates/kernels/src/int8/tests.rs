use bert4rs_tensor_core::int8::{Int8Map, Int8Products, Int8Rounding};
use bert4rs_tensor_core::{Device, Kind, Tensor};

use super::dots::DotIsa;
use super::product::{product_by_plain, product_on};
use super::quantize::quantize_on;
use super::*;
use crate::cpu::isa::Isa;
use crate::testing::{distance, random as random_of};

const NEAREST: Int8Rounding = Int8Rounding::Nearest;

/// Rows of unlike sizes, a row of zeros and one with an outlier.
fn matrix(rows: i64, cols: i64, kind: Kind) -> Tensor {
    let x = random_of(&[rows, cols], Kind::Float);
    let scales = random_of(&[rows, 1], Kind::Float).exp();
    let _ = scales.get(0).fill_(0.0);
    let x = x * scales;
    let _ = x.get(rows - 1).get(cols / 2).fill_(1000.0);
    x.to_kind(kind)
}

fn rows(x: &Tensor) -> Quantized {
    let [packed] = quantize(x, [Orientation::Rows], NEAREST).unwrap();
    packed
}

fn same(left: &Tensor, right: &Tensor) -> bool {
    left.kind() == right.kind() && left.equal(right)
}

#[test]
fn every_isa_packs_what_the_reference_says() {
    for (r, c) in [(1, 1), (16, 64), (37, 45), (130, 259), (5, 300)] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let x = matrix(r, c, kind);
            let sides = [(Orientation::Rows, x.shallow_clone()), (Orientation::Columns, x.tr())];
            for (orientation, vectors) in sides {
                let (values, inverse) = reference::quantize_rows(&vectors).unwrap();
                for isa in Isa::available() {
                    let [packed] = quantize_on(isa, &x, [orientation], NEAREST).unwrap();
                    let found = packed.values().unwrap().to_kind(Kind::Double);
                    assert!(same(&found, &values), "{isa:?} {r}x{c} {kind:?} {orientation:?}");
                    assert!(same(packed.inverse(), &inverse.view(-1)), "{isa:?} {orientation:?}");
                    let sums = values.sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
                    assert!(same(&packed.sums.to_kind(Kind::Double), &sums));
                }
            }
        }
    }
}

#[test]
fn every_isa_multiplies_to_the_references_bits() {
    for (m, n, k) in [(1, 1, 1), (16, 32, 64), (37, 50, 45), (70, 270, 130), (65, 17, 1030)] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let (x, w) = (matrix(m, k, kind), matrix(n, k, kind));
            let bias = random_of(&[n], kind);
            let [exact_x, exact_w] = [&x, &w].map(|x| reference::quantize_rows(x).unwrap());
            let (x, w) = (rows(&x), rows(&w));
            for bias in [None, Some(&bias)] {
                let expected = reference::product(&exact_x, &exact_w, bias, kind).unwrap();
                for isa in DotIsa::available() {
                    let found = product_on(isa, &x, &w, bias, kind).unwrap();
                    assert!(same(&found, &expected), "{isa:?} {m}x{n}x{k} {kind:?}");
                }
            }
        }
    }
}

/// What instructions that are not here compute with, but for the one instruction.
#[test]
fn the_tiles_of_512_bits_give_the_same() {
    for (m, n, k) in [(1, 1, 1), (40, 33, 45), (70, 270, 130)] {
        let (x, w) = (rows(&matrix(m, k, Kind::Float)), rows(&matrix(n, k, Kind::Float)));
        let expected = product(&x, &w, None, Kind::Float).unwrap();
        assert!(same(&product_by_plain::<8, 2>(&x, &w), &expected));
        assert!(same(&product_by_plain::<16, 1>(&x, &w), &expected));
    }
}

#[test]
fn the_largest_sums_are_exact() {
    let place = (Kind::Float, Device::Cpu);
    let (ones, minus) =
        (Tensor::ones([3, MOST_TERMS], place), Tensor::full([2, MOST_TERMS], -1.0, place));
    for isa in DotIsa::available() {
        let found = product_on(isa, &rows(&ones), &rows(&minus), None, Kind::Float).unwrap();
        assert!((found + MOST_TERMS as f64).abs().max().double_value(&[]) < 0.1, "{isa:?}");
    }
    let longer = rows(&Tensor::ones([1, MOST_TERMS + 1], place));
    let error = product(&longer, &longer, None, Kind::Float).unwrap_err().to_string();
    assert!(error.contains("131072"), "{error}");
}

#[test]
fn what_is_not_finite_makes_its_vector_nan() {
    let (x, w) = (matrix(20, 40, Kind::Float), matrix(8, 40, Kind::Float));
    let w = rows(&w);
    for bad in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
        let x = x.copy();
        let _ = x.get(3).get(7).fill_(bad);
        let y = product(&rows(&x), &w, None, Kind::Float).unwrap();
        assert_eq!(y.get(3).isnan().all().int64_value(&[]), 1);
        assert_eq!(y.isnan().sum(Kind::Int64).int64_value(&[]), 8);
    }
}

#[test]
fn stochastic_rounding_is_right_in_the_mean_and_repeats_itself() {
    let x = Tensor::rand([64, 512], (Kind::Float, Device::Cpu)) * 0.02 + 0.2;
    let _ = x.narrow(1, 0, 1).fill_(127.0);
    let dequantized = |rounding| {
        let packed = |isa| {
            let both = [Orientation::Rows, Orientation::Columns];
            quantize_on(isa, &x, both, rounding).unwrap().map(|part| part.values().unwrap())
        };
        let values = packed(Isa::Portable);
        Isa::available().for_each(|isa| {
            packed(isa).iter().zip(&values).for_each(|(a, b)| assert!(same(a, b), "{isa:?}"));
        });
        values[0].narrow(1, 1, 511).to_kind(Kind::Double).mean(Kind::Double).double_value(&[])
    };
    // All are below a half of the step, so that the nearest integer is 0.
    assert_eq!(dequantized(NEAREST), 0.0);
    let mean = dequantized(Int8Rounding::Stochastic);
    assert!((mean - 0.21).abs() < 0.01, "{mean}");
}

fn random(shape: &[i64], kind: Kind) -> Tensor {
    random_of(shape, kind).set_requires_grad(true)
}

fn grads(y: &Tensor, weights: &Tensor, inputs: &[&Tensor]) -> Vec<Tensor> {
    Tensor::run_backward(&[(y * weights).sum(Kind::Float)], inputs, false, false)
}

#[test]
fn values_and_gradients_of_the_map_are_near_the_exact_ones() {
    let all = [Int8Products::Forward, Int8Products::ForwardBackward, Int8Products::All];
    for (at, products) in all.into_iter().enumerate() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let map = Int8Linear::new(Int8Map { products, rounding: NEAREST });
            let (w, bias) = (random(&[48, 64], kind), random(&[48], kind));
            let x = random(&[5, 7, 64], kind);
            let y = map.forward(&x, &w, Some(&bias)).unwrap();
            assert_eq!((y.size(), y.kind()), (vec![5, 7, 48], kind));
            let exact = x.linear(&w, Some(&bias));
            assert!(distance(&y, &exact) < 0.015, "{products:?}: {}", distance(&y, &exact));
            let weights = random(&[5, 7, 48], kind).detach();
            let found = grads(&y, &weights, &[&x, &w, &bias]);
            let expected = grads(&exact, &weights, &[&x, &w, &bias]);
            // The first of the gradients is of integers from the second choice on, and so forth.
            for (gradient, (found, expected)) in found.iter().zip(&expected).take(2).enumerate() {
                let error = distance(found, expected);
                assert_eq!(error > 1e-3, gradient < at, "{products:?} {kind:?}: {error}");
                assert!(error < 0.015, "{products:?}: {error}");
            }
            assert!(distance(&found[2], &expected[2]) < 1e-2);
        }
    }
}

#[test]
fn only_what_needs_a_gradient_gets_one() {
    let map = Int8Linear::new(Int8Map { products: Int8Products::All, rounding: NEAREST });
    let (x, w) = (random(&[4, 16], Kind::Float), random(&[8, 16], Kind::Float));
    let y = map.forward(&x.detach(), &w, None).unwrap();
    y.sum(Kind::Float).backward();
    assert!(w.grad().defined() && !x.grad().defined());
    let y = map.forward(&x, &w.detach(), None).unwrap();
    y.sum(Kind::Float).backward();
    assert!(x.grad().defined());
    let narrow = random(&[8, 15], Kind::Float);
    let error = map.forward(&x, &narrow, None).unwrap_err().to_string();
    assert!(error.contains("[outputs, 16]"), "{error}");
}

/// `cargo test -p bert4rs-kernels --lib int8_rates -- --ignored --nocapture`
#[test]
#[ignore = "prints rates, of which nothing is asserted; run it on a quiet machine"]
fn int8_rates() {
    let least = |run: &dyn Fn()| {
        let time = |_| {
            let start = std::time::Instant::now();
            run();
            start.elapsed().as_secs_f64()
        };
        (0..12).map(time).fold(f64::MAX, f64::min)
    };
    for (m, k, n) in [
        (2048, 256, 256),
        (2048, 256, 1024),
        (2048, 1024, 256),
        (2048, 768, 768),
        (2048, 768, 3072),
        (2048, 3072, 768),
    ] {
        let (x, w) = (matrix(m, k, Kind::Float), matrix(n, k, Kind::Float));
        let work = 2e-9 * (m * n * k) as f64;
        let float = least(&|| drop(x.linear(&w, None::<&Tensor>)));
        let pack = least(&|| drop(quantize(&x, [Orientation::Rows], NEAREST)));
        let pack_columns = least(&|| drop(quantize(&x, [Orientation::Columns], NEAREST)));
        let (x, w) = (rows(&x), rows(&w));
        let line = format!(
            "{m}x{k}x{n}: FP32 {:.0} GFLOP/s; packing rows {:.2} GB/s, columns {:.2} GB/s",
            work / float,
            4e-9 * (m * k) as f64 / pack,
            4e-9 * (m * k) as f64 / pack_columns,
        );
        let rates: Vec<String> = DotIsa::available()
            .skip(1)
            .map(|isa| {
                let time = least(&|| drop(product_on(isa, &x, &w, None, Kind::Float)));
                format!("{isa:?} {:.0} GOP/s", work / time)
            })
            .collect();
        println!("{line}; {}", rates.join(", "));
    }
}
