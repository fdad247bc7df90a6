//! Claims, and what is left whatever happens.

use super::*;
use crate::config::{Config, resolve};

fn config() -> Config {
    resolve(&[]).unwrap()
}

/// A whole run at `path`, known by its model.
fn run(path: &Path, model: &str) {
    let mut run = ClaimedFolder::claim(path, true).unwrap().begin(&config()).unwrap();
    fs::write(run.path().join("model.safetensors"), model).unwrap();
    run.replace_old().unwrap();
    run.end(RunOutcome::Finished, None).unwrap();
}

fn model(path: &Path) -> String {
    fs::read_to_string(path.join("model.safetensors")).unwrap()
}

fn names_in(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn reason(outcome: Result<ClaimedFolder>) -> String {
    outcome.unwrap_err().to_string()
}

#[test]
fn a_folder_belongs_to_one_run_at_a_time() {
    let disk = tempfile::tempdir().unwrap();
    let path = disk.path().join("deep/run");
    let first = ClaimedFolder::claim(&path, false).unwrap();
    for overwrite in [false, true] {
        let error = reason(ClaimedFolder::claim(&path, overwrite));
        assert!(error.contains("another process"), "{error}");
    }
    let first = first.begin(&config()).unwrap();
    assert_eq!(RunState::read(&path).unwrap().status(&path), Status::Running);
    for outcome in [ClaimedFolder::claim(&path, true), ClaimedFolder::reopen(&path)] {
        assert!(reason(outcome).contains("another process"));
    }
    drop(first);
    let state = RunState::read(&path).unwrap();
    assert_eq!(state.status(&path), Status::Ended(RunOutcome::Interrupted), "as if killed");
    assert!(reason(ClaimedFolder::claim(&path, false)).contains("--overwrite"));
}

#[test]
fn of_many_claims_at_once_one_wins() {
    let disk = tempfile::tempdir().unwrap();
    let path = disk.path().join("run");
    for overwrite in [false, true] {
        let claims: Vec<_> = std::thread::scope(|scope| {
            let start = || scope.spawn(|| ClaimedFolder::claim(&path, overwrite));
            let threads: Vec<_> = (0..8).map(|_| start()).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1, "{claims:?}");
        let won = claims.into_iter().find_map(Result::ok).unwrap();
        won.begin(&config()).unwrap();
    }
}

#[test]
fn a_claim_that_is_not_used_leaves_nothing() {
    let disk = tempfile::tempdir().unwrap();
    drop(ClaimedFolder::claim(&disk.path().join("run"), false).unwrap());
    assert_eq!(names_in(disk.path()), [""; 0]);
    fs::create_dir(disk.path().join("empty")).unwrap();
    drop(ClaimedFolder::claim(&disk.path().join("empty"), false).unwrap());
    assert_eq!(names_in(&disk.path().join("empty")), [""; 0]);
    run(&disk.path().join("old"), "old");
    drop(ClaimedFolder::claim(&disk.path().join("old"), true).unwrap());
    assert_eq!(names_in(disk.path()), ["empty", "old"]);
    assert_eq!(model(&disk.path().join("old")), "old");
}

#[test]
fn the_old_run_stays_until_the_new_one_is_whole() {
    let disk = tempfile::tempdir().unwrap();
    let (path, new) = (disk.path().join("run"), disk.path().join("run.new"));
    run(&path, "old");
    fs::write(path.join("notes.txt"), "mine").unwrap();
    let begin = || ClaimedFolder::claim(&path, true).unwrap().begin(&config()).unwrap();

    let cut_off = begin();
    assert_eq!((cut_off.path(), cut_off.final_path()), (&*new, &*path));
    fs::write(new.join("model.safetensors.12-0.partial"), "ha").unwrap();
    drop(cut_off);
    assert_eq!(model(&path), "old");

    let mut second = begin();
    fs::write(new.join("model.safetensors"), "new").unwrap();
    let mut metrics = second.metrics().unwrap();
    metrics.append(&[1]).unwrap();
    second.replace_old().unwrap();
    assert_eq!((second.path(), second.final_path()), (&*path, &*path));
    metrics.append(&[2]).unwrap();
    second.replace_old().unwrap();
    second.end(RunOutcome::Finished, None).unwrap();
    assert_eq!(names_in(disk.path()), ["run"], "the old one is gone");
    assert_eq!(model(&path), "new");
    assert_eq!(fs::read_to_string(path.join(METRICS)).unwrap(), "1\n2\n");
    assert_eq!(fs::read_to_string(path.join("notes.txt")).unwrap(), "mine");
}

#[test]
fn where_folders_cannot_change_places_both_runs_stay() {
    let disk = tempfile::tempdir().unwrap();
    let path = disk.path().join("run");
    run(&path, "old");
    let mut second = ClaimedFolder::claim(&path, true).unwrap().begin(&config()).unwrap();
    fs::write(second.path().join("model.safetensors"), "new").unwrap();
    fs::rename(&path, disk.path().join("elsewhere")).unwrap();
    assert!(second.replace_old().is_err());
    assert_eq!(model(&disk.path().join("elsewhere")), "old");
    assert_eq!(model(&disk.path().join("run.new")), "new");
}

#[test]
fn a_users_own_files_are_never_taken_for_a_run() {
    let disk = tempfile::tempdir().unwrap();
    let path = disk.path().join("mine");
    fs::create_dir(&path).unwrap();
    fs::write(path.join(CONFIG), "theirs = true").unwrap();
    for overwrite in [false, true] {
        let error = reason(ClaimedFolder::claim(&path, overwrite));
        assert!(error.contains("neither empty nor a run"), "{error}");
    }
    assert_eq!(names_in(&path), [CONFIG]);
    run(&disk.path().join("run"), "old");
    fs::create_dir(disk.path().join("run.new")).unwrap();
    fs::write(disk.path().join("run.new/thesis.tex"), "years of work").unwrap();
    let error = reason(ClaimedFolder::claim(&disk.path().join("run"), true));
    assert!(error.contains("run.new"), "{error}");
    assert_eq!(names_in(&disk.path().join("run.new")), ["thesis.tex"]);
}

#[test]
fn leftovers_block_nothing() {
    let disk = tempfile::tempdir().unwrap();
    let path = disk.path().join("run");
    let _killed = ClaimedFolder::claim(&path, false).map(std::mem::ManuallyDrop::new).unwrap();
    fs::write(path.join("config.toml.1-0.partial"), "[mo").unwrap();
    // The lock would be gone with the process.
    fs::remove_file(path.join(names::MARKER)).unwrap();
    fs::write(path.join(names::MARKER), "").unwrap();
    ClaimedFolder::claim(&path, false).unwrap().begin(&config()).unwrap();
    assert_eq!(names_in(&path), [names::MARKER, CONFIG, METRICS, STATE]);
}

#[test]
fn disk_space_is_kept_until_it_is_needed() {
    let disk = tempfile::tempdir().unwrap();
    let path = disk.path().join("run");
    let mut run = ClaimedFolder::claim(&path, false).unwrap().begin(&config()).unwrap();
    run.reserve(1 << 20).unwrap();
    assert_eq!(fs::metadata(path.join(names::RESERVE)).unwrap().len(), 1 << 20);
    run.release();
    assert!(!path.join(names::RESERVE).exists());
    // No disk has an exbibyte to spare.
    let error = run.reserve(1 << 60).unwrap_err();
    assert!(error.to_string().contains("1048576 TiB"), "{error}");
    assert!(!error.is_bad_input(), "{error}");
    assert!(!path.join(names::RESERVE).exists());
}

#[test]
fn a_trained_model_finds_another_place_on_a_full_disk() {
    let disk = tempfile::tempdir().unwrap();
    let path = disk.path().join("run");
    let mut run = ClaimedFolder::claim(&path, false).unwrap().begin(&config()).unwrap();
    let full = |folder: &Path| Error::io(folder)(std::io::ErrorKind::StorageFull.into());
    let here_is_no_room = |folder: &Path| {
        if folder.starts_with(disk.path()) {
            return Err(full(folder));
        }
        write(&folder.join("model.safetensors"), b"weights")
    };
    let error = run.export(5 << 20, here_is_no_room).unwrap_err();
    let Error::DiskFull { rescued: Some(rescued), .. } = &error else { panic!("{error}") };
    assert_eq!(model(rescued), "weights");
    let text = error.to_string();
    assert!(text.contains("5.0 MiB") && text.contains("bert4rs-rescued"), "{text}");
    assert!(!error.is_bad_input());
    fs::remove_dir_all(rescued).unwrap();

    let error = run.export(5 << 20, |folder| Err(full(folder))).unwrap_err();
    assert!(matches!(error, Error::DiskFull { rescued: None, .. }), "{error}");
    let error = run.export(1, |_| Err(Error::Diverged { step: 1, reason: String::new() }));
    assert!(matches!(error, Err(Error::Diverged { .. })), "another failure is told as it is");
}
