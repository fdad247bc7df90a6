//! Bad input ends with exit code 2, one message that says what to do, and nothing half-written.

use std::io::Write;

use crate::models::{write_model, write_tensors};
use crate::support::Sandbox;
use crate::text::{write_bert, write_gpt};

/// Trains with `args` beside a good corpus and expects a message with `parts`; no run is left.
fn check(args: &[&str], parts: &[&str]) {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    sandbox.train(args).refuses(parts);
    assert_eq!(sandbox.list("run"), [""; 0], "nothing is left");
}

/// Trains on a corpus of these bytes and expects a message with the file's name and `parts`.
fn check_corpus(contents: &[u8], parts: &[&str]) {
    let sandbox = Sandbox::new();
    sandbox.write("corpus.txt", contents);
    let outcome = sandbox.train(&[]).refuses(parts);
    assert!(outcome.stderr.contains("corpus.txt"), "{}", outcome.stderr);
    assert_eq!(sandbox.list("run"), [""; 0], "nothing is left");
}

#[test]
fn what_only_a_gpu_has() {
    check(&["--set", "compute.tf32=true"], &["compute.tf32", "no CUDA device", "leave it false"]);
    check(&["--set", "compute.cuda_kernels=all"], &["compute.cuda_kernels", "leave it \"proven\""]);
    check(&["--set", "compute.execution=on"], &["compute.execution", "eager", "cuda_graphs"]);
}

#[test]
fn corpora() {
    check(&["--corpus", "nowhere.txt"], &["nowhere.txt", "No such file"]);
    check_corpus(b"", &["empty"]);
    check_corpus(b"\n\n  \n", &["corpus.txt"]);
    check_corpus(b"text\0text and more text", &["NUL", "expected UTF-8 text"]);
    check_corpus(b"caf\xe9 au lait", &["UTF-8"]);
}

#[test]
fn no_corpus_at_all() {
    Sandbox::new().run(&["train"]).refuses(&["data.corpus", "--corpus PATH"]);
}

#[test]
fn configuration() {
    check(&["--num-heads", "5"], &["--num-heads", "model.num_heads", "5", "32"]);
    check(&["--set", "data.seqlen=64"], &["seqlen", "did you mean seq_len?"]);
    check(&["--set", "seq_len=64"], &["did you mean data.seq_len?"]);
    check(&["--set", "data.seq_len=long"], &["data.seq_len", "\"long\"", "a whole number from 0"]);
    check(&["--set", "seed=-1"], &["seed: -1 is not", "a whole number from 0"]);
    check(&["--set", "seed=18446744073709551615"], &["seed", "to 9223372036854775807"]);
    check(&["--seed", "18446744073709551615"], &["--seed", "9223372036854775807"]);
    check(&["--set", "model.qk_norm=1"], &["model.qk_norm: 1 is not", "true or false"]);
    check(&["--set", "data.corpus=3"], &["data.corpus", "a list"]);
    check(&["--set", "model=3"], &["model: 3", "a section"]);
    check(&["--set", "data.seq_len"], &["key=value"]);
    check(&["--set", "optimizer.adamw.lr=-1"], &["optimizer.adamw.lr", "-1"]);
    check(&["--model", "gtp"], &["--model", "did you mean gpt"]);
    check(
        &["--set", "model.family=gtp"],
        &["model.family", "\"gtp\" is not one of bert, gpt or t5"],
    );
    check(&["--set", "compute.attention=efficient"], &["compute.attention", "it is for GPUs"]);
    check(&["--set", "compute.attention=fast"], &["compute.attention", "flash"]);
    check(&["--set", "compute.attention=own"], &["compute.attention", "multiple of 32"]);
    check(&["--set", "model.norm=batch"], &["model.norm", "layer, rms or published"]);
    check(
        &["--set", "model.positions.kind=rope", "--set", "model.positions.factor=2"],
        &["model.positions", "factor"],
    );
    check(&["--set", "model.kv_heads=3"], &["model.kv_heads", "3", "2"]);
    check(&["--set", "model.t5_version=v1.0"], &["model.t5_version", "only T5"]);
    check(&["--set", "model.head=untied"], &["model.head", "token table"]);
    check(&["--set", "loss.label_smoothing=1"], &["loss.label_smoothing", "below 1"]);
    check(&["--model", "gpt", "--set", "data.mask_rate=0.3"], &["data.mask_rate", "GPT"]);
    check(&["--model", "t5", "--set", "model.biases=none"], &["model.biases", "T5 has none"]);
    check(&["--model", "t5", "--set", "model.dropout=0.1"], &["model.attention_dropout"]);
    check(&["--set", "data.mask_rate=2"], &["data.mask_rate", "between 0 and 1"]);
    check(&["--set", "model.attention_dropout=0.1"], &["compute.attention = \"plain\""]);
    check(&["--model", "t5", "--set", "compute.attention=varlen"], &["compute.attention", "bias"]);
    check(&["--set", "compute.precision=fp8"], &["compute.precision", "fp8", "bf16"]);
    check(&["--model", "t5", "--set", "data.mask_rate=1"], &["data.mask_rate", "0.5"]);
    check(&["--model", "t5", "--seq-len", "4096"], &["data.seq_len", "spans", "data.mean_span"]);
    check(&["--model", "gpt", "--vocab-size", "100"], &["--vocab-size: model.vocab_size", "below"]);
    check(&["--model", "t5", "--set", "compute.attention=flash"], &["compute.attention", "fused"]);
    check(&["--preset", "recomended"], &["did you mean \"recommended\"?"]);
    check(&["--preset", "xyz"], &["there are: baseline, "]);
}

