//! Groups of several processes. Each rank is this binary, started again with [`rank_process`]
//! alone; this process serves the store, as a launcher does.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bert4rs_tensor_core::distributed::{
    Facts, Gloo, GlooOptions, GradientExchange, Launch, ProcessGroup, ReduceOp, Solo, Store, agree,
    all_reduce_sum, gather, reduce_scatter_sum, sum_counts,
};
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor, set_num_threads};

const TIMEOUT: Duration = Duration::from_secs(60);

/// What a rank does: its name, for how many ranks, and the time-out of its group.
struct Scenario {
    name: &'static str,
    timeout: Duration,
    checks: bool,
    body: fn(&Gloo, &Store) -> Result<()>,
}

const SCENARIOS: [Scenario; 7] = [
    Scenario { name: "collectives", timeout: TIMEOUT, checks: false, body: collectives },
    Scenario { name: "sums", timeout: TIMEOUT, checks: false, body: sums },
    Scenario { name: "gradients", timeout: TIMEOUT, checks: false, body: gradients },
    Scenario { name: "disagree", timeout: TIMEOUT, checks: false, body: disagree },
    Scenario { name: "mismatch", timeout: TIMEOUT, checks: true, body: mismatch },
    Scenario { name: "killed", timeout: TIMEOUT, checks: false, body: endless },
    Scenario { name: "hangs", timeout: Duration::from_secs(2), checks: false, body: hang },
];

#[test]
#[ignore = "other tests start it as a rank"]
fn rank_process() {
    let variable = |name: &str| env::var(name).ok();
    let Some(launch) = Launch::from_variables(variable).unwrap() else { return };
    let name = variable("SCENARIO").unwrap();
    let Scenario { timeout, checks, body, .. } =
        SCENARIOS.iter().find(|scenario| scenario.name == name).unwrap();
    set_num_threads(1);
    let store = launch.store(TIMEOUT).unwrap();
    let options = GlooOptions {
        rank: launch.rank,
        size: launch.size,
        address: Some("127.0.0.1".into()),
        timeout: *timeout,
        checks: *checks,
    };
    let group = Gloo::new(&store, options).unwrap();
    if let Err(error) = body(&group, &store) {
        println!("FAILED: {error}");
    }
    println!("done");
}

/// Starts `size` ranks of a scenario. The store lives as long as they.
fn start(name: &str, size: usize) -> (Store, Vec<Child>) {
    let store = Store::serve(0, TIMEOUT).unwrap();
    let start = |rank: usize| {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "distributed::rank_process", "--ignored", "--nocapture"])
            .envs([("SCENARIO", name), ("MASTER_ADDR", "127.0.0.1")])
            .envs(
                [("RANK", rank), ("WORLD_SIZE", size), ("MASTER_PORT", store.port().into())]
                    .map(|(name, value)| (name, value.to_string())),
            )
            .env("TORCHELASTIC_USE_AGENT_STORE", "True")
            .env("TORCH_CPP_LOG_LEVEL", "ERROR")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children = (0..size).map(start).collect();
    (store, children)
}

/// Waits for a rank's end and returns what it printed.
fn output(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[track_caller]
fn assert_all_done(name: &str, size: usize) {
    let (_store, children) = start(name, size);
    for (rank, child) in children.into_iter().enumerate() {
        let output = output(child);
        assert!(output.contains("done") && !output.contains("FAILED"), "rank {rank}: {output}");
    }
}

#[test]
fn collectives_give_what_they_say_on_2_and_4_ranks() {
    for size in [2, 4] {
        assert_all_done("collectives", size);
    }
}

#[test]
fn sums_have_the_same_bits_on_all_ranks_and_are_in_rank_order() {
    for size in [2, 4] {
        assert_all_done("sums", size);
    }
}

#[test]
fn gradients_are_summed_whoever_lacks_some() {
    for size in [2, 3] {
        assert_all_done("gradients", size);
    }
}

#[test]
fn ranks_that_would_do_something_else_are_refused_on_all_ranks() {
    assert_all_done("disagree", 3);
}

#[test]
fn checks_find_sizes_that_differ() {
    let (_store, children) = start("mismatch", 2);
    for child in children {
        let output = output(child);
        assert!(output.contains("FAILED") && output.contains("done"), "{output}");
    }
}

#[test]
fn a_killed_rank_is_named_by_all_others_within_ten_seconds() {
    for killed in [0, 2] {
        let (_store, mut children) = start("killed", 3);
        let mut child = children.remove(killed);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("under way")));
        child.kill().unwrap();
        let since = Instant::now();
        child.wait().unwrap();
        for other in children {
            let output = output(other);
            let named = format!("rank {killed} ended or hangs");
            assert!(output.contains(&named), "{output}");
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    }
}

