//! Against FP64, and the CUDA kernel against the CPU.

use super::cpu::sum_rows;
use super::*;
use crate::testing::{assert_same_on_one_thread, random};

/// Ids of which some come often, some once and most never.
fn ids(shape: &[i64], entries: i64) -> Tensor {
    let ids = Tensor::randint(entries, shape, (Kind::Int64, Device::Cpu));
    ids.where_scalarother(&random(shape, Kind::Float).gt(-0.5), 3.min(entries - 1))
}

/// The gradient of `w` from `dy`, in FP64.
fn exact(dy: &Tensor, ids: &Tensor, entries: i64, padding: Option<i64>) -> Tensor {
    let features = dy.size()[dy.dim() - 1];
    let dy = dy.to_kind(Kind::Double).view([-1, features]);
    let mut sum = Tensor::zeros([entries, features], (Kind::Double, Device::Cpu));
    sum = sum.index_add(0, &ids.view(-1), &dy);
    if let Some(padding) = padding {
        let _ = sum.get(padding).zero_();
    }
    sum
}

#[test]
fn values_and_gradients_equal_fp64() {
    for (entries, features, padding) in [(1, 1, None), (50, 40, Some(3)), (400, 256, None)] {
        for (kind, tolerance) in [(Kind::Float, 1e-6), (Kind::BFloat16, 4e-3)] {
            let table = random(&[entries, features], kind).set_requires_grad(true);
            let ids = ids(&[5, 61], entries);
            let y = lookup(&table, &ids, padding).unwrap();
            assert!(y.equal(&table.index_select(0, &ids.view(-1)).view([5, 61, features])));
            let dy = random(&y.size(), kind);
            let found = Tensor::run_backward(&[(y * &dy).sum(kind)], &[&table], false, false);
            assert!(found[0].is_sparse());
            let found = found[0].to_dense(None, false).to_kind(Kind::Double);
            let expected = exact(&dy, &ids, entries, padding);
            let error = (found - &expected).norm() / (expected.norm() + 1e-9);
            assert!(error.double_value(&[]) < tolerance, "{entries} {features} {kind:?}");
        }
    }
}

#[test]
fn autograd_adds_its_rows_to_another_gradient() {
    let table = random(&[60, 40], Kind::Float).set_requires_grad(true);
    let ids = ids(&[70], 60);
    let tied = |own: bool| {
        let y = match own {
            true => lookup(&table, &ids, None).unwrap(),
            false => Tensor::embedding(&table, &ids, -1, false, false),
        };
        let loss = y.matmul(&table.tr()).square().sum(Kind::Float);
        let grads = Tensor::run_backward(&[loss], &[&table], false, false);
        grads.into_iter().next().unwrap()
    };
    let (found, expected) = (tied(true), tied(false));
    assert!(!found.is_sparse());
    let error = (&found - &expected).norm() / expected.norm();
    assert!(error.double_value(&[]) < 1e-6);
}

#[test]
fn numbers_that_are_not_finite_stay_in_their_row() {
    let table = random(&[9, 20], Kind::BFloat16).set_requires_grad(true);
    let ids = Tensor::from_slice(&[1i64, 2, 2, 5, 1]);
    let y = lookup(&table, &ids, None).unwrap();
    let dy = random(&[5, 20], Kind::BFloat16);
    let _ = dy.get(2).narrow(0, 19, 1).fill_(f64::INFINITY);
    let found = Tensor::run_backward(&[(y * dy).sum(Kind::Float)], &[&table], false, false);
    let found = found[0].to_dense(None, false);
    assert_eq!(found.isfinite().logical_not().sum(Kind::Int64).int64_value(&[]), 1);
    assert_eq!(found.double_value(&[2, 19]), f64::INFINITY);
}

#[test]
fn nothing_looked_up_has_an_empty_gradient() {
    let table = random(&[9, 20], Kind::Float).set_requires_grad(true);
    for ids in [Tensor::from_slice(&[4i64, 4]), Tensor::from_slice::<i64>(&[])] {
        let y = lookup(&table, &ids, Some(4)).unwrap().sum(Kind::Float);
        let found = Tensor::run_backward(&[y], &[&table], false, false);
        assert_eq!(found[0].to_dense(None, false).abs().sum(Kind::Float).double_value(&[]), 0.0);
    }
}

#[test]
fn every_isa_agrees() {
    let (grad, ids) = (random(&[300, 70], Kind::BFloat16), ids(&[300], 90));
    let run = |isa| sum_rows::<bf16>(isa, &grad, &ids, 90, Some(2)).unwrap();
    let expected = run(Isa::Portable).to_dense(None, false);
    for isa in Isa::available() {
        assert!(run(isa).to_dense(None, false).equal(&expected), "{isa:?}");
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let (grad, ids) = (random(&[300, 70], Kind::Float), ids(&[300], 90));
    let run = || {
        vec![sum_rows::<f32>(Isa::fastest(), &grad, &ids, 90, None).unwrap().to_dense(None, false)]
    };
    assert_same_on_one_thread(run);
}

#[test]
fn other_inputs_are_refused() {
    let table = random(&[9, 20], Kind::Double);
    let ids = Tensor::from_slice(&[1i64]);
    assert!(lookup(&table, &ids, None).is_err());
    let table = table.to_kind(Kind::Float);
    assert!(lookup(&table, &ids.to_kind(Kind::Float), None).is_err());
    assert!(lookup(&table, &Tensor::from_slice(&[9i64]), None).is_err());
}

#[test]
fn emulated_gradients_equal_fp64() {
    for (entries, count, features) in [(3, 1, 1), (3, 200, 40), (50, 300, 136), (900, 97, 7)] {
        for kind in [Kind::Float, Kind::BFloat16] {
            for padding in [None, Some(1)] {
                // Runs that end in a chunk, go on into the next, and over several.
                let ids = Tensor::randint(entries, [count], (Kind::Int64, Device::Cpu));
                let grad = random(&[count, features], kind);
                let found = cuda::backward(&grad, &ids, entries, padding).unwrap();
                let expected = Tensor::zeros([entries, features], (Kind::Double, Device::Cpu))
                    .index_add(0, &ids, &grad.to_kind(Kind::Double));
                if let Some(padding) = padding {
                    let _ = expected.get(padding).zero_();
                }
                let error = (found.to_kind(Kind::Double) - &expected).norm().double_value(&[]);
                let most = 3e-3 * expected.norm().double_value(&[]);
                assert!(error <= most, "{entries} {count} {features}");
            }
        }
    }
}
