//! What others' crates may be, and what ours must have to be published: held against `deny.toml`
//! and cargo's metadata, so that it needs no tool and no network.

use std::fs;

use cargo_metadata::{Metadata, Package};

use crate::layering::metadata;
use crate::workspace::{assert_none, root};

/// The licences that `deny.toml` allows.
fn allowed() -> Vec<String> {
    let text = fs::read_to_string(root().join("deny.toml")).unwrap();
    let deny: toml::Table = toml::from_str(&text).unwrap();
    let names = deny["licenses"]["allow"].as_array().unwrap();
    names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// Why a licence, as a package states it, is not allowed.
fn refusal(licence: Option<&str>, allowed: &[String]) -> Option<String> {
    let Some(licence) = licence else { return Some("states no licence".to_owned()) };
    // Older packages write `MIT/Apache-2.0`.
    let expression = match spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX) {
        Ok(expression) => expression,
        Err(error) => return Some(format!("has the licence {licence:?}: {}", error.reason)),
    };
    let is_allowed = expression.evaluate(|requirement| {
        let id = requirement.license.id();
        id.is_some_and(|id| allowed.iter().any(|name| name == id.name))
    });
    (!is_allowed).then(|| format!("has the licence {licence:?}, not allowed in deny.toml"))
}

fn packages(metadata: &Metadata) -> impl Iterator<Item = &Package> {
    // Those that this machine's builds use.
    let used = metadata.resolve.as_ref().unwrap().nodes.iter();
    used.map(|node| &metadata[&node.id])
}

#[test]
fn licences_of_dependencies_are_allowed() {
    let (metadata, allowed) = (metadata(), allowed());
    let violations: Vec<String> = packages(&metadata)
        .filter_map(|package| {
            let reason = refusal(package.license.as_deref(), &allowed)?;
            Some(format!("{} {} {reason}", package.name, package.version))
        })
        .collect();
    assert_none(&violations);
    for bad in [None, Some("GPL-3.0-only"), Some("MIT AND GPL-3.0-only"), Some("free for all")] {
        assert!(refusal(bad, &allowed).is_some(), "{bad:?}");
    }
    assert_eq!(refusal(Some("GPL-3.0-only OR MIT"), &allowed), None);
}

#[test]
fn dependencies_come_from_the_registry() {
    let metadata = metadata();
    let elsewhere = packages(&metadata).filter_map(|package| {
        let source = package.source.as_ref()?;
        (!source.is_crates_io()).then(|| format!("{} comes from {source}", package.name))
    });
    assert_none(&elsewhere.collect::<Vec<_>>());
}

/// What a published package lacks.
fn missing(package: &Package) -> Vec<String> {
    let folder = package.manifest_path.parent().unwrap();
    let has_file = |name: &str| folder.join(name).is_file();
    let checks = [
        ("a description", package.description.is_some()),
        ("a readme", package.readme.is_some() && has_file("README.md")),
        ("the licences' texts", has_file("LICENSE-MIT") && has_file("LICENSE-APACHE")),
        ("keywords", !package.keywords.is_empty() && package.keywords.len() <= 5),
        ("categories", !package.categories.is_empty()),
        ("its oldest Rust", package.rust_version.is_some()),
    ];
    let lacks = checks.into_iter().filter(|(_, has)| !has);
    lacks.map(|(what, _)| format!("{} lacks {what}", package.name)).collect()
}

#[test]
fn our_packages_can_be_published() {
    let metadata = metadata();
    let all = metadata.workspace_packages();
    let (tools, published): (Vec<&Package>, Vec<&Package>) =
        all.into_iter().partition(|package| package.publish.as_ref().is_some_and(Vec::is_empty));
    let mut tools: Vec<&str> = tools.iter().map(|package| package.name.as_str()).collect();
    tools.sort_unstable();
    assert_eq!(tools, ["bert4rs-benches", "bert4rs-xtask"], "these alone are not published");
    assert_none(&published.iter().flat_map(|package| missing(package)).collect::<Vec<_>>());
    let mut bare = published[0].clone();
    bare.keywords.clear();
    assert_eq!(missing(&bare).len(), 1);
}