#[test]
fn a_rank_that_hangs_is_named_after_the_time_out() {
    let (_store, mut children) = start("hangs", 3);
    let mut hanging = children.remove(1);
    for other in children {
        let output = output(other);
        assert!(output.contains("rank 1 ended or hangs"), "{output}");
    }
    hanging.kill().unwrap();
    let mut rest = String::new();
    hanging.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    hanging.wait().unwrap();
    assert!(!rest.contains("done"));
}

#[test]
fn nobody_at_the_store_is_an_error_in_time() {
    let since = Instant::now();
    let error = Store::connect("127.0.0.1", 1, Duration::from_secs(2)).unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1"), "{error}");
    assert!(since.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_store_holds_values_and_counts() {
    let server = Store::serve(0, Duration::from_millis(300)).unwrap();
    let client = Store::connect("127.0.0.1", server.port(), Duration::from_millis(300)).unwrap();
    let inner = client.with_prefix("run").unwrap();
    inner.set("key", b"v\0lue").unwrap();
    assert_eq!(server.get("run/key").unwrap(), b"v\0lue");
    assert!(!inner.contains("other").unwrap() && inner.contains("key").unwrap());
    assert_eq!((server.add("n", 2).unwrap(), client.add("n", 3).unwrap()), (2, 5));
    assert!(matches!(client.get("never").unwrap_err(), Error::Torch { .. }));
    assert!(client.set("a\0b", b"").is_err(), "a zero byte in a key");
}

#[test]
fn one_process_alone_copies_and_waits_for_nobody() {
    let input = Tensor::arange(6, (Kind::Float, Device::Cpu));
    let mut output = input.zeros_like();
    Solo.all_gather(&mut output, &input).unwrap().wait().unwrap();
    assert!(output.equal(&input));
    let mut sum = input.copy();
    Solo.all_reduce(&mut sum, ReduceOp::Sum).unwrap().wait().unwrap();
    all_reduce_sum(&Solo, &mut sum).unwrap();
    assert!(sum.equal(&input) && reduce_scatter_sum(&Solo, &input).unwrap().equal(&input));
    let matrix = input.view([2, 3]);
    let refused = Solo.all_gather(&mut output, &matrix).unwrap_err().to_string();
    assert!(refused.contains("expected [n], contiguous"), "{refused}");
}

// What ranks do.

/// Values that differ by rank, flat.
fn values(rank: usize, count: i64, kind: Kind) -> Tensor {
    let place = Tensor::arange(count, (Kind::Double, Device::Cpu));
    ((place * 0.37 + rank as f64 * 1.3).sin() * 3.0).to_kind(kind)
}

fn collectives(group: &Gloo, _: &Store) -> Result<()> {
    let (rank, size) = (group.rank(), group.size());
    let all: Vec<usize> = (0..size).collect();
    for kind in [Kind::Float, Kind::BFloat16, Kind::Double, Kind::Int64] {
        let count = 3 * size as i64;
        let own = values(rank, count, kind);
        let of_all: Vec<Tensor> = all.iter().map(|&rank| values(rank, count, kind)).collect();
        let mut largest = own.copy();
        group.all_reduce(&mut largest, ReduceOp::Max)?.wait()?;
        let expected = Tensor::stack(&of_all, 0).amax(0, false);
        assert!(largest.equal(&expected), "{kind:?}");

        let mut from_last = own.copy();
        group.broadcast(&mut from_last, size - 1)?.wait()?;
        assert!(from_last.equal(&of_all[size - 1]));

        assert!(gather(group, &own)?.equal(&Tensor::cat(&of_all, 0)));

        let mut parts = own.zeros_like();
        group.all_to_all(&mut parts, &own)?.wait()?;
        let expected: Vec<Tensor> =
            of_all.iter().map(|other| other.narrow(0, 3 * rank as i64, 3)).collect();
        assert!(parts.equal(&Tensor::cat(&expected, 0)));
    }
    // Works hold their tensors, and dropping one waits.
    let works: Vec<_> = (0..4)
        .map(|_| group.all_reduce(&mut values(rank, 1000, Kind::Float), ReduceOp::Sum))
        .collect::<Result<_>>()?;
    drop(works);
    let uneven = values(rank, size as i64 + 1, Kind::Float);
    assert!(group.all_to_all(&mut uneven.zeros_like(), &uneven).is_err());
    group.barrier()
}

fn sums(group: &Gloo, _: &Store) -> Result<()> {
    let (rank, size) = (group.rank(), group.size());
    for kind in [Kind::Float, Kind::BFloat16, Kind::Double, Kind::Int64] {
        // Few values go to all; more are scattered and gathered, with padding.
        for count in [1, 1000, 5001] {
            let wide = if kind == Kind::BFloat16 { Kind::Float } else { kind };
            let mut expected = values(0, count, kind).to_kind(wide);
            for other in 1..size {
                expected += values(other, count, kind).to_kind(wide);
            }
            let mut sum = values(rank, count, kind);
            all_reduce_sum(group, &mut sum)?;
            assert!(sum.equal(&expected.to_kind(kind)), "{kind:?} {count}");
        }
        let input = values(rank, 2 * size as i64, kind);
        let part = reduce_scatter_sum(group, &input)?;
        let whole: Tensor = (0..size)
            .map(|rank| values(rank, 2 * size as i64, kind).to_kind(part.kind()))
            .reduce(|sum, other| sum + other)
            .unwrap();
        assert!(part.equal(&whole.narrow(0, 2 * rank as i64, 2)), "{kind:?}");
    }
    assert_eq!(sum_counts(group, [rank as i64, 1])?, [(size * (size - 1) / 2) as i64, size as i64]);
    Ok(())
}

/// Gradient `index` of `rank`: the first everywhere, the second on rank 0 alone and in BF16, the
/// third nowhere, the fourth in FP32 on rank 0 and in BF16 elsewhere.
fn gradient(rank: usize, index: usize) -> Tensor {
    let of = |shape: &[i64], kind| values(rank + index, shape.iter().product(), kind).view(shape);
    match (index, rank) {
        (0, _) => of(&[70, 80], Kind::Float),
        (1, 0) => of(&[5], Kind::BFloat16),
        (3, 0) => of(&[3, 2], Kind::Float),
        (3, _) => of(&[3, 2], Kind::BFloat16),
        _ => Tensor::new(),
    }
}

fn gradients(group: &Gloo, _: &Store) -> Result<()> {
    let (rank, size) = (group.rank(), group.size());
    let shapes = vec![vec![70, 80], vec![5], vec![4, 4], vec![3, 2]];
    let expected = |index: usize| -> Option<Tensor> {
        let parts = (0..size).map(|rank| gradient(rank, index)).filter(Tensor::defined);
        parts.reduce(|sum, part| sum + part)
    };
    for bucket_values in [1, 1 << 20] {
        let exchange = GradientExchange::new(shapes.clone(), bucket_values);
        let mut grads: Vec<Tensor> = (0..4).map(|index| gradient(rank, index)).collect();
        exchange.all_reduce(group, &mut grads)?;
        for (index, grad) in grads.iter().enumerate() {
            match expected(index) {
                None => assert!(!grad.defined()),
                Some(sum) => assert!(grad.equal(&sum) && grad.kind() == sum.kind(), "{index}"),
            }
        }
    }
    let mut wrong = vec![Tensor::zeros([2], (Kind::Float, Device::Cpu))];
    assert!(GradientExchange::new(vec![vec![3]], 1).all_reduce(group, &mut wrong).is_err());
    Ok(())
}

fn disagree(group: &Gloo, store: &Store) -> Result<()> {
    let (rank, size) = (group.rank(), group.size());
    let facts = |seed: &str| -> Facts {
        BTreeMap::from([("version", "0.1"), ("seed", seed)].map(|(a, b)| (a.into(), b.into())))
    };
    agree(&store.with_prefix("same")?, rank, size, &facts("1"))?;
    let own = facts(if rank == 1 { "2" } else { "1" });
    let error = agree(&store.with_prefix("unlike")?, rank, size, &own).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Disagreement { .. }), "{text}");
    assert!(text.contains("differ in seed") && text.contains("rank 1 has 2"), "{text}");
    // Nobody leaves before all have read.
    group.barrier()
}

fn mismatch(group: &Gloo, _: &Store) -> Result<()> {
    let mut tensor = values(0, 4 + group.rank() as i64, Kind::Float);
    group.all_reduce(&mut tensor, ReduceOp::Sum)?.wait()
}

#[expect(clippy::print_stdout, reason = "the test waits for this line before it kills a rank")]
fn endless(group: &Gloo, _: &Store) -> Result<()> {
    for round in 0.. {
        all_reduce_sum(group, &mut values(group.rank(), 10_000, Kind::Float))?;
        if round == 20 {
            println!("under way");
        }
    }
    Ok(())
}

fn hang(group: &Gloo, _: &Store) -> Result<()> {
    group.barrier()?;
    if group.rank() == 1 {
        std::thread::sleep(TIMEOUT);
    }
    all_reduce_sum(group, &mut values(group.rank(), 10_000, Kind::Float))
}
