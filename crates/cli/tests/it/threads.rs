//! How the threads of the program wait for one another.

use crate::support::{Outcome, Sandbox};

/// What libgomp tells of its count of rounds, each time that the program is started.
fn spin_counts(variables: &[(&str, &str)]) -> Vec<String> {
    let variables = [&[("OMP_DISPLAY_ENV", "VERBOSE")], variables].concat();
    let nowhere = ["--corpus", "nowhere.txt"];
    let Outcome { stderr, .. } = Sandbox::new().train_with(&nowhere, &variables);
    let lines = stderr.lines().filter_map(|line| line.trim().strip_prefix("GOMP_SPINCOUNT = "));
    lines.map(|value| value.trim_matches('\'').to_owned()).collect()
}

#[test]
fn threads_spin_for_a_bounded_time() {
    assert_eq!(spin_counts(&[]).last().unwrap(), "10000");
}

#[test]
fn a_user_s_own_choice_is_left_alone() {
    assert_eq!(spin_counts(&[("GOMP_SPINCOUNT", "77")]), ["77"]);
    assert_eq!(spin_counts(&[("OMP_WAIT_POLICY", "passive")]), ["0"]);
}
