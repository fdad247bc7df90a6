//! The written map of the workspace exists, and its links lead somewhere.

use std::fs;
use std::path::Path;

use crate::workspace::{assert_none, files, root};

#[test]
fn the_architecture_is_written_down() {
    let text = fs::read_to_string(root().join("docs/architecture.md"))
        .expect("docs/architecture.md tells how the crates fit together");
    let missing: Vec<String> = crate::layering::LAYERS
        .iter()
        .filter(|layer| !text.contains(**layer))
        .map(|layer| format!("docs/architecture.md does not mention the crate {layer}"))
        .collect();
    assert_none(&missing);
}

#[test]
fn links_in_documents_resolve() {
    let mut violations = Vec::new();
    for path in files().iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(root().join(path)).unwrap();
        violations.extend(dangling_links(path, &text));
    }
    assert_none(&violations);
}

/// The links to files that are not there. Addresses of other sites are not visited.
fn dangling_links(path: &Path, text: &str) -> Vec<String> {
    let folder = root().join(path.parent().unwrap_or(Path::new("")));
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    targets
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .filter_map(|target| target.split('#').next())
        .filter(|file| !file.is_empty() && !folder.join(file).exists())
        .map(|file| format!("{}: the link to {file} leads nowhere", path.display()))
        .collect()
}

#[test]
fn a_dangling_link_is_found() {
    let path = Path::new("docs/sample.md");
    let good = "[a](../Cargo.toml) [b](#part) [c](https://example.org/x) [d](../Cargo.toml#x)";
    assert_eq!(dangling_links(path, good).len(), 0);
    let bad = dangling_links(path, "see [the map](nowhere.md#part)");
    assert_eq!(bad, ["docs/sample.md: the link to nowhere.md leads nowhere"]);
}
