//! The rules that no compiler holds: lengths, `unsafe`, sizes. Each shows on a bad sample that
//! it can fail.

use std::fs;
use std::path::Path;

use crate::rust_text::{FunctionText, Unsafe, functions, tokens, unsafe_places};
use crate::workspace::{assert_none, files, root};

const MOST_LINES: usize = 70;
const MOST_COLUMNS: usize = 100;
const MOST_BYTES: u64 = 1 << 20;

/// The only crates that may step outside what the compiler checks.
const UNSAFE_CRATES: [&str; 2] = ["crates/tensor-core/", "crates/kernels/"];

/// What has lines for people to read.
const SOURCE_ENDINGS: [&str; 6] = ["rs", "cpp", "cu", "cuh", "h", "sh"];

type Rule = fn(&Path, &str) -> Vec<String>;

/// Applies a rule to every file with one of these endings.
fn check(endings: &[&str], rule: Rule) {
    let mut violations = Vec::new();
    for path in files() {
        let ending = path.extension().unwrap_or_default().to_string_lossy();
        if endings.contains(&&*ending) {
            let text = fs::read_to_string(root().join(&path)).unwrap();
            violations.extend(rule(&path, &text));
        }
    }
    assert_none(&violations);
}

fn long_functions(path: &Path, text: &str) -> Vec<String> {
    let path = path.display();
    let all = functions(tokens(text)).into_iter();
    let long = all.filter(|function| function.length > MOST_LINES);
    long.map(|FunctionText { name, line, length }| {
        format!("{path}:{line}: fn {name} has {length} lines, at most {MOST_LINES}: split it")
    })
    .collect()
}

fn long_lines(path: &Path, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    lines
        .map(|(index, line)| (index + 1, line.chars().count()))
        .filter(|(_, columns)| *columns > MOST_COLUMNS)
        .map(|(line, columns)| {
            format!("{}:{line}: {columns} columns, at most {MOST_COLUMNS}", path.display())
        })
        .collect()
}

fn misplaced_unsafe(path: &Path, text: &str) -> Vec<String> {
    let allowed = UNSAFE_CRATES.iter().any(|folder| path.starts_with(folder));
    let mut violations = Vec::new();
    for Unsafe { line, vouches } in unsafe_places(tokens(text)) {
        let place = format!("{}:{line}", path.display());
        if !allowed {
            violations.push(format!("{place}: unsafe belongs in {}", UNSAFE_CRATES.join(" or ")));
        } else if vouches && !is_argued(text, line) {
            violations.push(format!("{place}: no `// SAFETY:` comment above it"));
        }
    }
    violations
}

/// Whether a comment with `SAFETY:` stands above the statement that `line` belongs to.
fn is_argued(text: &str, line: usize) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let above = lines[..line - 1].iter().rev().map(|line| line.trim());
    let mut in_comment = false;
    for line in above {
        if line.starts_with("//") {
            in_comment = true;
            if line.contains("SAFETY:") {
                return true;
            }
        } else if in_comment || line.is_empty() || line.ends_with([';', '{', '}']) {
            return false;
        }
    }
    false
}

#[test]
fn functions_fit_on_a_screen() {
    check(&["rs"], long_functions);
    let sample = |lines| format!("fn a() {{\n{}}}\n", "    b();\n".repeat(lines));
    assert!(long_functions(Path::new("a.rs"), &sample(MOST_LINES - 2)).is_empty());
    let bad = long_functions(Path::new("a.rs"), &sample(MOST_LINES - 1));
    assert_eq!(bad, ["a.rs:1: fn a has 71 lines, at most 70: split it"]);
}

#[test]
fn lines_fit_on_a_screen() {
    check(&SOURCE_ENDINGS, long_lines);
    assert!(long_lines(Path::new("a.rs"), &"é".repeat(100)).is_empty());
    let bad = long_lines(Path::new("a.rs"), &format!("\n{}", "x".repeat(101)));
    assert_eq!(bad, ["a.rs:2: 101 columns, at most 100"]);
}

#[test]
fn unsafe_is_rare_and_argued() {
    check(&["rs"], misplaced_unsafe);
    let elsewhere = Path::new("crates/models/src/bert.rs");
    assert_eq!(misplaced_unsafe(elsewhere, "// unsafe\nfn a() { \"unsafe\" }").len(), 0);
    assert_eq!(misplaced_unsafe(elsewhere, "// SAFETY: no\nunsafe { b() }").len(), 1);

    let allowed = Path::new("crates/kernels/src/lib.rs");
    for good in [
        "// SAFETY: b asks nothing.\nunsafe { b() }",
        "// SAFETY: b asks\n// nothing.\nlet a =\n    unsafe { b() };",
        "unsafe extern \"C\" { fn b(); }",
        "#![deny(unsafe_code)]",
    ] {
        assert_eq!(misplaced_unsafe(allowed, good).len(), 0, "{good}");
    }
    for bad in [
        "unsafe { b() }",
        "// SAFETY: a is fine.\na();\nunsafe { b() }",
        "// Quick.\nunsafe { b() }",
        "unsafe impl Send for A {}",
    ] {
        assert_eq!(misplaced_unsafe(allowed, bad).len(), 1, "{bad}");
    }
}

#[test]
fn files_are_small_enough_for_version_control() {
    let mut violations = Vec::new();
    for path in files() {
        let bytes = fs::metadata(root().join(&path)).unwrap().len();
        violations.extend(too_large(&path, bytes));
    }
    assert_none(&violations);
    assert!(too_large(Path::new("a.bin"), MOST_BYTES).is_none());
    assert!(too_large(Path::new("a.bin"), MOST_BYTES + 1).is_some());
}

fn too_large(path: &Path, bytes: u64) -> Option<String> {
    (bytes > MOST_BYTES).then(|| format!("{}: {bytes} bytes, at most {MOST_BYTES}", path.display()))
}
