//! `bert4rs presets` and `bert4rs doctor`.

use crate::support::Sandbox;

#[test]
fn presets_are_listed_and_shown_in_full() {
    let sandbox = Sandbox::new();
    let list = sandbox.run(&["presets"]).succeeds().stdout;
    assert!(list.contains("baseline") && list.contains("recommended"), "{list}");

    let shown = sandbox.run(&["presets", "show", "recommended"]).succeeds().stdout;
    assert!(shown.contains("logits = \"masked\""), "its own values: {shown}");
    assert!(shown.contains("seq_len = 128"), "the baseline's values: {shown}");
}

#[test]
fn what_presets_show_prints_is_a_configuration() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let shown = sandbox.run(&["presets", "show", "baseline"]).succeeds().stdout;
    sandbox.write("shown.toml", shown);
    sandbox.train(&["--config", "shown.toml", "--corpus", "corpus.txt"]).succeeds();
}

#[test]
fn doctor_passes_its_own_checks() {
    let outcome = Sandbox::new().run(&["doctor", "--selftest"]).succeeds();
    assert!(outcome.stdout.contains("libtorch        2.11.0"), "{}", outcome.stdout);
    assert!(outcome.stdout.trim_end().ends_with("passed, 0 failed"), "{}", outcome.stdout);
}
