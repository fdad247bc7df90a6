//! Every format gives the documents that it holds, compressed or not.

use std::io::Write;
use std::path::{Path, PathBuf};

use bert4rs_data::{
    CorpusReading, DatasetOptions, DocumentBreak, HeldOut, TokenizerChoice, prepare,
};
use flate2::write::GzEncoder;
use liblzma::write::XzEncoder;
use tempfile::tempdir;

use crate::sample::{assert_error, dataset, options, write};

const DOCUMENTS: [&str; 3] = ["the cat sat.", "dogs, barked at night.", "a \"mat\" and birds."];

/// What the tests' tokenizer spells of them.
const SPELLED: [&str; 3] = ["the cat sat.", "dogs barked at night.", "a mat and birds."];

/// The documents of `corpus`, in order.
fn documents(folder: &Path, corpus: Vec<PathBuf>, reading: CorpusReading) -> Vec<String> {
    let tokenizer = TokenizerChoice::Load(dataset(folder, 200).folder);
    let held_out = HeldOut::Share(0.0);
    let options =
        DatasetOptions { corpus, reading, tokenizer, held_out, ..options(folder, PathBuf::new()) };
    let dataset = prepare(&options, &mut |_| {}).unwrap();
    let decode = |index| {
        let tokens = dataset.train.document(index).unwrap();
        dataset.tokenizer.decode(&tokens).unwrap()
    };
    (0..dataset.train.document_count()).map(decode).collect()
}

#[track_caller]
fn check(name: &str, contents: impl AsRef<[u8]>) {
    let folder = tempdir().unwrap();
    let file = write(folder.path(), &format!("corpus/{name}"), contents);
    let found = documents(folder.path(), vec![file.clone()], CorpusReading::default());
    assert_eq!(found, SPELLED, "{name} by its name");
    let all = file.parent().unwrap().to_owned();
    let found = documents(folder.path(), vec![all], CorpusReading::default());
    assert_eq!(found, SPELLED, "{name} in its folder");
}

fn json_lines() -> String {
    let line = |text: &str| serde_json::json!({"id": 7, "text": text}).to_string() + "\n";
    DOCUMENTS.map(line).concat()
}

#[test]
fn formats_are_known_by_their_endings() {
    check("a.txt", DOCUMENTS.join("\n\n"));
    // A heading is part of its document.
    let marked = "the cat\n\nsat.\n```\n# no heading\n```\n# dogs, barked\nat night.\n";
    let folder = tempdir().unwrap();
    let file = write(folder.path(), "a.md", marked);
    let found = documents(folder.path(), vec![file], CorpusReading::default());
    assert_eq!(found.len(), 2);
    assert!(found[0].starts_with("the cat sat.") && found[1].ends_with("dogs barked at night."));
    check("a.jsonl", json_lines());
    check("a.NDJSON", json_lines().replace('\n', "\r\n\r\n"));
    check(
        "a.csv",
        "id,text\n1,the cat sat.\n2,\"dogs, barked\nat night.\"\n3,\"a \"\"mat\"\" and birds.\"\n",
    );
    check("a.tsv", "text\nthe cat sat.\ndogs, barked at night.\n\"a \"\"mat\"\" and birds.\"\n");
}

#[test]
fn compressed_files_are_known_by_their_contents() {
    let text = DOCUMENTS.join("\n\n");
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    check("a.txt.gz", gzip.finish().unwrap());
    // Two streams, one after the other, are one text.
    let (begin, end) = text.as_bytes().split_at(20);
    let zstd = |part: &[u8]| zstd::encode_all(part, 1).unwrap();
    check("a.txt.zst", [zstd(begin), zstd(end)].concat());
    let mut xz = XzEncoder::new(Vec::new(), 1);
    xz.write_all(text.as_bytes()).unwrap();
    check("a.txt.XZ", xz.finish().unwrap());
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(json_lines().as_bytes()).unwrap();
    check("a.jsonl.bz2", bzip2.finish().unwrap());
}

