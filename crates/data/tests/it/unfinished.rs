//! Preparations that are killed, and what they leave to the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bert4rs_data::{Dataset, DatasetOptions, HeldOut, Phase, TokenStore, TokenizerChoice, prepare};
use tempfile::tempdir;

use crate::sample::{Random, assert_error, dataset, options, text, write};

/// Tells the process that is killed where its corpus and cache are.
const FOLDER: &str = "BERT4RS_TEST_KILLED_IN";

/// Files are so small that one is finished with each chunk.
fn small_files(folder: &Path, cache: &str) -> DatasetOptions {
    DatasetOptions {
        tokenizer: TokenizerChoice::Load(folder.join("tokenizer")),
        shard_tokens: 1000,
        cache: folder.join(cache),
        ..options(folder, folder.join("long.txt"))
    }
}

fn contents(dataset: &Dataset) -> [(Vec<u64>, Vec<u32>); 2] {
    let of = |store: &TokenStore| {
        (store.offsets().to_vec(), store.tokens(0..store.token_count()).unwrap())
    };
    [of(&dataset.train), of(&dataset.held_out)]
}

/// Writes a corpus of about `mebibytes`, of which one document is longer than a chunk, and a
/// tokenizer.
fn set_up(folder: &Path, mebibytes: usize) {
    let some = text(8_000);
    let mut all = some.replace('\n', " ").repeat((3 << 20) / some.len()) + "\n\n";
    let mut number = 0;
    while all.len() <= mebibytes << 20 {
        all += &format!("document {number}\n\n{some}");
        number += 1;
    }
    write(folder, "long.txt", all);
    dataset(folder, 200).copy_to(&folder.join("tokenizer")).unwrap();
}

#[test]
fn how_long_files_are_makes_no_difference() {
    let folder = tempdir().unwrap();
    set_up(folder.path(), 5);
    let small = prepare(&small_files(folder.path(), "a"), &mut |_| {}).unwrap();
    let whole = DatasetOptions { shard_tokens: u64::MAX, ..small_files(folder.path(), "b") };
    let whole = prepare(&whole, &mut |_| {}).unwrap();
    assert!(small.train.paths().count() > 4, "{}", small.train.paths().count());
    assert_eq!(whole.train.paths().count(), 1);
    assert_eq!(contents(&small), contents(&whole));
    let longest = small.train.offsets().windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest > 300_000, "a document is in several files: {longest}");
    // A single document, of which the end is held out, is written twice.
    let one = text(60_000).replace('\n', " ");
    write(folder.path(), "long.txt", one);
    let small = prepare(&small_files(folder.path(), "a"), &mut |_| {}).unwrap();
    assert_eq!((small.train.document_count(), small.held_out.document_count()), (1, 1));
    let names = fs::read_dir(&small.folder).unwrap().count();
    let files = small.train.paths().count() + small.held_out.paths().count();
    assert_eq!(names, files + 3, "beside tokenizer, summary and what was verified");
}

#[test]
#[ignore = "run by the next, which kills it"]
fn prepares_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    prepare(&small_files(&folder, "killed"), &mut |_| {}).unwrap();
}

#[test]
fn a_killed_preparation_goes_on_and_gives_the_same_tokens() {
    let folder = tempdir().unwrap();
    set_up(folder.path(), 24);
    let started = Instant::now();
    let expected = prepare(&small_files(folder.path(), "whole"), &mut |_| {}).unwrap();
    let takes = started.elapsed();
    let mut random = Random(std::process::id().into());
    let mut kills = 0;
    for _ in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "unfinished::prepares_until_it_is_killed"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let wait = random.below(takes.as_millis() as u64 / 2) + 20;
        std::thread::sleep(Duration::from_millis(wait));
        // Of a process that is done already there is nothing to kill.
        let _ = child.kill();
        if child.wait().unwrap().success() {
            break;
        }
        kills += 1;
    }
    assert!(kills > 0);
    let mut first = None;
    let options = small_files(folder.path(), "killed");
    let dataset = prepare(&options, &mut |progress| {
        if progress.phase == Phase::Tokenize {
            first.get_or_insert(progress);
        }
    });
    assert_eq!(contents(&dataset.unwrap()), contents(&expected), "after {kills} kills");
}

