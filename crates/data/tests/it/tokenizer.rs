use bert4rs_data::tokenizer::train_tokenizer;
use bert4rs_data::{Corpus, TextTokenizer};
use tempfile::tempdir;

use crate::sample::{assert_error, text, write};

const SENTENCES: [&str; 5] =
    ["The cat sat on a mat.", "Dogs BARKED at night!", "naïve 中文 catmat", "", "[MASK] [CLS]"];

fn trained(vocab_size: usize) -> TextTokenizer {
    let folder = tempdir().unwrap();
    let corpus = Corpus::open(&[write(folder.path(), "text.txt", text(300))]).unwrap();
    train_tokenizer(&corpus, vocab_size, &mut |_| {}).unwrap()
}

#[track_caller]
fn assert_equal(a: &TextTokenizer, b: &TextTokenizer) {
    assert_eq!(a.vocabulary(), b.vocabulary());
    for sentence in SENTENCES {
        assert_eq!(a.encode(sentence).unwrap(), b.encode(sentence).unwrap(), "{sentence:?}");
    }
}

#[test]
fn a_saved_tokenizer_is_the_same_when_loaded() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let tokenizer = trained(120);
    tokenizer.save(&path).unwrap();
    let from_file = TextTokenizer::load(&path).unwrap();
    let from_folder = TextTokenizer::load(folder.path()).unwrap();
    assert_equal(&tokenizer, &from_file);
    assert_equal(&tokenizer, &from_folder);
    assert_eq!(tokenizer.fingerprint().unwrap(), from_file.fingerprint().unwrap());
}

#[test]
fn training_gives_the_same_tokens_with_any_number_of_threads() {
    let first = trained(110).fingerprint().unwrap();
    for threads in [1, 2, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let again = pool.install(|| trained(110)).fingerprint().unwrap();
        assert_eq!(first, again, "{threads} threads");
    }
}

#[test]
fn a_small_corpus_gives_a_small_vocabulary_and_never_too_large_a_one() {
    let size = trained(30_000).vocab_size();
    assert!((70..120).contains(&size), "{size} tokens");
    assert!(trained(64).vocab_size() <= 64);
}

#[test]
fn known_text_is_spelled_and_special_tokens_in_text_are_text() {
    let tokenizer = trained(200);
    let ids = tokenizer.encode("The CAT sat. Softly.").unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "the cat sat. softly.");
    let special = tokenizer.vocabulary().special;
    let ids = tokenizer.encode("[MASK] [CLS]").unwrap();
    assert!(!ids.contains(&special.mask) && !ids.contains(&special.cls), "{ids:?}");
}

#[test]
fn vocab_txt_is_read_with_berts_steps() {
    let folder = tempdir().unwrap();
    let tokens = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\n##s\n";
    let lower = TextTokenizer::load(&write(folder.path(), "vocab.txt", tokens)).unwrap();
    assert_eq!(lower.encode("The CATS dog").unwrap(), [5, 6, 7, 1]);
    let tokens = tokens.to_owned() + "The\n";
    let cased = TextTokenizer::load(&write(folder.path(), "cased/vocab.txt", tokens)).unwrap();
    assert_eq!(cased.encode("The the Cat").unwrap(), [8, 5, 1]);
    assert_eq!(cased.vocab_size(), 9);
}

#[test]
fn what_is_no_tokenizer_for_masked_models_is_refused() {
    let folder = tempdir().unwrap();
    let load =
        |name: &str, contents: &str| TextTokenizer::load(&write(folder.path(), name, contents));
    let missing = folder.path().join("missing.json");
    assert_error(TextTokenizer::load(&missing), &["missing.json", "No such file"]);
    assert_error(TextTokenizer::load(folder.path()), &["neither tokenizer.json nor vocab.txt"]);
    assert_error(load("bad.json", "{"), &["bad.json", "expected a tokenizer.json"]);
    assert_error(load("vocab.txt", "a\nb\n"), &["vocab.txt", "[UNK]", "one token a line"]);
    assert_error(load("vocab.txt", "[UNK]\nb\nb\n"), &["\"b\" is on lines 2 and 3"]);
    for lacking in ["[PAD]", "[CLS]", "[SEP]", "[MASK]"] {
        let all = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n";
        let tokens = all.replace(&format!("{lacking}\n"), "");
        assert_error(
            load("vocab.txt", &tokens),
            &["vocab.txt", &format!("lacks the token {lacking}")],
        );
    }
}

#[test]
fn padding_and_truncation_of_a_loaded_tokenizer_are_off() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let tokenizer = trained(120);
    tokenizer.save(&path).unwrap();
    let json = std::fs::read_to_string(&path).unwrap();
    let truncation = concat!(
        r#""truncation":{"direction":"Right","max_length":3,"#,
        r#""strategy":"LongestFirst","stride":0}"#
    );
    let padding = concat!(
        r#""padding":{"strategy":{"Fixed":64},"direction":"Right","pad_to_multiple_of":null,"#,
        r#""pad_id":0,"pad_type_id":0,"pad_token":"[PAD]"}"#
    );
    let json =
        json.replace(r#""truncation":null"#, truncation).replace(r#""padding":null"#, padding);
    assert!(json.contains("LongestFirst") && json.contains("Fixed"));
    std::fs::write(&path, json).unwrap();
    assert_equal(&tokenizer, &TextTokenizer::load(&path).unwrap());
}

#[test]
fn a_vocabulary_too_small_to_train_is_refused() {
    let folder = tempdir().unwrap();
    let corpus = Corpus::open(&[write(folder.path(), "text.txt", "a b")]).unwrap();
    assert_error(train_tokenizer(&corpus, 63, &mut |_| {}), &["is 63", "from 64"]);
}
