//! Tokenizers of model folders against the ids that their makers give.

use std::path::{Path, PathBuf};

use bert4rs_data::tokenizer::TextStream;
use bert4rs_data::{ModelTokenizer, TextTokenizer};
use serde_json::Value;
use tempfile::tempdir;

use crate::sample::{assert_error, write};

fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

fn load(name: &str) -> ModelTokenizer {
    ModelTokenizer::load(&vectors(name)).unwrap()
}

/// Holds a folder's tokenizer against its recorded ids.
fn check(name: &str) {
    let tokenizer = load(name);
    let text = std::fs::read_to_string(vectors(name).join("ids.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 5);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{name}: {text:?}");
    }
}

#[test]
fn older_files_give_the_ids_of_their_makers() {
    check("t5");
    check("gpt2");
    check("bert_lower");
    check("bert_cased");
}

/// With `BERT4RS_KEEP_TOKENIZERS` set to a folder, what is written stays there, for
/// `vectors/check_tokenizers.py` to load in transformers.
#[test]
fn written_tokenizers_are_the_same_when_read() {
    let kept = std::env::var_os("BERT4RS_KEEP_TOKENIZERS").map(PathBuf::from);
    let temporary = tempdir().unwrap();
    for name in ["t5", "gpt2", "bert_lower", "bert_cased"] {
        let written = kept.as_deref().unwrap_or(temporary.path()).join(name);
        std::fs::create_dir_all(&written).unwrap();
        let tokenizer = load(name);
        tokenizer.save_folder(&written, 64).unwrap();
        std::fs::copy(vectors(name).join("ids.json"), written.join("ids.json")).unwrap();
        let again = ModelTokenizer::load(&written).unwrap();
        assert_eq!(again.max_length(), Some(64));
        for text in ["A training step", "naïve CAFÉ 😀\tcrates"] {
            assert_eq!(again.encode(text).unwrap(), tokenizer.encode(text).unwrap(), "{name}");
        }
        let (found, wanted) = (again.names(), tokenizer.names());
        assert_eq!((&found.eos, &found.mask), (&wanted.eos, &wanted.mask), "{name}");
        assert!(found.pad.is_some(), "{name}: a batch can be padded");
    }
}

#[test]
fn gpt2s_first_names_of_files_are_known() {
    let folder = tempdir().unwrap();
    for (from, to) in [("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")] {
        std::fs::copy(vectors("gpt2").join(from), folder.path().join(to)).unwrap();
    }
    let text = "A training step";
    let renamed = ModelTokenizer::load(folder.path()).unwrap();
    assert_eq!(renamed.encode(text).unwrap(), load("gpt2").encode(text).unwrap());
    assert_eq!(renamed.names().eos.as_deref(), Some("<|endoftext|>"));
}

#[test]
fn special_tokens_are_named_and_found_in_text() {
    let t5 = load("t5");
    let sentinel = t5.id("<extra_id_0>").unwrap();
    assert_eq!(sentinel as usize, t5.vocab_size() - 1);
    assert_eq!(t5.id("<extra_id_99>").unwrap(), sentinel - 99);
    assert_eq!(t5.encode("<extra_id_0>").unwrap(), [sentinel, 1]);
    assert_eq!(t5.names().pad.as_deref(), Some("<pad>"));
    let bert = load("bert_lower");
    assert_eq!(bert.encode("[MASK]").unwrap(), [2, 4, 3]);
    assert_eq!(bert.names().mask.as_deref(), Some("[MASK]"));
}

