use bert4rs_data::tokenizer::train_tokenizer;
use bert4rs_data::{Corpus, CorpusReading, Objective, TextTokenizer, TokenizerTraining};
use tempfile::tempdir;

use crate::sample::{assert_error, text, write};

const SENTENCES: [&str; 5] =
    ["The cat sat on a mat.", "Dogs BARKED at night!", "naïve 中文 catmat", "", "[MASK] [CLS]"];

fn trained(vocab_size: usize) -> TextTokenizer {
    trained_for(Objective::MaskedTokens, vocab_size)
}

fn trained_for(objective: Objective, vocab_size: usize) -> TextTokenizer {
    let folder = tempdir().unwrap();
    let corpus =
        Corpus::open(&[write(folder.path(), "text.txt", text(300))], CorpusReading::default())
            .unwrap();
    train_tokenizer(&corpus, objective, TokenizerTraining::new(vocab_size), &mut |_| {}).unwrap()
}

#[track_caller]
fn assert_equal(a: &TextTokenizer, b: &TextTokenizer) {
    assert_eq!(a.vocabulary().unwrap(), b.vocabulary().unwrap());
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
    for objective in [Objective::NextTokens, Objective::Spans] {
        let first = trained_for(objective, 330).fingerprint().unwrap();
        for threads in [1, 2, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let again = pool.install(|| trained_for(objective, 330)).fingerprint().unwrap();
            assert_eq!(first, again, "{objective:?}, {threads} threads");
        }
    }
}

#[test]
fn byte_level_pairs_spell_every_text() {
    let tokenizer = trained_for(Objective::NextTokens, 340);
    assert_eq!(tokenizer.end_of_text().unwrap(), 0);
    assert!(tokenizer.vocab_size() <= 340);
    for text in ["The cat sat  on a mat.", " naïve 中文\t😀\n", "<|endoftext|>", ""] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        assert!(!ids.contains(&0), "the end of a text is no text: {text:?}");
    }
    assert!(tokenizer.encode(" the cat sat").unwrap().len() <= 5, "frequent words are few tokens");
    assert_error(tokenizer.span_tokens(), &["lacks the token <pad>", "span corruption"]);
}

#[test]
fn unigram_has_the_tokens_of_t5() {
    let tokenizer = trained_for(Objective::Spans, 340);
    let tokens = tokenizer.span_tokens().unwrap();
    assert_eq!((tokens.pad, tokens.end, tokenizer.id("<unk>")), (0, 1, Some(2)));
    assert_eq!(tokens.sentinels.len(), 100);
    let last = tokenizer.vocab_size() as u32 - 1;
    let descending: Vec<u32> = (0..100).map(|number| last - number).collect();
    assert_eq!(tokens.sentinels, descending);
    let ids = tokenizer.encode("the cat sat on a mat.").unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "the cat sat on a mat.");
    assert!(ids.len() <= 12, "frequent words are few tokens: {ids:?}");
    let folder = tempdir().unwrap();
    let tags = text(300) + &"</ < pad > s\n".repeat(9);
    let corpus =
        Corpus::open(&[write(folder.path(), "text.txt", tags)], CorpusReading::default()).unwrap();
    let tokenizer =
        train_tokenizer(&corpus, Objective::Spans, TokenizerTraining::new(340), &mut |_| {})
            .unwrap();
    let ids = tokenizer.encode("a </s> cat <pad>").unwrap();
    assert!(!ids.contains(&0) && !ids.contains(&1), "special tokens in text are text: {ids:?}");
    assert_error(tokenizer.end_of_text(), &["lacks the token <|endoftext|>"]);
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
    let special = tokenizer.vocabulary().unwrap().special;
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
    let cased = TextTokenizer::load(&write(folder.path(), "cased/vocab.txt", &tokens)).unwrap();
    assert_eq!(cased.encode("The the Cat").unwrap(), [8, 5, 1]);
    assert_eq!(cased.vocab_size(), 9);
    let windows = format!("\u{feff}{}", tokens.replace('\n', "\r\n"));
    let windows = TextTokenizer::load(&write(folder.path(), "windows/vocab.txt", windows)).unwrap();
    assert_eq!(windows.encode("The the Cat").unwrap(), [8, 5, 1]);
    assert_eq!(windows.id("[PAD]"), Some(0), "a byte order mark is no part of the first token");
}

#[test]
fn what_is_no_tokenizer_for_masked_models_is_refused() {
    let folder = tempdir().unwrap();
    let load =
        |name: &str, contents: &str| TextTokenizer::load(&write(folder.path(), name, contents));
    let missing = folder.path().join("missing.json");
    assert_error(TextTokenizer::load(&missing), &["missing.json", "No such file"]);
    assert_error(TextTokenizer::load(folder.path()), &["this folder has no tokenizer"]);
    assert_error(load("bad.json", "{"), &["bad.json", "expected a tokenizer.json"]);
    assert_error(load("vocab.txt", "a\nb\n"), &["vocab.txt", "[UNK]", "one token a line"]);
    assert_error(load("vocab.txt", "[UNK]\nb\nb\n"), &["\"b\" is on lines 2 and 3"]);
    for lacking in ["[PAD]", "[CLS]", "[SEP]", "[MASK]"] {
        let all = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n";
        let tokens = all.replace(&format!("{lacking}\n"), "");
        let tokenizer = load("vocab.txt", &tokens).unwrap();
        let lacks = format!("lacks the token {lacking}");
        assert_error(tokenizer.vocabulary(), &["vocab.txt", &lacks]);
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
    let corpus =
        Corpus::open(&[write(folder.path(), "text.txt", "a b")], CorpusReading::default()).unwrap();
    assert_error(
        train_tokenizer(&corpus, Objective::MaskedTokens, TokenizerTraining::new(63), &mut |_| {}),
        &["is 63", "from 64"],
    );
}