#[test]
fn what_is_finished_is_not_done_again() {
    let folder = tempdir().unwrap();
    set_up(folder.path(), 5);
    let options = small_files(folder.path(), "small");
    let expected = contents(&prepare(&options, &mut |_| {}).unwrap());
    let made = fs::read_dir(&options.cache).unwrap().flatten().map(|entry| entry.path());
    let made = made.into_iter().find(|path| path.is_dir()).unwrap();
    fs::remove_dir_all(&made).unwrap();
    // A panic in the middle is as sudden as a kill, and leaves files behind.
    let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        prepare(&options, &mut |progress| {
            assert!(progress.phase != Phase::Tokenize || progress.done * 2 < progress.total);
        })
    }));
    assert!(stopped.is_err());
    let partial = made.with_extension("partial");
    let finished = |path: &Path| fs::metadata(path.join("train-00001.tokens")).unwrap().modified();
    let before = finished(&partial).unwrap();
    let again = prepare(&options, &mut |_| {}).unwrap();
    assert_eq!(contents(&again), expected);
    assert_eq!(finished(&made).unwrap(), before, "written again");
}

#[test]
fn a_damaged_state_is_not_gone_on_from() {
    for damage in ["unfinished.json", "tokenizer.json"] {
        let folder = tempdir().unwrap();
        set_up(folder.path(), 4);
        let options = small_files(folder.path(), "small");
        let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            prepare(&options, &mut |progress| {
                assert!(progress.phase != Phase::Tokenize || progress.done * 2 < progress.total);
            })
        }));
        assert!(stopped.is_err());
        let mut entries = fs::read_dir(&options.cache).unwrap().flatten();
        let partial = entries.find(|entry| entry.path().is_dir()).unwrap().path();
        let bytes = fs::read(partial.join(damage)).unwrap();
        fs::write(partial.join(damage), &bytes[..bytes.len() / 2]).unwrap();
        let again = contents(&prepare(&options, &mut |_| {}).unwrap());
        let fresh = prepare(&small_files(folder.path(), "fresh"), &mut |_| {}).unwrap();
        assert_eq!(again, contents(&fresh), "{damage}");
    }
}

#[test]
fn a_cache_without_leave_to_write_names_another_place() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempdir().unwrap();
    set_up(folder.path(), 1);
    let cache = folder.path().join("locked");
    fs::create_dir(&cache).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(cache.join("probe"), "").is_ok() {
        // The superuser may write anywhere.
        return;
    }
    let prepared = prepare(&small_files(folder.path(), "locked"), &mut |_| {});
    assert_error(prepared, &["can't write to the cache", "locked", "XDG_CACHE_HOME"]);
}

#[test]
fn held_out_files_are_gone_on_with_too() {
    let folder = tempdir().unwrap();
    set_up(folder.path(), 4);
    let apart = write(folder.path(), "apart.txt", text(30_000));
    let options = DatasetOptions {
        held_out: HeldOut::Files(vec![apart]),
        ..small_files(folder.path(), "small")
    };
    let fresh = DatasetOptions { cache: folder.path().join("fresh"), ..options.clone() };
    let expected = contents(&prepare(&fresh, &mut |_| {}).unwrap());
    for part in [3, 9] {
        let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            prepare(&options, &mut |progress| {
                let done = progress.done * 10 < progress.total * part;
                assert!(progress.phase != Phase::Tokenize || done);
            })
        }));
        assert!(stopped.is_err());
    }
    assert_eq!(contents(&prepare(&options, &mut |_| {}).unwrap()), expected);
}
