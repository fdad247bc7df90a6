use std::fs;
use std::path::Path;

use bert4rs_data::TokenStore;
use bert4rs_data::shard::ShardWriter;
use proptest::prelude::*;
use tempfile::tempdir;

use crate::sample::assert_error;

fn write(path: &Path, vocab_size: usize, documents: &[Vec<u32>]) -> TokenStore {
    let mut writer = ShardWriter::create(path, vocab_size, [7; 32]).unwrap();
    for document in documents {
        writer.push(document).unwrap();
    }
    writer.finish().unwrap()
}

fn check_round_trip(vocab_size: usize, documents: &[Vec<u32>]) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.tokens");
    write(&path, vocab_size, documents);
    let shard = TokenStore::open(&path).unwrap();
    shard.verify(vocab_size).unwrap();
    assert_eq!(shard.document_count(), documents.len());
    assert_eq!(shard.token_count(), documents.iter().map(Vec::len).sum::<usize>());
    assert_eq!(shard.fingerprint(), &[7; 32]);
    for (index, document) in documents.iter().enumerate() {
        assert_eq!(&shard.document(index).unwrap(), document);
        let range = shard.offsets()[index] as usize..shard.offsets()[index + 1] as usize;
        let mut copy = vec![0; document.len()];
        shard.read(range, &mut copy).unwrap();
        assert!(copy.iter().zip(document).all(|(&a, &b)| a == i64::from(b)));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file stays");
}

proptest! {
    // Each case waits for the disk.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_written_is_read(
        documents in prop::collection::vec(prop::collection::vec(0u32..65_536, 0..20), 0..10),
        vocab_size in prop::sample::select(vec![65_536usize, 65_537]),
    ) {
        check_round_trip(vocab_size, &documents);
    }
}

/// Asserts that a good file, changed by `change`, is refused.
#[track_caller]
fn check_refused(change: impl FnOnce(&mut Vec<u8>), parts: &[&str]) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.tokens");
    write(&path, 100, &[vec![1, 2, 3], vec![4, 5]]);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let opened = TokenStore::open(&path).and_then(|shard| shard.verify(100));
    assert_error(opened, &[&["x.tokens"], parts].concat());
}

#[test]
fn damaged_files_are_refused() {
    check_refused(|bytes| bytes.clear(), &["cut short", "0 of 128"]);
    check_refused(|bytes| bytes.truncate(127), &["cut short"]);
    check_refused(|bytes| bytes.truncate(150), &["has 150 bytes, expected 168"]);
    check_refused(|bytes| bytes.push(0), &["has 169 bytes, expected 168"]);
    check_refused(|bytes| bytes[0] = b'x', &["is no token file of bert4rs"]);
    check_refused(|bytes| bytes[8] = 9, &["format version 9, expected 2"]);
    check_refused(|bytes| bytes[16] = 9, &["damaged header"]);
    check_refused(|bytes| bytes[130] ^= 1, &["does not match its checksum"]);
    check_refused(|bytes| bytes[144] = 1, &["documents out of order"]);
    check_refused(|bytes| bytes[152] = 6, &["documents out of order"]);
}

#[test]
fn an_unfinished_file_has_no_name_yet() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.tokens");
    let mut writer = ShardWriter::create(&path, 100, [0; 32]).unwrap();
    writer.push(&[1, 2]).unwrap();
    drop(writer);
    assert!(!path.exists());
    assert_error(TokenStore::open(&path), &["x.tokens", "No such file"]);
}

#[test]
fn tokens_that_do_not_fit_are_refused() {
    let folder = tempdir().unwrap();
    let mut writer = ShardWriter::create(&folder.path().join("x"), 100, [0; 32]).unwrap();
    assert_error(writer.push(&[1, 65_536]), &["a token id is 65536"]);
}
