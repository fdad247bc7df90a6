//! Text in scripts without spaces: nothing of it is lost when a tokenizer is trained.

use bert4rs_data::tokenizer::train_tokenizer;
use bert4rs_data::{Corpus, CorpusReading, Objective, TextTokenizer, TokenizerTraining};
use tempfile::tempdir;

use crate::sample::{Random, assert_error, write};

const OBJECTIVES: [Objective; 3] =
    [Objective::MaskedTokens, Objective::NextTokens, Objective::Spans];

/// Documents of made-up words, which are more frequent the lower their number, without spaces.
fn prose(seed: u64, documents: usize, word: impl Fn(u64) -> String, stops: [&str; 2]) -> String {
    let mut random = Random(seed);
    let mut text = String::new();
    for _ in 0..documents {
        for _ in 0..40 + random.below(120) {
            // The product of two draws favours low numbers, about as words are distributed.
            text += &word(random.below(2000) * random.below(2000) / 2000);
            if random.below(9) == 0 {
                text += stops[random.below(2) as usize];
            }
        }
        text += "\n\n";
    }
    text
}

/// A word of one to three characters of `alphabet`, the same for the same number.
fn word_of(number: u64, alphabet: &[char]) -> String {
    let mut random = Random(number + 1);
    let length = 1 + random.below(3);
    let count = alphabet.len() as u64;
    (0..length).map(|_| alphabet[random.below(count) as usize]).collect()
}

fn chinese(seed: u64) -> String {
    let characters: Vec<char> = ('\u{4e00}'..).take(300).collect();
    prose(seed, 80, |number| word_of(number, &characters), ["，", "。"])
}

fn thai(seed: u64) -> String {
    let characters: Vec<char> = ('\u{e01}'..='\u{e3a}').chain('\u{e40}'..='\u{e4e}').collect();
    prose(seed, 80, |number| word_of(number, &characters), [" ", "ๆ"])
}

fn japanese(seed: u64) -> String {
    let kana = ('\u{3041}'..='\u{3096}').chain('\u{30a1}'..='\u{30fa}');
    let characters: Vec<char> = kana.chain(('\u{4e00}'..).take(100)).collect();
    prose(seed, 80, |number| word_of(number, &characters), ["、", "。"])
}

fn dna(seed: u64) -> String {
    prose(seed, 60, |number| word_of(number, &['A', 'C', 'G', 'T']), ["", "N"])
}

fn protein(seed: u64) -> String {
    let letters: Vec<char> = "ACDEFGHIKLMNPQRSTVWY".chars().collect();
    prose(seed, 60, |number| word_of(number, &letters), ["", "X"])
}

fn train(text: &str, objective: Objective, training: TokenizerTraining) -> TextTokenizer {
    let folder = tempdir().unwrap();
    let corpus =
        Corpus::open(&[write(folder.path(), "text.txt", text)], CorpusReading::default()).unwrap();
    train_tokenizer(&corpus, objective, training, &mut |_| {}).unwrap()
}

/// Share of tokens of `text` that are unknown, and characters a token.
fn unknown_share(tokenizer: &TextTokenizer, text: &str) -> (f64, f64) {
    let mut ids = Vec::new();
    for document in text.split("\n\n") {
        ids.extend(tokenizer.encode(document).unwrap());
    }
    let unknown = tokenizer.unknown_id();
    let count = ids.iter().filter(|&&id| Some(id) == unknown).count();
    (count as f64 / ids.len() as f64, text.chars().count() as f64 / ids.len() as f64)
}

#[test]
fn scripts_without_spaces_train_to_few_unknown_tokens() {
    type Make = fn(u64) -> String;
    let scripts: [(&str, Make); 5] = [
        ("Chinese", chinese),
        ("Thai", thai),
        ("Japanese", japanese),
        ("DNA", dna),
        ("proteins", protein),
    ];
    for (name, make) in scripts {
        for objective in OBJECTIVES {
            let tokenizer = train(&make(1), objective, TokenizerTraining::new(1500));
            let (unknown, characters) = unknown_share(&tokenizer, &make(2));
            assert!(unknown <= 0.002, "{name}, {objective:?}: {unknown} unknown");
            // Pairs of bytes spell a Chinese character by three at first.
            let least = if objective == Objective::NextTokens { 0.6 } else { 1.0 };
            assert!(characters >= least, "{name}, {objective:?}: {characters} characters a token");
        }
    }
}

#[test]
fn one_long_word_in_every_document_is_learned() {
    let text = ("x".repeat(50) + &"y".repeat(51) + "\n\n").repeat(20);
    for objective in OBJECTIVES {
        let tokenizer = train(&text, objective, TokenizerTraining::new(400));
        let ids = tokenizer.encode(text.lines().next().unwrap()).unwrap();
        assert!(!ids.contains(&tokenizer.unknown_id().unwrap_or(u32::MAX)), "{ids:?}");
        assert!(ids.len() < 101, "{objective:?}: {} tokens", ids.len());
    }
}

#[test]
fn a_vocabulary_has_the_characters_there_is_room_for() {
    let text: String = ('\u{4e00}'..).take(3000).flat_map(|c| [c, c, '\n', '\n']).collect();
    let known = |size: usize, coverage: f64| {
        let training =
            TokenizerTraining { character_coverage: coverage, ..TokenizerTraining::new(size) };
        let tokenizer = train(&text, Objective::Spans, training);
        ('\u{4e00}'..).take(3000).filter(|c| tokenizer.id(&c.to_string()).is_some()).count()
    };
    assert!(known(8000, 0.9995) >= 2998, "all but the last 0.05%");
    assert!((1400..1430).contains(&known(2000, 1.0)), "three quarters of the tokens");
    // A third of what is counted are the spaces before them.
    assert!((2090..2110).contains(&known(4000, 0.8)), "seven tenths of the characters");
}

#[test]
fn bytes_spell_what_a_unigram_vocabulary_lacks() {
    let training = TokenizerTraining { byte_fallback: true, ..TokenizerTraining::new(500) };
    let tokenizer = train(&"the cat sat on a mat\n\n".repeat(30), Objective::Spans, training);
    assert_eq!(tokenizer.unknown_id(), None);
    for text in ["the cat 中文 sat", "😀", "naïve ก"] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
    let training = TokenizerTraining { byte_fallback: true, ..TokenizerTraining::new(400) };
    let folder = tempdir().unwrap();
    let corpus =
        Corpus::open(&[write(folder.path(), "text.txt", "a b")], CorpusReading::default()).unwrap();
    let train = |objective, training| train_tokenizer(&corpus, objective, training, &mut |_| {});
    assert_error(train(Objective::Spans, training), &["is 400", "from 448"]);
    let training = TokenizerTraining { vocab_size: 900, ..training };
    assert_error(train(Objective::NextTokens, training), &["byte_fallback", "only Unigram"]);
    let training = TokenizerTraining { character_coverage: 1.1, ..TokenizerTraining::new(900) };
    assert_error(train(Objective::Spans, training), &["character_coverage is 1.1", "at most 1"]);
}

/// A long run costs as much as many short ones: minutes, where it was quadratic.
#[test]
fn runs_without_an_end_take_linear_time() {
    let run = "a".repeat(200_000);
    let text = format!("{run}\n\n{run}\n\nthe cat\n\n");
    let started = std::time::Instant::now();
    for objective in OBJECTIVES {
        let tokenizer = train(&text, objective, TokenizerTraining::new(600));
        let ids = tokenizer.encode(&run).unwrap();
        assert!(ids.len() <= 200_001, "{objective:?}: {} tokens", ids.len());
    }
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}