#[test]
fn choices_of_another_type_list_what_there_is() {
    for (key, parts) in [
        ("compute.attention", &["plain, fused, own"][..]),
        ("compute.precision", &["fp32", "bf16", "auto"]),
        ("model.family", &["bert, gpt or t5"]),
        ("model.positions", &["kind", "published, learned, rope or yarn"]),
        ("schedule.decay", &["shape", "constant, linear, cosine"]),
        ("schedule.warmup", &["steps or fraction"]),
    ] {
        for value in ["3", "true", "[1]"] {
            let assignment = format!("{key}={value}");
            let sandbox = Sandbox::new();
            let outcome = sandbox.run(&["doctor", "--memory", "--set", &assignment]).refuses(parts);
            assert!(outcome.stderr.contains(key), "{}", outcome.stderr);
            for word in ["unit variant", "enum", "invalid type"] {
                assert!(!outcome.stderr.contains(word), "serde's words: {}", outcome.stderr);
            }
        }
    }
}

#[test]
fn messages_are_short_and_name_a_key_once() {
    let sandbox = Sandbox::new();
    let long = "x".repeat(20_000);
    for assignment in [
        format!("model.family={long}"),
        format!("model.{long}=1"),
        format!("data.seq_len={long}"),
        format!("compute.device={long}"),
        format!("data.tokenizer=[\"{long}\"]"),
        long.clone(),
    ] {
        let outcome = sandbox.run(&["doctor", "--memory", "--set", &assignment]).refuses(&[]);
        assert!(outcome.stderr.len() < 1000, "{}", outcome.stderr.len());
    }
    let twice = sandbox.run(&["doctor", "--memory", "--set", "model.hiden_size=3"]);
    let message =
        twice.refuses(&["--set model.hiden_size: no such key; did you mean hidden_size?"]);
    assert_eq!(message.stderr.matches("model.hiden_size").count(), 1, "{}", message.stderr);
}

