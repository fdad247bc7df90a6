//! A sharded optimizer on virtual ranks, threads of this process, equals the one of one process.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier, Mutex};

use bert4rs_kernels::weight::join_tensor;
use bert4rs_optim::muon::{MatrixSplit, SplitRows};
use bert4rs_optim::sharding::ShardedOptimizer;
use bert4rs_optim::{ClipConfig, ClipScope, Error, Masters, Optimizer, OptimizerConfig};
use bert4rs_tensor_core::distributed::{ProcessGroup, ReduceOp, Solo, Work};
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Kind, Result, Tensor, no_grad};

use crate::{distance, grads, model};

/// A thread that stands for a rank.
#[derive(Debug, Clone)]
struct VirtualRank {
    rank: usize,
    posts: Arc<Mutex<Vec<Option<Tensor>>>>,
    barrier: Arc<Barrier>,
}

impl VirtualRank {
    fn group(size: usize) -> Vec<Self> {
        let posts = Arc::new(Mutex::new((0..size).map(|_| None).collect()));
        let barrier = Arc::new(Barrier::new(size));
        let make = |rank| Self { rank, posts: Arc::clone(&posts), barrier: Arc::clone(&barrier) };
        (0..size).map(make).collect()
    }

    /// What all ranks bring, in their order.
    fn exchange(&self, own: &Tensor) -> Vec<Tensor> {
        self.posts.lock().unwrap()[self.rank] = Some(own.copy());
        self.barrier.wait();
        let all = self.posts.lock().unwrap().iter().flatten().map(Tensor::copy).collect();
        self.barrier.wait();
        all
    }
}

impl ProcessGroup for VirtualRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.posts.lock().unwrap().len()
    }

    fn all_reduce(&self, tensor: &mut Tensor, op: ReduceOp) -> Result<Work> {
        let all = Tensor::stack(&self.exchange(tensor), 0);
        tensor.copy_(&match op {
            ReduceOp::Sum => all.sum_dim_intlist(0i64, false, all.kind()),
            ReduceOp::Max => all.amax(0, false),
            ReduceOp::Min => all.amin(0, false),
        });
        Ok(Work::done())
    }

    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<Work> {
        let all = self.exchange(tensor);
        tensor.copy_(&all[root]);
        Ok(Work::done())
    }

    fn all_gather(&self, output: &mut Tensor, input: &Tensor) -> Result<Work> {
        no_grad(|| output.copy_(&Tensor::cat(&self.exchange(input), 0)));
        Ok(Work::done())
    }

    fn all_to_all(&self, output: &mut Tensor, input: &Tensor) -> Result<Work> {
        let part = input.size()[0] / self.size() as i64;
        let of_me = |other: &Tensor| other.narrow(0, part * self.rank as i64, part);
        let parts: Vec<Tensor> = self.exchange(input).iter().map(of_me).collect();
        output.copy_(&Tensor::cat(&parts, 0));
        Ok(Work::done())
    }

    fn barrier(&self) -> Result<()> {
        self.barrier.wait();
        Ok(())
    }
}

/// What a rank, or one process, ends with.
struct End {
    weights: Vec<Tensor>,
    masters: Vec<Tensor>,
    state: BTreeMap<String, Tensor>,
    bytes: u64,
}

/// Gradients of step `step` on `rank` of `size`, which add up to those of one process: rank 0 has
/// those of `words.weight` alone, in part; nobody has those of `key.weight` in step 1.
fn grads_of(params: &[Param], step: i64, rank: usize, size: usize) -> Vec<Tensor> {
    let mut grads = grads(params, step);
    for (grad, param) in grads.iter_mut().zip(params) {
        match param.name.as_str() {
            "key.weight" if step == 1 => *grad = Tensor::new(),
            "words.weight" if rank > 0 => *grad = Tensor::new(),
            "words.weight" => {}
            // A power of two, so that parts add up exactly.
            _ => *grad = &*grad / size as f64,
        }
    }
    if step == 2 && rank == size - 1 {
        let _ = grads[0].get(2).fill_(f64::NAN);
    }
    grads
}

