//! `bert4rs completions` and `bert4rs man`.

use crate::support::Sandbox;

#[test]
fn shells_learn_every_command_and_flag() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = sandbox.run(&["completions", shell]).succeeds().stdout;
        for word in ["fill-mask", "presets", "max-steps"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    let script = sandbox.run(&["completions", "bash"]).succeeds().stdout;
    let checked = std::process::Command::new("bash").args(["-n", "-c", &script]).status();
    assert!(checked.unwrap().success(), "bash reads it");
    sandbox.run(&["completions", "dos"]).refuses(&["dos", "bash"]);
}

#[test]
fn each_command_has_a_page() {
    let sandbox = Sandbox::new();
    sandbox.run(&["man", "--out", "pages/man1"]).succeeds();
    let pages = sandbox.list("pages/man1");
    for page in ["bert4rs.1", "bert4rs-train.1", "bert4rs-presets-diff.1"] {
        assert!(pages.iter().any(|name| name == page), "no {page} in {pages:?}");
    }
    let page = std::fs::read_to_string(sandbox.path("pages/man1/bert4rs-train.1")).unwrap();
    assert!(page.contains("max\\-steps"), "{page}");
    sandbox.write("file", "");
    sandbox.run(&["man", "--out", "file/pages"]).refuses(&["file"]);
}