#[test]
fn sizes_that_no_machine_has() {
    for (flags, parts) in [
        (["--batch-size", "4000000000"], ["--batch-size: data.batch_size", "lower it"]),
        (["--vocab-size", "2000000000"], ["--vocab-size: model.vocab_size", "this machine"]),
        (["--seq-len", "2000000000"], ["--seq-len: data.seq_len", "lower it"]),
        (["--num-layers", "1000000000"], ["--num-layers: model.num_layers", "10000"]),
        (["--set", "data.prefetch=4294967295"], ["--set data.prefetch", "lower it"]),
        (["--set", "data.workers=100000"], ["--set data.workers", "threads"]),
        (["--set", "compute.threads=100000"], ["--set compute.threads", "threads"]),
        (["--set", "train.accumulate=4294967295"], ["--set train.accumulate", "lower it"]),
    ] {
        check(&flags, &parts);
    }
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let batches = ["batches", "--count", "18446744073709551615", "--corpus", "corpus.txt"];
    sandbox.run(&[&batches, &["--out", "b.safetensors"][..]].concat()).refuses(&["--count"]);
    sandbox
        .run(&["doctor", "--memory", "--set", "model.num_layers=1000000000"])
        .refuses(&["model.num_layers", "10000"]);
}

#[test]
fn numbers_that_fp32_cannot_hold() {
    for (key, value) in [
        ("model.logit_soft_cap", "1e39"),
        ("optimizer.adamw.eps", "1e-46"),
        ("optimizer.adamw.eps", "1e300"),
        ("optimizer.adamw.lr", "inf"),
        ("optimizer.adamw.lr", "nan"),
        ("loss.z_loss", "1e-300"),
        ("optimizer.clip.max_norm", "1e39"),
    ] {
        check(&["--set", &format!("{key}={value}")], &[key, "FP32"]);
    }
}

#[test]
fn configuration_files() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    sandbox.write("bad.toml", "[model]\nhidden = 3\n");
    sandbox.train(&["--config", "bad.toml", "--corpus", "corpus.txt"]).refuses(&[
        "bad.toml",
        "model.hidden",
        "did you mean hidden_size?",
    ]);
    sandbox.write("broken.toml", "[model\n");
    sandbox
        .train(&["--config", "broken.toml", "--corpus", "corpus.txt"])
        .refuses(&["broken.toml", "line 1"]);
    sandbox.write("marked.toml", "\u{feff}[model]\nhidden = 3\n");
    sandbox.train(&["--config", "marked.toml"]).refuses(&["marked.toml", "did you mean"]);
    sandbox.train(&["--config", "/dev/zero"]).refuses(&["/dev/zero", "NUL"]);
    sandbox
        .train(&["--config", "none.toml", "--corpus", "corpus.txt"])
        .refuses(&["none.toml", "No such file"]);
}

#[test]
fn devices() {
    check(&["--device", "gpu"], &["compute.device", "gpu", "cuda:N"]);
    if bert4rs_tensor_core::device::DeviceChoice::Cuda(7).resolve().is_err() {
        check(&["--device", "cuda:7"], &["cuda:7", "--device cpu"]);
    }
}

#[test]
fn tokenizers() {
    check(&["--tokenizer", "nowhere"], &["nowhere"]);
    let sandbox = Sandbox::new();
    sandbox.corpus();
    sandbox.write("tokenizer.json", "{}");
    sandbox.train(&["--tokenizer", "tokenizer.json"]).refuses(&["tokenizer.json"]);
    // One of 400 tokens for a model of 300.
    sandbox.train(&["--out", "first"]).succeeds();
    sandbox.train(&["--tokenizer", "first", "--vocab-size", "300"]).refuses(&[
        "model.vocab_size",
        "300",
        "400",
        "raise it",
    ]);
}

#[test]
fn places_that_cannot_be_written() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    sandbox.write("file", "");
    sandbox.train(&["--out", "file"]).refuses(&["file", "--out"]);
    sandbox.train(&["--out", "file/run"]).refuses(&["file"]);
    std::fs::create_dir(sandbox.path("mine")).unwrap();
    sandbox.write("mine/thesis.tex", "years of work");
    sandbox.train(&["--out", "mine", "--overwrite"]).refuses(&["neither empty nor a run"]);
    assert_eq!(sandbox.list("mine"), ["thesis.tex"]);
}

