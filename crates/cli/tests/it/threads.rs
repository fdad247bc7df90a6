//! How the threads of the program wait for one another.

use std::process::Command;

/// What libgomp tells of its count of rounds, each time that the program is started, with these
/// variables and no others of libgomp's.
fn spin_counts(variables: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_bert4rs"));
    program.args(["train", "--corpus", "nowhere.txt"]).current_dir(folder.path());
    program.env_remove("GOMP_SPINCOUNT").env_remove("OMP_WAIT_POLICY");
    program.env("OMP_DISPLAY_ENV", "VERBOSE").envs(variables.iter().copied());
    let said = String::from_utf8(program.output().unwrap().stderr).unwrap();
    let lines = said.lines().filter_map(|line| line.trim().strip_prefix("GOMP_SPINCOUNT = "));
    lines.map(|value| value.trim_matches('\'').to_owned()).collect()
}

#[test]
fn threads_spin_for_a_bounded_time() {
    assert_eq!(spin_counts(&[]), ["300000", "10000"], "as libgomp does, then as we do");
}

#[test]
fn a_user_s_own_choice_is_left_alone() {
    assert_eq!(spin_counts(&[("GOMP_SPINCOUNT", "77")]), ["77"]);
    assert_eq!(spin_counts(&[("OMP_WAIT_POLICY", "passive")]), ["0"]);
}
