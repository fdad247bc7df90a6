//! Classes of processors that a run keeps to, and products of 8-bit integers.

use bert4rs_tensor_core::cpu::CpuFeatures;
use bert4rs_tensor_core::cpu_isa::CpuIsa;
use bert4rs_train::summary::Summary;

use crate::support::{Outcome, Sandbox};

fn playable() -> Vec<CpuIsa> {
    CpuIsa::playable(CpuFeatures::of_machine()).collect()
}

#[test]
fn every_class_that_is_here_can_be_played_and_trains() {
    for isa in playable() {
        let sandbox = Sandbox::new();
        sandbox.corpus();
        let shown = sandbox.run(&["doctor", "--cpu-isa", isa.name()]).succeeds().stdout;
        for (name, value) in isa.environment() {
            assert!(shown.contains(&format!("{name}={value}")), "{shown}");
        }
        let uses = if isa < CpuIsa::Avx512 { "libtorch uses AVX2" } else { "libtorch uses AVX512" };
        assert!(shown.contains(uses), "{shown}");
        let flags = ["--preset", "fastest", "--cpu-isa", isa.name()];
        let shown = sandbox.train(&flags).succeeds().stdout;
        assert!(shown.contains(&format!("limited to {}", isa.name())), "{shown}");
        let config = std::fs::read_to_string(sandbox.path("run/config.toml")).unwrap();
        assert!(config.contains(&format!("cpu_isa = \"{}\"", isa.name())), "{config}");
    }
}

#[test]
fn a_class_that_is_not_here_is_refused_by_its_key() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let unknown = ["avx3", "avx512-vnni"];
    sandbox.train(&["--cpu-isa", "avx3"]).refuses(&["compute.cpu_isa", unknown[0], unknown[1]]);
    sandbox.run(&["doctor", "--cpu-isa", "avx3"]).refuses(&["--cpu-isa", unknown[0], unknown[1]]);
    let of_environment = |isa: &str| {
        let mut command = sandbox.command(&["doctor"]);
        Outcome::new(command.env("BERT4RS_CPU_ISA", isa).output().unwrap())
    };
    of_environment("avx3").refuses(&["BERT4RS_CPU_ISA", "avx3"]);
    let missing = CpuIsa::ALL.into_iter().find(|isa| !playable().contains(isa));
    let Some(missing) = missing.map(CpuIsa::name) else { return };
    let assignment = format!("compute.cpu_isa={missing}");
    sandbox.train(&["--set", &assignment]).refuses(&["compute.cpu_isa", missing, "has no"]);
    sandbox.run(&["doctor", "--cpu-isa", missing]).refuses(&["--cpu-isa", missing, "has no"]);
    of_environment(missing).refuses(&[missing, "has no"]);
}

#[test]
fn integers_of_8_bits_train_every_family_to_nearly_the_same_loss() {
    for family in ["bert", "gpt", "t5"] {
        let sandbox = Sandbox::new();
        sandbox.corpus();
        let loss = |out: &str, set: &[&str]| {
            let mut flags = vec!["--model", family, "--preset", "fastest", "--out", out];
            flags.extend(set.iter().flat_map(|assignment| ["--set", assignment]));
            let shown = sandbox.train(&flags).succeeds().stdout;
            let is_said = shown.contains("INT8       all products");
            assert_eq!(is_said, out != "exact", "{shown}");
            let text = std::fs::read_to_string(sandbox.path(out).join("summary.json")).unwrap();
            serde_json::from_str::<Summary>(&text).unwrap().final_loss
        };
        let exact = loss("exact", &["compute.int8.products=off"]);
        let all = loss("all", &["compute.int8.products=all"]);
        let chance = ["compute.int8.products=all", "compute.int8.rounding=stochastic"];
        // Chance is the same code for each family.
        let by_chance = (family == "bert").then(|| loss("chance", &chance));
        for found in [Some(all), by_chance].into_iter().flatten() {
            assert_ne!(found, exact, "{family}: nothing was rounded");
            assert!((found - exact).abs() < 0.01 * exact, "{family}: {found} for {exact}");
        }
    }
}

#[test]
fn choices_about_8_bits_that_do_nothing_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let check = |set: &[&str], parts: &[&str]| {
        let flags: Vec<&str> = set.iter().flat_map(|assignment| ["--set", assignment]).collect();
        sandbox.train(&flags).refuses(parts);
    };
    check(&["compute.int8.heads=true"], &["compute.int8.heads", "forward_backward"]);
    check(&["compute.int8.rounding=stochastic"], &["compute.int8.rounding", "off"]);
    let forward = "compute.int8.products=forward";
    check(&[forward, "compute.int8.rounding=stochastic"], &["compute.int8.rounding", "all"]);
    check(&[forward, "compute.fp8.scaling=row"], &["compute.int8.products", "compute.fp8.scaling"]);
    check(&["compute.int8.products=some"], &["compute.int8.products", "forward_backward"]);
    let both =
        ["compute.backends.own=[\"attention\"]", "compute.backends.libtorch=[\"attention\"]"];
    check(&both, &["compute.backends.libtorch", "one of the lists"]);
}