#[test]
fn a_shard_that_was_cut_short() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    sandbox.train(&[]).succeeds();
    let datasets = sandbox.list("cache/bert4rs/tokens");
    let dataset = datasets.iter().find(|name| !name.contains('.')).unwrap();
    let folder = format!("cache/bert4rs/tokens/{dataset}");
    let shard = sandbox.list(&folder).into_iter().find(|name| name.contains("train")).unwrap();
    let path = sandbox.path(&format!("{folder}/{shard}"));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
    sandbox.train(&["--out", "second"]).refuses(&[&shard, "delete", dataset]);
    assert_eq!(sandbox.list("second"), [""; 0]);
}

#[test]
fn no_disk_space() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    for (variable, small) in [("XDG_CACHE_HOME", "small-cache"), ("", "small-out")] {
        let Some(_disk) = SmallDisk::mount(sandbox.path(small)) else { return };
        let out = if small == "small-out" { "small-out/run" } else { "run" };
        let outcome = sandbox.train_with(&["--out", out], &[(variable, small)]);
        let needed = if small == "small-out" { "MiB are needed" } else { "is full: preparing" };
        outcome.fails(&[small, needed]);
        assert!(!sandbox.path(&format!("{out}/model.safetensors")).exists(), "no part of a model");
    }
}

/// A file system of 16 KiB, while it lives.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// Mounts one at `folder`; only root may, so that others skip the test and are told.
    fn mount(folder: std::path::PathBuf) -> Option<Self> {
        std::fs::create_dir(&folder).unwrap();
        let mut mount = std::process::Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", "size=16k", "tmpfs"]).arg(&folder).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        let _ = writeln!(std::io::stderr(), "skipped no_disk_space: mounting needs root");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn model_folders() {
    let sandbox = Sandbox::new();
    write_model(&sandbox, "bert", "BertForMaskedLM");
    let run = |folder: &str, parts: &[&str]| {
        let args = ["--input", "bert/model.safetensors", "--output", "out.safetensors"];
        sandbox.run(&[&["forward", "--model", folder], &args[..]].concat()).refuses(parts);
        assert!(!sandbox.path("out.safetensors").exists(), "nothing is left");
    };
    run("nowhere", &["nowhere", "No such file"]);
    run("bert/config.json", &["bert/config.json"]);
    let config = std::fs::read_to_string(sandbox.path("bert/config.json")).unwrap();
    let write = |text: &str| sandbox.write("bert/config.json", text);
    write(&config.replace("BertForMaskedLM", "BartForMaskedLM"));
    run("bert", &["config.json", "BartForMaskedLM", "BertForMaskedLM, "]);
    write(&config.replace("BertForMaskedLM", "GPT2LMHeadModel"));
    run("bert", &["config.json", "GPT2LMHeadModel", "model_type is \"bert\""]);
    write(&config.replace("\"hidden_size\":12", "\"hidden_size\":24"));
    run("bert", &["bert", "[23, 12], expected [23, 24]"]);
    write(&config.replace("\"num_hidden_layers\":2", "\"num_hidden_layers\":3"));
    run("bert", &["num_hidden_layers = 3", "the weights have 2 blocks"]);
    write(&config);
    sandbox.write("bert/model.safetensors", "half");
    run("bert", &["model.safetensors", "not a whole safetensors file"]);
    std::fs::remove_file(sandbox.path("bert/model.safetensors")).unwrap();
    sandbox.write("bert/pytorch_model.bin", b"\x80\x02");
    sandbox.write("in.safetensors", "");
    let args = ["forward", "--model", "bert", "--output", "out.safetensors", "--input"];
    sandbox.run(&[&args[..], &["in.safetensors"]].concat()).refuses(&["in.safetensors"]);
    write_tensors(&sandbox, "in.safetensors", &[]);
    sandbox.run(&[&args[..], &["in.safetensors"]].concat()).refuses(&[
        "pytorch_model.bin",
        "pickle",
        "save_pretrained",
    ]);
    sandbox.run(&[&args[..], &["in.safetensors", "--precision", "fp8"]].concat()).refuses(&[
        "fp8",
        "--precision",
        "fp32, bf16 or auto",
    ]);
    sandbox
        .run(&[&args[..], &["in.safetensors", "--device", "gpu"]].concat())
        .refuses(&["gpu", "cuda:N"]);
}

