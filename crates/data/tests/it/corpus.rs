use std::os::unix::fs::symlink;

use bert4rs_data::{
    Corpus, CorpusReading, DatasetOptions, HeldOut, Objective, TokenizerChoice, TokenizerTraining,
    prepare,
};
use tempfile::tempdir;

use crate::sample::{assert_error, options, text, write};

#[test]
fn folders_give_their_txt_files_sorted_at_any_depth() {
    let folder = tempdir().unwrap();
    for name in ["b.txt", "a/z.txt", "a/deep/er.txt", "a/not.pdf", "c.TXT"] {
        write(folder.path(), name, "text");
    }
    let corpus = Corpus::open(&[folder.path().to_owned()], CorpusReading::default()).unwrap();
    let root = folder.path().canonicalize().unwrap();
    let found: Vec<_> =
        corpus.files().iter().map(|file| file.path.strip_prefix(&root).unwrap()).collect();
    assert_eq!(found, ["a/deep/er.txt", "a/z.txt", "b.txt", "c.TXT"].map(std::path::Path::new));
    assert_eq!(corpus.bytes(), 16);
}

#[test]
fn paths_that_give_no_text_are_refused() {
    let folder = tempdir().unwrap();
    let empty = write(folder.path(), "empty.txt", "");
    let other = write(folder.path(), "pdf/readme.pdf", "text");
    let missing = folder.path().join("missing.txt");
    assert_error(
        Corpus::open(&[], CorpusReading::default()),
        &["the corpus is empty", "files or folders"],
    );
    assert_error(
        Corpus::open(&[missing], CorpusReading::default()),
        &["missing.txt", "No such file"],
    );
    assert_error(Corpus::open(&[empty], CorpusReading::default()), &["empty.txt", "is empty"]);
    let only_pdf = other.parent().unwrap().to_owned();
    assert_error(
        Corpus::open(&[only_pdf], CorpusReading::default()),
        &["pdf", "holds no text file"],
    );
    let twice = write(folder.path(), "twice.txt", "text");
    assert_error(
        Corpus::open(&[twice.clone(), twice], CorpusReading::default()),
        &["twice.txt", "name it once"],
    );
}

/// Asserts that preparing a corpus of these bytes fails with `parts` in the message.
#[track_caller]
fn check_refused(contents: &[u8], parts: &[&str]) {
    let folder = tempdir().unwrap();
    let corpus = write(folder.path(), "corpus.txt", contents);
    let options = options(folder.path(), corpus);
    assert_error(prepare(&options, &mut |_| {}), &[&["corpus.txt"], parts].concat());
    let left: Vec<_> = std::fs::read_dir(&options.cache)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    assert!(left.is_empty(), "an unfinished dataset stays: {left:?}");
}

#[test]
fn what_is_no_text_is_refused_with_its_place() {
    check_refused(b" \n\n\t\n", &["no file of this corpus holds a document"]);
    check_refused(b"x", &["a single token", "data.held_out = 0"]);
    check_refused(b"text\n\nbin\0ary\n", &["byte 9 is NUL", "expected UTF-8 text"]);
    check_refused(b"text\n\ncaf\xe9\n", &["byte 9 is not UTF-8", "iconv"]);
    // The bad byte lies in another piece than the first, and behind a character of two bytes.
    let mut long = "é ".to_owned() + &text(30_000);
    let at = long.len();
    assert!(at > 2 << 20);
    long += "x";
    let mut long = long.into_bytes();
    long[at] = 0xff;
    check_refused(&long, &[&format!("byte {at} is not UTF-8")]);
}

#[test]
fn a_byte_order_mark_and_carriage_returns_are_no_text() {
    let folder = tempdir().unwrap();
    let plain = text(30);
    let path = write(folder.path(), "plain.txt", &plain);
    let windows = format!("\u{feff}{}", plain.replace('\n', "\r\n"));
    let windows = write(folder.path(), "windows.txt", windows);
    let tokens = |path| {
        let dataset = prepare(&options(folder.path(), path), &mut |_| {}).unwrap();
        dataset.train.tokens(0..dataset.train.token_count()).unwrap()
    };
    assert_eq!(tokens(path), tokens(windows));
}

#[test]
fn pieces_never_split_a_document() {
    let folder = tempdir().unwrap();
    // Longer than a piece, then short ones, then one without a line end.
    let mut contents = "word ".repeat(500_000) + "\n\n";
    contents += &"mat cat\n\n".repeat(200_000);
    contents += "end";
    let corpus = write(folder.path(), "long.txt", contents);
    let dataset = prepare(&options(folder.path(), corpus), &mut |_| {}).unwrap();
    let documents = dataset.train.document_count() + dataset.held_out.document_count();
    assert_eq!(documents, 200_002);
    let lengths = |shard: &bert4rs_data::TokenStore| -> Vec<u64> {
        shard.offsets().windows(2).map(|pair| pair[1] - pair[0]).collect()
    };
    let longest = lengths(&dataset.train).into_iter().chain(lengths(&dataset.held_out)).max();
    assert_eq!(longest, Some(500_000));
}

#[test]
fn what_is_left_out_of_a_folder_is_said() {
    let folder = tempdir().unwrap();
    for name in ["a.txt", ".hidden.txt", ".git/b.txt", "c.pdf", "d.pdf", "deep/e.txt"] {
        write(folder.path(), name, "text");
    }
    symlink(folder.path().join("nowhere"), folder.path().join("broken.txt")).unwrap();
    symlink(folder.path().join("deep"), folder.path().join("again")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("pipe.txt")).status();
    assert!(made.unwrap().success());
    let corpus = Corpus::open(&[folder.path().to_owned()], CorpusReading::default()).unwrap();
    assert_eq!(corpus.files().len(), 2);
    let notes = corpus.notes().join("\n");
    for expected in [
        "2 files whose ending is none of text",
        "c.pdf, the first of them",
        "2 hidden files and folders",
        "1 links to nothing",
        "1 links to folders",
        "1 pipes, sockets and devices",
    ] {
        assert!(notes.contains(expected), "{notes:?} lacks {expected:?}");
    }
    let pipe = folder.path().join("pipe.txt");
    assert_error(
        Corpus::open(&[pipe], CorpusReading::default()),
        &["pipe.txt", "is a pipe, expected a file"],
    );
    let hidden = folder.path().join(".hidden.txt");
    assert_eq!(
        Corpus::open(&[hidden], CorpusReading::default()).unwrap().files().len(),
        1,
        "named, it is taken"
    );
}

#[test]
fn a_long_document_has_the_tokens_that_it_would_have_as_a_whole() {
    let folder = tempdir().unwrap();
    // Ten times what is encoded at once, on one line.
    let contents = text(9000).replace('\n', " ");
    assert!(contents.len() > 10 * (64 << 10));
    for objective in [Objective::MaskedTokens, Objective::NextTokens, Objective::Spans] {
        let corpus = write(folder.path(), "long.txt", &contents);
        let tokenizer = TokenizerChoice::Train(TokenizerTraining::new(400));
        let options = DatasetOptions {
            objective,
            tokenizer,
            held_out: HeldOut::Share(0.0),
            ..options(folder.path(), corpus)
        };
        let dataset = prepare(&options, &mut |_| {}).unwrap();
        let expected = dataset.tokenizer.encode(contents.trim()).unwrap();
        assert!(dataset.train.document(0).unwrap() == expected, "{objective:?}");
    }
}
