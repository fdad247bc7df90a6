//! Against the definition, value by value, and the CUDA kernels against the CPU.

use super::*;
use crate::testing::{random as random_of, same_bits};

const FORMATS: [Format; 2] = [Format::E4M3, Format::E5M2];

fn random(rows: i64, cols: i64, kind: Kind) -> Tensor {
    let x = random_of(&[rows, cols], Kind::Float) * 3.0;
    let spread = random_of(&[rows, 1], Kind::Float).exp();
    (x * spread).to_kind(kind)
}

fn bytes(scaled: &Scaled) -> Vec<u8> {
    let flat = scaled.values.view_dtype(Kind::Uint8).contiguous().view(-1);
    Vec::<u8>::try_from(flat).unwrap()
}

/// The definition, value by value: `factors` by row.
fn encoded(x: &Tensor, format: Format, factors: &[f32]) -> Vec<u8> {
    let cols = x.size()[1] as usize;
    let values = Vec::<f32>::try_from(x.to_kind(Kind::Float).contiguous().view(-1)).unwrap();
    let at = |i: usize| factors[(i / cols).min(factors.len() - 1)];
    values.iter().enumerate().map(|(i, v)| format.encode_reference(v * at(i))).collect()
}

fn factors(amax: &Tensor, format: Format) -> Vec<f32> {
    let amax = Vec::<f32>::try_from(amax.to_kind(Kind::Float).contiguous().view(-1)).unwrap();
    amax.into_iter().map(|amax| format.factor(amax)).collect()
}

#[test]
fn every_factor_on_every_isa_equals_the_definition() {
    for (rows, cols) in [(1, 1), (3, 5), (64, 64), (70, 130), (129, 200)] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let x = random(rows, cols, kind);
            let x_cr = x.transpose(0, 1).contiguous();
            for (format, isa) in
                FORMATS.into_iter().flat_map(|f| Isa::available().map(move |i| (f, i)))
            {
                let whole = factors(&x.abs().max(), format);
                let cast = cast_on(isa, &x, format, Factor::Tensor, true).unwrap();
                assert_eq!(bytes(&cast.straight), encoded(&x, format, &whole));
                let transposed = cast.transposed.unwrap();
                assert_eq!(bytes(&transposed), encoded(&x_cr, format, &whole));
                assert_eq!(transposed.values.size(), [cols, rows]);

                let given = Tensor::from_slice(&[whole[0] * 2.0]);
                let cast = cast_on(isa, &x, format, Factor::Given(&given), false).unwrap();
                assert_eq!(bytes(&cast.straight), encoded(&x, format, &[whole[0] * 2.0]));
                assert!(cast.transposed.is_none());

                let cast = cast_on(isa, &x, format, Factor::Row, true).unwrap();
                let by_row = factors(&x.abs().amax([1], true), format);
                assert_eq!(bytes(&cast.straight), encoded(&x, format, &by_row));
                let by_col = factors(&x_cr.abs().amax([1], true), format);
                assert_eq!(bytes(&cast.transposed.unwrap()), encoded(&x_cr, format, &by_col));
            }
        }
    }
}

#[test]
fn what_comes_back_is_within_half_a_step() {
    let x = random(40, 72, Kind::Float);
    for (format, step) in [(Format::E4M3, 1.0 / 16.0), (Format::E5M2, 1.0 / 8.0)] {
        for factor in [Factor::Tensor, Factor::Row] {
            let cast = cast(&x, format, factor, true).unwrap();
            let amax = f64::try_from(cast.amax.view([])).unwrap();
            for (scaled, x) in [
                (&cast.straight, x.shallow_clone()),
                (cast.transposed.as_ref().unwrap(), x.transpose(0, 1)),
            ] {
                let error = (scaled.dequantize().unwrap() - &x).abs();
                // Half a step of the number itself, or of the least normal number.
                let least = amax * 2f64.powi(-6) / f64::from(Format::E4M3.max());
                let bound = (x.abs() + least) * step * 1.01;
                assert!(bool::try_from(error.le_tensor(&bound).all()).unwrap());
            }
        }
    }
}

#[test]
fn overflow_is_counted_and_the_largest_magnitude_seen() {
    let x =
        Tensor::from_slice(&[1.0f32, -500.0, 449.0, f32::INFINITY, f32::NAN, 464.5]).view([2, 3]);
    let one = Tensor::from_slice(&[1.0f32]);
    let found = cast(&x, Format::E4M3, Factor::Given(&one), false).unwrap();
    assert_eq!(i64::try_from(found.overflows.view([])).unwrap(), 3, "-500, infinity, 464.5");
    assert_eq!(f64::try_from(found.amax.view([])).unwrap(), 500.0);
    let found = cast(&x, Format::E4M3, Factor::Tensor, false).unwrap();
    assert_eq!(i64::try_from(found.overflows.view([])).unwrap(), 1, "infinity alone");
    assert!(
        f64::try_from(found.straight.values.to_kind(Kind::Float).isnan().sum(Kind::Int64)).unwrap()
            == 1.0
    );
}

#[test]
fn what_is_no_dense_matrix_is_refused() {
    let refused = |x: &Tensor| cast(x, Format::E4M3, Factor::Row, false).unwrap_err().to_string();
    let x = random(4, 6, Kind::Float);
    assert!(refused(&x.transpose(0, 1)).contains("not contiguous"));
    assert!(refused(&x.view(-1)).contains("two axes"));
    assert!(refused(&x.to_kind(Kind::Double)).contains("dtype"));
    let two = Tensor::from_slice(&[1.0f32, 2.0]);
    let error = cast(&x, Format::E4M3, Factor::Given(&two), false).unwrap_err().to_string();
    assert!(error.contains("one value"), "{error}");
}

#[test]
fn emulated_casts_have_the_bits_of_the_cpu() {
    let given = Tensor::from_slice(&[3.25f32]);
    for (rows, cols) in [(1, 1), (3, 5), (64, 64), (70, 130)] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let x = random_of(&[rows, cols], kind) * 100.0;
            for format in [Format::E4M3, Format::E5M2] {
                for factor in [Factor::Tensor, Factor::Row, Factor::Given(&given)] {
                    let expected = cast(&x, format, factor, true).unwrap();
                    let found = cuda::cast(&x, format, factor, true).unwrap();
                    let both_copies = [found.transposed.unwrap(), expected.transposed.unwrap()];
                    for [found, expected] in [both_copies, [found.straight, expected.straight]] {
                        assert!(same_bits(&found.values, &expected.values), "{rows} {cols}");
                        assert!(same_bits(&found.inverse, &expected.inverse));
                    }
                    assert!(same_bits(&found.amax, &expected.amax));
                    assert!(same_bits(&found.overflows, &expected.overflows));
                }
            }
        }
    }
}