#[test]
fn prompts_and_how_they_are_continued() {
    let sandbox = Sandbox::new();
    write_gpt(&sandbox);
    let run = |extra: &[&str], parts: &[&str]| {
        let outcome = sandbox.run(&[&["generate", "--model", "gpt"], extra].concat());
        assert_eq!(outcome.stdout, "", "refused before the prompt is shown");
        outcome.refuses(parts);
    };
    let with = |extra: &[&str], parts: &[&str]| run(&[&["--prompt", "a"], extra].concat(), parts);
    run(&[], &["--prompt"]);
    run(&["--prompt-file", "none.txt"], &["none.txt", "No such file"]);
    sandbox.write("empty.txt", "");
    run(&["--prompt-file", "empty.txt"], &["empty.txt", "is empty"]);
    with(&["--temperature", "-1"], &["--temperature", "-1", "above 0"]);
    with(&["--top-k", "0"], &["--top-k: 0", "at least 1"]);
    with(&["--top-p", "1.5"], &["--top-p", "1.5"]);
    with(&["--beams", "0"], &["--beams", "at least 1"]);
    with(&["--beams", "1000000000000"], &["--beams", "this machine has"]);
    with(&["--beams", "2", "--seed", "1"], &["--beams", "--seed"]);
    with(&["--early-stopping"], &["--beams"]);
    with(&["--repetition-penalty", "0"], &["--repetition-penalty", "above 0"]);
    with(&["--max-new-tokens", "49"], &["--max-new-tokens", "49", "at most 48"]);
    run(&["--prompt", &"word ".repeat(60)], &["--max-new-tokens", "at most 0"]);
    std::fs::remove_file(sandbox.path("gpt/merges.txt")).unwrap();
    with(&[], &["gpt", "no tokenizer", "tokenizer.json"]);
    sandbox
        .run(&["fill-mask", "--model", "gpt", "--text", "a"])
        .refuses(&["GPT2LMHeadModel has no head for masked tokens"]);
}

#[test]
fn texts_for_bert() {
    let sandbox = Sandbox::new();
    write_bert(&sandbox);
    let fill = |text: &str, parts: &[&str]| {
        sandbox.run(&["fill-mask", "--model", "bert", "--text", text]).refuses(parts);
    };
    fill("no mask here", &["--text", "\"no mask here\"", "[MASK]"]);
    fill(&"[MASK] ".repeat(40), &["--text", "\"[MASK] [MASK] ", "42 tokens", "at most 24"]);
    sandbox
        .run(&["fill-mask", "--model", "bert", "--text", "a [MASK]", "--top-k", "0"])
        .refuses(&["--top-k: 0", "at least 1"]);
    let embed = |extra: &[&str], parts: &[&str]| {
        let args = ["embed", "--model", "bert", "--text", "a"];
        sandbox.run(&[&args[..], extra].concat()).refuses(parts);
    };
    embed(&["--pooling", "median"], &["--pooling", "median", "weightedmean"]);
    embed(&["--prompt-name", "query"], &["--prompt-name", "query", "no prompts"]);
    let inside = ["--output", "bert/vectors.safetensors"];
    embed(&inside, &["bert/vectors.safetensors", "model's folder"]);
    embed(&["--batch-size", "0"], &["--batch-size", "at least 1"]);
    embed(&["--output", "out.npy"], &["out.npy", ".safetensors or .json"]);
    sandbox.write("out.json", "mine");
    embed(&["--output", "out.json"], &["out.json", "--overwrite"]);
    assert_eq!(std::fs::read(sandbox.path("out.json")).unwrap(), b"mine");
}