/// Runs `steps` from `start`, if given, on `size` threads; the end of each.
fn run_on(
    size: usize,
    config: &OptimizerConfig,
    kind: Kind,
    steps: std::ops::Range<i64>,
    start: Option<&End>,
) -> Vec<End> {
    let run = |group: &VirtualRank, mut params: Vec<Param>, state: Option<BTreeMap<_, _>>| {
        let mut optimizer = ShardedOptimizer::new(group, config, &mut params).unwrap();
        if let Some(state) = state {
            optimizer.load_state(&state).unwrap();
        }
        for step in steps.clone() {
            let grads = grads_of(&params, step, group.rank, size);
            let report = optimizer.step(group, &mut params, &grads, 0.9).unwrap();
            assert_eq!(report.skipped, step == 2);
        }
        End {
            weights: params.iter().map(|param| param.weight.detach().copy()).collect(),
            masters: optimizer.gather_masters(group).unwrap(),
            state: optimizer.state(group).unwrap(),
            bytes: optimizer.allocated_bytes().unwrap(),
        }
    };
    std::thread::scope(|scope| {
        let ranks = VirtualRank::group(size).into_iter().map(|group| {
            let params = restored(kind, start);
            let copy = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.copy());
            let state = start.map(|end| end.state.iter().map(copy).collect());
            scope.spawn(move || run(&group, params, state))
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// The model, with the weights and masters of `start`.
fn restored(kind: Kind, start: Option<&End>) -> Vec<Param> {
    let mut params = model(kind);
    let Some(start) = start else { return params };
    for (index, param) in params.iter_mut().enumerate() {
        no_grad(|| param.weight.copy_(&start.weights[index]));
        let residual = start.state.get(&format!("{}.bf16_residual", param.name));
        param.master = match (start.masters.get(index), residual) {
            (Some(master), _) => Some(master.copy()),
            (None, Some(low)) => Some(join_tensor(&param.weight.detach(), low).unwrap()),
            (None, None) => None,
        };
    }
    params
}

fn run_alone(config: &OptimizerConfig, kind: Kind, steps: std::ops::Range<i64>) -> End {
    let mut params = model(kind);
    let mut optimizer = Optimizer::new(config.clone(), &mut params).unwrap();
    for step in steps {
        let grads = grads_of(&params, step, 0, 1);
        optimizer.step(&mut params, &grads, 0.9).unwrap();
    }
    End {
        weights: params.iter().map(|param| param.weight.detach().copy()).collect(),
        masters: params
            .iter()
            .filter_map(|param| param.master.as_ref())
            .map(Tensor::copy)
            .collect(),
        state: optimizer.state().unwrap(),
        bytes: 0,
    }
}

fn configs() -> Vec<OptimizerConfig> {
    let mut split = OptimizerConfig::normuon(0.02, 1e-3);
    split.clip = Some(ClipConfig { max_norm: 0.5, scope: ClipScope::All });
    if let Some(muon) = &mut split.muon {
        muon.splits = vec![MatrixSplit { names: "query*".into(), rows: SplitRows::Parts(3) }];
    }
    let residual =
        OptimizerConfig { masters: Masters::Bf16Residual, ..OptimizerConfig::normuon(0.02, 1e-3) };
    vec![OptimizerConfig::adamw(1e-3), OptimizerConfig::muon(0.02, 1e-3), split, residual]
}

fn dtypes(config: &OptimizerConfig) -> Vec<Kind> {
    match config.masters {
        Masters::Fp32 => vec![Kind::Float, Kind::Double, Kind::BFloat16],
        Masters::Bf16Residual => vec![Kind::BFloat16],
    }
}

#[test]
fn virtual_ranks_equal_one_process() {
    for config in configs() {
        for kind in dtypes(&config) {
            let alone = run_alone(&config, kind, 0..6);
            for size in [1, 2, 4, 8, 64] {
                let ends = run_on(size, &config, kind, 0..6, None);
                for end in &ends {
                    assert!(end.weights.iter().zip(&ends[0].weights).all(|(a, b)| a.equal(b)));
                    let names: Vec<_> = end.state.keys().collect();
                    assert_eq!(names, alone.state.keys().collect::<Vec<_>>());
                }
                // The norm is added up in another order, and a polar factor magnifies a last bit.
                let magnified = kind == Kind::Float && config.muon.is_some();
                let tolerance = match kind {
                    Kind::Double => 1e-14,
                    _ if magnified => 5e-6,
                    _ => 1e-6,
                };
                let pairs = ends[0].weights.iter().zip(&alone.weights);
                for (found, expected) in pairs.chain(ends[0].masters.iter().zip(&alone.masters)) {
                    // A BF16 weight rounds to the other side now and then.
                    let bf16 = found.kind() == Kind::BFloat16;
                    let off = distance(found, expected);
                    assert!(
                        off < if bf16 { 8e-3 } else { tolerance },
                        "{config:?} {kind:?} {size}: {off}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_run_goes_on_at_the_same_bits_on_as_many_ranks_and_nearly_so_on_others() {
    for config in configs() {
        for kind in dtypes(&config) {
            let unbroken = run_on(2, &config, kind, 0..6, None);
            let first = &run_on(2, &config, kind, 0..3, None)[0];
            let same = &run_on(2, &config, kind, 3..6, Some(first))[0];
            let weights = same.weights.iter().zip(&unbroken[0].weights);
            for (found, expected) in
                weights.chain(same.state.values().zip(unbroken[0].state.values()))
            {
                assert!(found.equal(expected), "{config:?} {kind:?}");
            }
            for size in [1, 4] {
                let other = &run_on(size, &config, kind, 3..6, Some(first))[0];
                let exact = kind != Kind::BFloat16;
                for (found, expected) in other.weights.iter().zip(&unbroken[0].weights) {
                    let off = distance(found, expected);
                    assert!(off < if exact { 5e-6 } else { 8e-3 }, "{config:?} {kind:?}: {off}");
                }
            }
        }
    }
}

#[test]
fn each_rank_holds_its_share_of_the_states() {
    let config = OptimizerConfig::normuon(0.02, 1e-3);
    let bytes = |size| {
        let ends = run_on(size, &config, Kind::BFloat16, 0..1, None);
        ends.iter().map(|end| end.bytes).max().unwrap()
    };
    let (alone, shared) = (bytes(1), bytes(2));
    // Counters and NorMuon's few mean squares are not divided evenly.
    assert!(shared as f64 <= 0.5 * alone as f64 + 200.0, "{shared} of {alone}");
}

#[test]
fn a_state_of_another_model_is_refused_by_name() {
    let config = OptimizerConfig::normuon(0.02, 1e-3);
    let mut params = model(Kind::Float);
    let mut optimizer = ShardedOptimizer::new(&Solo, &config, &mut params).unwrap();
    let mut refusal = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut state = optimizer.state(&Solo).unwrap();
        change(&mut state);
        optimizer.load_state(&state).unwrap_err().to_string()
    };
    let missing = refusal(&|state| {
        state.remove("key.weight.momentum_buffer");
    });
    assert!(missing.contains("key.weight.momentum_buffer: is missing"), "{missing}");
    let more = refusal(&|state| {
        state.insert("x.exp_avg".into(), Tensor::from(1.0));
    });
    assert!(more.contains("x.exp_avg: belongs to no parameter"), "{more}");
    let shape = refusal(&|state| {
        state.insert("norm.weight.exp_avg".into(), Tensor::from_slice(&[1f32]));
    });
    assert!(shape.contains("is [1], expected [8]"), "{shape}");
}

#[test]
fn parameters_of_two_dtypes_and_splits_that_match_nothing_are_refused() {
    let mut params = model(Kind::Float);
    params[1].weight = params[1].weight.to_kind(Kind::Double);
    let config = OptimizerConfig::adamw(1e-3);
    let error = ShardedOptimizer::new(&Solo, &config, &mut params).unwrap_err();
    assert!(matches!(&error, Error::Parameter { name, .. } if name == "key.weight"), "{error}");
    let mut config = OptimizerConfig::muon(0.02, 1e-3);
    if let Some(muon) = &mut config.muon {
        muon.splits = vec![MatrixSplit { names: "none".into(), rows: SplitRows::Parts(3) }];
    }
    let error = ShardedOptimizer::new(&Solo, &config, &mut model(Kind::Float)).unwrap_err();
    assert!(error.to_string().contains("matches no parameter of Muon"), "{error}");
}