#[test]
fn what_the_name_does_not_say_the_content_does() {
    let folder = tempdir().unwrap();
    let found = |name: &str, contents: &str| {
        let file = write(folder.path(), name, contents);
        documents(folder.path(), vec![file], CorpusReading::default())
    };
    assert_eq!(found("data", &json_lines()), SPELLED);
    let wiki = " \n = the cat sat. = \n \n = dogs, barked = \n \n at night . \n";
    assert_eq!(found("wiki.train.tokens", wiki), SPELLED[..2]);
    assert_eq!(found("wiki.txt", wiki), SPELLED[..2]);
    assert_eq!(found("plain", "{the cat}\n\nsat."), ["the cat", "sat."]);
}

#[test]
fn a_table_without_an_ending_is_known_by_its_first_line() {
    let folder = tempdir().unwrap();
    let found = |name: &str, contents: &str| {
        let file = write(folder.path(), name, contents);
        documents(folder.path(), vec![file], CorpusReading::default())
    };
    assert_eq!(found("comma", "id,\"text\"\n1,the cat\n2,sat.\n"), ["the cat", "sat."]);
    assert_eq!(found("tab", "text\tid\nthe cat\t1\n"), ["the cat"]);
    assert_eq!(found("comma.txt", "the mat,text\n1,the cat\n").len(), 1, "plain by its name");
}

#[test]
fn patterns_and_lists_name_files_of_any_format() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    write(root, "a/1.txt", DOCUMENTS[0]);
    write(root, "a/2.jsonl", json_lines());
    write(root, "a/.hidden.txt", "birds");
    write(root, "b/3.md", "# dogs, barked");
    let paths =
        |list: &[&str]| -> Vec<PathBuf> { list.iter().map(|path| root.join(path)).collect() };
    let read = |corpus| documents(root, corpus, CorpusReading::default());
    let all = read(paths(&["a", "b"]));
    assert_eq!(all.len(), 5);
    assert_eq!(read(paths(&["a/*", "b/?.md"])), all);
    assert_eq!(read(paths(&["a/[12].*", "b"])), all);
    let list = write(root, "lists/all.txt", "\u{feff}# first\n../a/*\n\n  ../b/3.md  \n");
    assert_eq!(read(vec![PathBuf::from(format!("@{}", list.display()))]), all);
}

#[test]
fn patterns_and_lists_that_name_nothing_are_refused() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let check = |corpus: PathBuf, parts: &[&str]| {
        assert_error(prepare(&options(root, corpus), &mut |_| {}), parts);
    };
    check(root.join("no*.txt"), &["no*.txt", "as a pattern it matches none"]);
    check(root.join("no[.txt"), &["no[.txt", "is no pattern"]);
    let list = |text: &str| {
        let path = write(root, "list", text);
        PathBuf::from(format!("@{}", path.display()))
    };
    check(list("# nothing\n"), &["is a list without a path"]);
    check(list("@list\n"), &["a list holds paths and patterns alone"]);
    check(list("a.txt\n"), &["a.txt", "No such file"]);
    check(PathBuf::from("@/nowhere"), &["/nowhere", "No such file"]);
}

#[test]
fn a_stream_is_kept_under_the_name_of_its_contents() {
    let folder = tempdir().unwrap();
    let keep = |text: &[u8]| bert4rs_data::corpus::keep_stream(text, &folder.path().join("kept"));
    let path = keep(json_lines().as_bytes()).unwrap();
    assert_eq!(documents(folder.path(), vec![path.clone()], CorpusReading::default()), SPELLED);
    assert_eq!(keep(json_lines().as_bytes()).unwrap(), path);
    assert_ne!(keep(b"the cat").unwrap(), path);
    assert_error(keep(b""), &["standard input", "is empty"]);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
}

