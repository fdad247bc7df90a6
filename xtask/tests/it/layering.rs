//! Which crate may use which: held against what cargo sees.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{Dependency, DependencyKind, Metadata, MetadataCommand};

use crate::workspace::{assert_none, root};

/// The crates from the lowest to the highest. Each uses only those before it.
pub(crate) const LAYERS: [&str; 8] =
    ["charts", "tensor-core", "kernels", "optim", "models", "data", "train", "cli"];

/// Stands beside the layers and uses none of them but [`SHARED`]: it drives the program as a
/// process.
const XTASK: &str = "xtask";

/// Text from numbers, for the reports of both: the lowest layer, which uses nothing.
const SHARED: &str = "charts";

/// Measures the layers, and so may use all of them.
const BENCHES: &str = "benches";

/// The bindings to libtorch. They have one door into the workspace.
const BINDINGS: [&str; 2] = ["tch", "torch-sys"];
const DOOR: &str = "tensor-core";
/// Made for programs that have `tch` already: its example and doc test are such programs.
const FOR_TCH_PROGRAMS: &str = "optim";

/// A workspace crate, by its name without `bert4rs-`, and the names of what it uses in whatever
/// way: to run, to build or to test.
type Edges = BTreeMap<String, BTreeSet<String>>;

/// Of the workspace and all that it is built of.
pub(crate) fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml"));
    // Without this, cargo would fetch what only other systems need.
    command.other_options(["--filter-platform".to_owned(), host()]);
    command.exec().unwrap()
}

fn host() -> String {
    let rustc = std::process::Command::new("rustc").arg("-vV").output().unwrap();
    let text = String::from_utf8(rustc.stdout).unwrap();
    text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

fn short(name: &str) -> String {
    name.strip_prefix("bert4rs-").unwrap_or(name).to_owned()
}

fn edges(metadata: &Metadata) -> Edges {
    let uses = |package: &cargo_metadata::Package| {
        let shows_tch = |dependency: &Dependency| {
            short(&package.name) == FOR_TCH_PROGRAMS
                && dependency.kind == DependencyKind::Development
                && dependency.name == "tch"
        };
        let own = package.dependencies.iter().filter(|dependency| !shows_tch(dependency));
        own.map(|dependency| short(&dependency.name)).collect()
    };
    let packages = metadata.workspace_packages();
    packages.iter().map(|package| (short(&package.name), uses(package))).collect()
}

/// The edges that break the order.
fn violations(edges: &Edges) -> Vec<String> {
    let mut violations = Vec::new();
    for (name, uses) in edges {
        let layer = LAYERS.iter().position(|layer| layer == name);
        if layer.is_none() && name != XTASK && name != BENCHES {
            violations.push(format!("{name} is in no layer: give it a place in LAYERS"));
        }
        for used in uses {
            let is_binding = BINDINGS.contains(&used.as_str());
            if is_binding && name != DOOR {
                violations.push(format!("{name} uses {used}, which only {DOOR} may"));
            }
            let is_member = edges.contains_key(used);
            let used_layer = LAYERS.iter().position(|layer| layer == used);
            let allowed = match (layer, used_layer) {
                (Some(layer), Some(used)) => used < layer,
                (None, Some(_)) => name == BENCHES || (name == XTASK && used == SHARED),
                _ => !is_member,
            };
            if !allowed {
                violations.push(format!("{name} uses {used}, which is not below it"));
            }
        }
    }
    violations
}

/// All packages that a workspace crate needs, directly or not.
fn reachable(metadata: &Metadata, from: &str) -> BTreeSet<String> {
    let resolve = metadata.resolve.as_ref().unwrap();
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let packages = metadata.workspace_packages();
    let start = packages.iter().find(|package| short(&package.name) == from).unwrap();
    let mut open = vec![&start.id];
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            open.extend(&nodes[id].dependencies);
        }
    }
    seen.into_iter().map(|id| metadata[id].name.to_string()).collect()
}

#[test]
fn crates_use_only_the_layers_below() {
    let edges = edges(&metadata());
    for layer in LAYERS {
        assert!(edges.contains_key(layer), "the crate {layer} is gone: take it out of LAYERS");
    }
    assert_none(&violations(&edges));
}

#[test]
fn xtask_builds_without_libtorch() {
    let reached = reachable(&metadata(), XTASK);
    assert!(reached.contains("clap"), "the search finds dependencies: {reached:?}");
    let torch: Vec<_> =
        reached.iter().filter(|name| BINDINGS.contains(&name.as_str())).cloned().collect();
    assert_none(&torch);
    // The search could find them: the layers do need them.
    assert!(reachable(&metadata(), DOOR).contains("torch-sys"));
}

#[test]
fn each_broken_rule_is_found() {
    let check = |name: &str, used: &str, expected: usize| {
        let mut edges: Edges = LAYERS.map(|layer| (layer.to_owned(), BTreeSet::new())).into();
        edges.insert(XTASK.to_owned(), BTreeSet::new());
        edges.insert(BENCHES.to_owned(), BTreeSet::new());
        edges.entry(name.to_owned()).or_default().insert(used.to_owned());
        let found = violations(&edges);
        assert_eq!(found.len(), expected, "{name} -> {used}: {found:?}");
    };
    check("models", "kernels", 0);
    check("cli", "train", 0);
    check("benches", "optim", 0);
    check("tensor-core", "tch", 0);
    check("xtask", "clap", 0);
    check("xtask", "charts", 0);
    check("train", "charts", 0);
    check("charts", "tensor-core", 1);
    check("kernels", "models", 1);
    check("models", "models", 1);
    check("models", "tch", 1);
    check("benches", "torch-sys", 1);
    check("xtask", "train", 1);
    check("train", "xtask", 1);
    check("data", "benches", 1);
    check("newcomer", "serde", 1);
}