#[test]
fn text_of_tokens_that_come_one_by_one_is_the_whole_text() {
    let text = "naïve 中文 a\u{301} 😀 and 👩‍👩‍👧 or don't, it says. ".repeat(5);
    for name in ["gpt2", "t5"] {
        let tokenizer = load(name);
        let ids = tokenizer.encode(&text).unwrap();
        let mut stream = TextStream::new(&tokenizer);
        let mut shown = String::new();
        for &id in &ids {
            let new = stream.push(id).unwrap();
            assert!(!new.contains('\u{fffd}'), "{name}: no half characters");
            shown += &new;
        }
        shown += &stream.finish().unwrap();
        assert_eq!(shown, tokenizer.decode(&ids).unwrap(), "{name}");
    }
    // A text that ends within a character shows that at the end.
    let tokenizer = load("gpt2");
    let ids = tokenizer.encode("😀").unwrap();
    let mut stream = TextStream::new(&tokenizer);
    assert_eq!(stream.push(ids[0]).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{fffd}");
}

#[test]
fn folders_without_a_tokenizer_are_refused() {
    let folder = tempdir().unwrap();
    let load = || ModelTokenizer::load(folder.path());
    assert_error(load(), &["no tokenizer", "tokenizer.json", "spiece.model", "vocab.txt"]);
    write(folder.path(), "vocab.txt", "a\nb\n");
    assert_error(load(), &["vocab.txt", "[UNK]"]);
    write(folder.path(), "vocab.json", "[]");
    write(folder.path(), "merges.txt", "#version: 0.2\na b c\n");
    assert_error(load(), &["vocab.json", "JSON object"]);
    write(folder.path(), "vocab.json", "{\"a\": 0}");
    assert_error(load(), &["merges.txt", "line 2", "a b c"]);
    write(folder.path(), "merges.txt", "a b\n");
    assert_error(load(), &["merges.txt"]);
    write(folder.path(), "spiece.model", [0xff, 0xff, 3]);
    assert_error(load(), &["spiece.model", "not a SentencePiece model"]);
    write(folder.path(), "spiece.model", "");
    assert_error(load(), &["spiece.model", "not a Unigram model"]);
    write(folder.path(), "tokenizer.json", "{}");
    assert_error(load(), &["tokenizer.json"]);
    write(folder.path(), "tokenizer_config.json", "{");
    assert_error(load(), &["tokenizer_config.json", "JSON"]);
}

/// Real published tokenizers, run by hand: skipped where `BERT4RS_TOKENIZERS` names no folder
/// with `t5` (spiece.model), `gpt2` (encoder.json and vocab.bpe) and `bert` (vocab.txt), a
/// `lines.txt` of text, and beside each older file an `ids.json` with a list of each line's ids:
/// those of SentencePiece, and of the published `tokenizer.json` in transformers.
#[test]
fn published_files_give_published_ids() {
    let Some(folder) = std::env::var_os("BERT4RS_TOKENIZERS").map(PathBuf::from) else { return };
    let ids = |tokenizer: &ModelTokenizer, text: &str| tokenizer.encode(text).unwrap();
    let lines = std::fs::read_to_string(folder.join("lines.txt")).unwrap();
    for name in ["t5", "gpt2", "bert"] {
        let text = std::fs::read_to_string(folder.join(name).join("ids.json")).unwrap();
        let wanted: Vec<Vec<u32>> = serde_json::from_str(&text).unwrap();
        let tokenizer = ModelTokenizer::load(&folder.join(name)).unwrap();
        assert_eq!(wanted.len(), lines.lines().count());
        for (line, wanted) in lines.lines().zip(wanted) {
            assert_eq!(ids(&tokenizer, line), wanted, "{name}: {line:?}");
        }
    }
    let load = |name: &str| ModelTokenizer::load(&folder.join(name)).unwrap();
    let t5 = [13959, 1566, 12, 2968, 10, 466, 19, 207, 5, 1];
    assert_eq!(ids(&load("t5"), "translate English to German: That is good."), t5);
    assert_eq!(ids(&load("bert"), "hello world"), [101, 7592, 2088, 102]);
    let gpt2 = [15496, 995, 11, 428, 318, 402, 11571, 12, 17, 0];
    assert_eq!(ids(&load("gpt2"), "Hello world, this is GPT-2!"), gpt2);
}

#[test]
fn text_to_train_on_is_encoded_by_what_model_folders_hold() {
    let vectors = |name: &str| vectors(name);
    for (path, text) in [
        (vectors("t5"), "naive text"),
        (vectors("t5").join("spiece.model"), "naive text"),
        (vectors("gpt2"), "naive text"),
        (vectors("gpt2").join("vocab.json"), "naive text"),
        (vectors("bert_cased"), "Naive text"),
    ] {
        let loaded = TextTokenizer::load(&path).unwrap();
        let folder = if path.is_dir() { path.clone() } else { path.parent().unwrap().to_owned() };
        let whole = ModelTokenizer::load(&folder).unwrap().encode(text).unwrap();
        let ids = loaded.encode(text).unwrap();
        assert!(!ids.is_empty() && whole.windows(ids.len()).any(|part| part == ids), "{path:?}");
    }
}

#[test]
fn tokenizers_that_make_their_crate_panic_are_refused() {
    let folder = tempdir().unwrap();
    load("bert_lower").save_folder(folder.path(), 64).unwrap();
    let path = folder.path().join("tokenizer.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let check = |change: fn(&mut Value)| {
        let mut json = good.clone();
        change(&mut json);
        std::fs::write(&path, json.to_string()).unwrap();
        assert_error(ModelTokenizer::load(folder.path()), &["tokenizer.json"]);
    };
    check(|json| json["post_processor"]["special_tokens"] = serde_json::json!({}));
    check(|json| json["decoder"] = serde_json::json!({"type": "ByteLevel", "trim_offsets": 3}));
    check(|json| json["decoder"] = serde_json::json!({"type": "WordPiece"}));
    std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\n").unwrap();
    assert_error(ModelTokenizer::load(folder.path()), &["tokenizer.json", "Git LFS pointer"]);
}

#[test]
fn files_of_roberta_have_tokens_around_a_text() {
    let folder = tempdir().unwrap();
    let tokens = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "Ġ", "ab", "<mask>"];
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id.into())).collect();
    write(folder.path(), "vocab.json", Value::from(vocab).to_string());
    write(folder.path(), "merges.txt", "#version: 0.2\na b\n");
    let tokenizer = ModelTokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.encode("ab <mask>a").unwrap(), [0, 7, 8, 4, 2]);
    assert_eq!(tokenizer.names().mask.as_deref(), Some("<mask>"));
}