#[test]
fn a_prepared_folder_is_a_corpus_of_its_own() {
    let folder = tempdir().unwrap();
    let made = dataset(folder.path(), 50);
    let copy = folder.path().join("prepared");
    made.copy_to(&copy).unwrap();
    assert_error(made.copy_to(&copy), &["prepared", "exists"]);
    let options = options(folder.path(), copy.clone());
    let opened = prepare(&options, &mut |_| {}).unwrap();
    assert_eq!(opened.folder, copy);
    assert_eq!(opened.summary, made.summary);
    let tokens = |dataset: &bert4rs_data::Dataset| {
        dataset.train.tokens(0..dataset.train.token_count()).unwrap()
    };
    assert_eq!(tokens(&opened), tokens(&made));
    let tokenizer = TokenizerChoice::Load(made.folder);
    prepare(&DatasetOptions { tokenizer, ..options.clone() }, &mut |_| {}).unwrap();
    let held_out = HeldOut::Files(vec![folder.path().join("corpus.txt")]);
    let refused = prepare(&DatasetOptions { held_out, ..options.clone() }, &mut |_| {});
    assert_error(refused, &["was prepared", "--held-out"]);
    let objective = bert4rs_data::Objective::Spans;
    let refused = prepare(&DatasetOptions { objective, ..options }, &mut |_| {});
    assert_error(refused, &["tokenizer.json", "lacks the token"]);
}

#[test]
fn the_field_and_the_end_of_documents_can_be_chosen() {
    let folder = tempdir().unwrap();
    let reading =
        |field: &str, document_break| CorpusReading { text_field: field.into(), document_break };
    let file =
        write(folder.path(), "a.jsonl", "{\"body\": \"the cat\\n\\nsat\"}\n{\"body\": \"\"}");
    let found = documents(folder.path(), vec![file], reading("body", DocumentBreak::Line));
    assert_eq!(found, ["the cat sat"]);
    let files: Vec<PathBuf> = ["a", "b"]
        .map(|name| write(folder.path(), &format!("{name}.txt"), "the cat\nsat\n\non a mat\n"))
        .into();
    let found = documents(folder.path(), files.clone(), reading("text", DocumentBreak::File));
    assert_eq!(found, ["the cat sat on a mat"; 2]);
    let found = documents(folder.path(), files, reading("text", DocumentBreak::Line));
    assert_eq!(found, ["the cat", "sat", "on a mat"].repeat(2));
}

#[test]
fn records_without_text_are_refused_with_their_line() {
    let check = |name: &str, contents: &[u8], parts: &[&str]| {
        let folder = tempdir().unwrap();
        let corpus = write(folder.path(), name, contents);
        let prepared = prepare(&options(folder.path(), corpus), &mut |_| {});
        assert_error(prepared, &[&[name], parts].concat());
    };
    let lacks = ["line 3 lacks the field \"text\"", "it has body, id", "data.text_field"];
    check("a.jsonl", b"{\"text\": \"a\"}\n\n{\"body\": \"b\", \"id\": 1}\n", &lacks);
    check("a.jsonl", b"{\"text\": 3}\n", &["line 1 has no text in \"text\""]);
    check("a.jsonl", b"{\"text\": \"a\"}\nno json\n", &["line 2 is no JSON"]);
    check("a.csv", b"id,body\n1,a\n", &["lacks the column \"text\"; it has id, body"]);
    check("a.csv", b"id;text\n1;a\n", &["lacks the column \"text\"", "id;text", "by commas"]);
    check("a.tsv", b"id,text\n1,a\n", &["lacks the column \"text\"", "by tabs"]);
    check("a.json", b"[{\"text\": \"a\"},\n {\"text\": \"b\"}]\n", &["no object a line", "jq"]);
    check("a.txt.gz", b"\x1f\x8b\x08 broken", &["can't read"]);
}

#[test]
fn a_corpus_of_its_own_can_be_held_out() {
    let folder = tempdir().unwrap();
    let corpus = write(folder.path(), "a.txt", DOCUMENTS[..2].join("\n\n"));
    let apart = write(folder.path(), "b.jsonl", json_lines());
    let of = |files: Vec<PathBuf>| {
        let held_out = HeldOut::Files(files);
        prepare(&DatasetOptions { held_out, ..options(folder.path(), corpus.clone()) }, &mut |_| {})
    };
    let dataset = of(vec![apart]).unwrap();
    assert_eq!((dataset.train.document_count(), dataset.held_out.document_count()), (2, 3));
    assert!(dataset.summary.held_out_unigram_loss.unwrap() > 0.0);
    assert_error(of(vec![corpus.clone()]), &["a.txt: is to be held out", "part of the corpus too"]);
    let blank = write(folder.path(), "blank.txt", "\n\n");
    assert_error(of(vec![blank]), &["blank.txt", "holds a document"]);
}
