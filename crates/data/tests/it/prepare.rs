use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bert4rs_data::inspect::ShardStatistics;
use bert4rs_data::shard::ShardWriter;
use bert4rs_data::unigram::{cross_entropy, entropy};
use bert4rs_data::{
    CorpusReading, Dataset, DatasetOptions, DocumentBreak, HeldOut, Layout, MlmBatches, MlmOptions,
    Objective, Phase, TokenStore, TokenizerChoice, TokenizerTraining, prepare,
};
use tempfile::tempdir;

use crate::sample::{assert_error, options, text, write};

fn files(dataset: &Dataset) -> Vec<Vec<u8>> {
    let names = ["tokenizer.json", "train-00000.tokens", "held_out-00000.tokens", "summary.json"];
    names.map(|name| fs::read(dataset.folder.join(name)).unwrap()).into()
}

fn silent(options: &DatasetOptions) -> Dataset {
    prepare(options, &mut |_| {}).unwrap()
}

#[test]
fn a_dataset_is_made_once_with_progress() {
    let folder = tempdir().unwrap();
    let options = options(folder.path(), write(folder.path(), "corpus.txt", text(300)));
    let mut reports = Vec::new();
    let made = prepare(&options, &mut |progress| reports.push(progress)).unwrap();
    for phase in [Phase::CountWords, Phase::TrainTokenizer, Phase::Tokenize] {
        let last = reports.iter().rfind(|report| report.phase == phase).unwrap();
        assert_eq!(last.done, last.total, "{phase:?}");
    }
    made.train.verify(120).unwrap();
    made.held_out.verify(120).unwrap();

    let opened = prepare(&options, &mut |_| panic!("made again")).unwrap();
    assert_eq!(opened.folder, made.folder);
    assert_eq!(opened.summary, made.summary);
    let tokens = |shard: &TokenStore| shard.tokens(0..shard.token_count()).unwrap();
    assert_eq!(tokens(&opened.train), tokens(&made.train));
}

#[test]
fn documents_are_split_in_two_in_order() {
    let folder = tempdir().unwrap();
    let dataset = silent(&options(folder.path(), write(folder.path(), "c.txt", text(1000))));
    let (train, held_out) = (&dataset.train, &dataset.held_out);
    assert_eq!(train.document_count() + held_out.document_count(), 1000);
    // A tenth, give or take three standard deviations.
    assert!((70..130).contains(&held_out.document_count()), "{}", held_out.document_count());
    let expected: Vec<Vec<u32>> = text(1000)
        .split_terminator("\n\n")
        .filter(|document| !document.trim().is_empty())
        .map(|document| dataset.tokenizer.encode(document).unwrap())
        .collect();
    let mut next = [0, 0];
    for document in expected {
        let shards = [train, held_out];
        let side = (0..2).find(|&side| {
            next[side] < shards[side].document_count()
                && shards[side].document(next[side]).unwrap() == document
        });
        next[side.expect("each document comes next on one side")] += 1;
    }
}

#[test]
fn both_sides_get_a_document_however_few_there_are() {
    for count in 2..12 {
        for fraction in [0.001, 0.5] {
            let folder = tempdir().unwrap();
            let corpus = write(folder.path(), "corpus.txt", text(count));
            let options = DatasetOptions {
                held_out: HeldOut::Share(fraction),
                ..options(folder.path(), corpus)
            };
            let dataset = silent(&options);
            let (train, held_out) =
                (dataset.train.document_count(), dataset.held_out.document_count());
            assert!(train > 0 && held_out > 0 && train + held_out == count);
            assert!(fraction > 0.1 || held_out == 1);
        }
    }
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    // More than one round of pieces of 1 MiB for one thread.
    let contents = text(60_000);
    assert!(contents.len() > 5 << 20);
    let folder = tempdir().unwrap();
    let corpus = write(folder.path(), "corpus.txt", contents);
    let make = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let cache = folder.path().join(format!("cache{threads}"));
        let options = DatasetOptions { cache, ..options(folder.path(), corpus.clone()) };
        files(&pool.install(|| silent(&options)))
    };
    let one = make(1);
    assert_eq!(one, make(3));
    assert_eq!(one, make(8));
}

#[test]
fn whatever_decides_the_contents_decides_the_folder() {
    let folder = tempdir().unwrap();
    let corpus = write(folder.path(), "corpus.txt", text(100));
    let options = options(folder.path(), corpus.clone());
    let first = silent(&options).folder;
    let check_other = |options: &DatasetOptions| assert_ne!(silent(options).folder, first);
    check_other(&DatasetOptions { held_out: HeldOut::Share(0.2), ..options.clone() });
    let tokenizer = TokenizerChoice::Train(TokenizerTraining::new(100));
    check_other(&DatasetOptions { tokenizer, ..options.clone() });
    let tokenizer = TokenizerChoice::Load(first.join("tokenizer.json"));
    check_other(&DatasetOptions { tokenizer, ..options.clone() });
    let reading = CorpusReading { document_break: DocumentBreak::Line, ..CorpusReading::default() };
    check_other(&DatasetOptions { reading, ..options.clone() });
    let apart = write(folder.path(), "apart.txt", text(3));
    check_other(&DatasetOptions { held_out: HeldOut::Files(vec![apart]), ..options.clone() });
    let later = SystemTime::now() + Duration::from_secs(5);
    fs::File::options().write(true).open(&corpus).unwrap().set_modified(later).unwrap();
    check_other(&options);
}

#[test]
fn a_loaded_tokenizer_gives_the_tokens_that_it_gave_when_trained() {
    let folder = tempdir().unwrap();
    let trained = options(folder.path(), write(folder.path(), "corpus.txt", text(100)));
    let first = silent(&trained);
    let tokenizer = TokenizerChoice::Load(first.folder.clone());
    let second = silent(&DatasetOptions { tokenizer, ..trained });
    assert_eq!(files(&first), files(&second));
}

#[test]
fn unigram_losses_are_those_of_the_tokens() {
    let folder = tempdir().unwrap();
    let dataset = silent(&options(folder.path(), write(folder.path(), "corpus.txt", text(300))));
    let count = |shard: &TokenStore| {
        let mut counts = vec![0; dataset.tokenizer.vocab_size()];
        for id in shard.tokens(0..shard.token_count()).unwrap() {
            counts[id as usize] += 1;
        }
        counts
    };
    let (train, held_out) = (count(&dataset.train), count(&dataset.held_out));
    let all: Vec<u64> = train.iter().zip(&held_out).map(|(a, b)| a + b).collect();
    let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
    assert!(close(dataset.summary.unigram_entropy, entropy(&all)));
    assert!(close(
        dataset.summary.held_out_unigram_loss.unwrap(),
        cross_entropy(&train, &held_out)
    ));
}

#[test]
fn what_an_interrupted_preparation_left_is_not_trusted() {
    let folder = tempdir().unwrap();
    let options = options(folder.path(), write(folder.path(), "corpus.txt", text(100)));
    let first = silent(&options);
    let expected = files(&first);
    let partial = first.folder.with_extension("partial");
    fs::rename(&first.folder, &partial).unwrap();
    fs::write(partial.join("train-00000.tokens"), "half").unwrap();
    let again = silent(&options);
    assert_eq!(files(&again), expected);
    assert!(!partial.exists());
}

#[test]
fn two_at_once_do_not_disturb_each_other() {
    let folder = tempdir().unwrap();
    let options = options(folder.path(), write(folder.path(), "corpus.txt", text(5000)));
    let all: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| files(&silent(&options)))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|files| *files == all[0]));
}

/// Asserts that a dataset changed by `change` is refused, with what to delete.
#[track_caller]
fn check_damage(change: impl FnOnce(&Path), parts: &[&str]) {
    let folder = tempdir().unwrap();
    let options = options(folder.path(), write(folder.path(), "corpus.txt", text(100)));
    let made = silent(&options).folder;
    change(&made);
    let remedy = format!("delete the folder {}", made.display());
    assert_error(prepare(&options, &mut |_| {}), &[&[remedy.as_str()], parts].concat());
    fs::remove_dir_all(&made).unwrap();
    silent(&options);
}

#[test]
fn damage_in_the_cache_is_named_with_what_to_delete() {
    let cut = |folder: &Path, name: &str| {
        let bytes = fs::read(folder.join(name)).unwrap();
        fs::write(folder.join(name), &bytes[..bytes.len() - 1]).unwrap();
    };
    check_damage(|at| cut(at, "train-00000.tokens"), &["train-00000.tokens", "bytes, expected"]);
    check_damage(
        |at| cut(at, "held_out-00000.tokens"),
        &["held_out-00000.tokens", "bytes, expected"],
    );
    check_damage(|at| cut(at, "summary.json"), &["summary.json", "EOF"]);
    check_damage(|at| cut(at, "tokenizer.json"), &["tokenizer.json"]);
    let remove = |folder: &Path, name: &str| fs::remove_file(folder.join(name)).unwrap();
    check_damage(|at| remove(at, "summary.json"), &["summary.json", "No such file"]);
    check_damage(|at| remove(at, "train-00000.tokens"), &["train-00000.tokens", "No such file"]);
    let space = |at: &Path| {
        let path = at.join("tokenizer.json");
        let json = fs::read_to_string(&path).unwrap();
        fs::write(path, json + " ").unwrap();
    };
    check_damage(space, &["train-00000.tokens was not made with", "tokenizer.json"]);
}

#[test]
fn a_cache_that_can_not_be_written_is_named() {
    let folder = tempdir().unwrap();
    let corpus = write(folder.path(), "corpus.txt", text(10));
    let file = write(folder.path(), "file", "");
    let options = DatasetOptions { cache: file.join("cache"), ..options(folder.path(), corpus) };
    assert_error(prepare(&options, &mut |_| {}), &["create the cache folder", "file/cache"]);
}

#[test]
fn fractions_that_can_not_be_used_are_refused() {
    let folder = tempdir().unwrap();
    let options = options(folder.path(), write(folder.path(), "corpus.txt", text(10)));
    for fraction in [-0.1, 0.51, f64::NAN] {
        let options = DatasetOptions { held_out: HeldOut::Share(fraction), ..options.clone() };
        let value = format!("the held-out share is {fraction}");
        assert_error(prepare(&options, &mut |_| {}), &[&value, "from 0 to 0.5"]);
    }
}

#[test]
fn a_tokenizer_that_lacks_what_the_objective_needs_is_refused() {
    let folder = tempdir().unwrap();
    let trained = options(folder.path(), write(folder.path(), "corpus.txt", text(100)));
    let tokenizer = TokenizerChoice::Load(silent(&trained).folder.clone());
    let of = |objective| {
        let tokenizer = tokenizer.clone();
        prepare(&DatasetOptions { objective, tokenizer, ..trained.clone() }, &mut |_| {})
    };
    assert_error(of(Objective::NextTokens), &["tokenizer.json", "lacks the token <|endoftext|>"]);
    assert_error(of(Objective::Spans), &["tokenizer.json", "lacks the token <pad>"]);
}

#[test]
fn a_dataset_that_was_changed_is_refused() {
    let change = |change: fn(&mut [u8])| {
        move |folder: &Path| {
            let path = folder.join("train-00000.tokens");
            let mut bytes = fs::read(&path).unwrap();
            change(&mut bytes[128..]);
            fs::write(path, bytes).unwrap();
        }
    };
    let damaged = ["train-00000.tokens", "does not match its checksum"];
    check_damage(change(|tokens| tokens[7] ^= 1), &damaged);
    check_damage(change(|tokens| tokens[..200].rotate_left(100)), &damaged);
    let number = |folder: &Path| {
        let path = folder.join("summary.json");
        let json = fs::read_to_string(&path).unwrap();
        fs::write(&path, json.replacen("entropy\": ", "entropy\": 1", 1)).unwrap();
    };
    check_damage(number, &["summary.json", "does not match its checksum"]);
}

#[test]
fn a_token_that_the_vocabulary_lacks_is_refused() {
    let replace = |folder: &Path| {
        let good = TokenStore::open(&folder.join("train-00000.tokens")).unwrap();
        let path = folder.join("train-00000.tokens");
        let mut writer = ShardWriter::create(&path, 120, *good.fingerprint()).unwrap();
        writer.push(&[7, 8, 60_000]).unwrap();
        writer.finish().unwrap();
    };
    check_damage(replace, &["train-00000.tokens has the token 60000", "the vocabulary is"]);
}

#[test]
fn a_token_file_that_is_cut_short_while_it_is_used_is_an_error() {
    let folder = tempdir().unwrap();
    let dataset = silent(&options(folder.path(), write(folder.path(), "c.txt", text(1000))));
    let file = fs::File::options().write(true).open(dataset.train.paths().next().unwrap()).unwrap();
    file.set_len(1000).unwrap();
    let count = dataset.train.token_count();
    assert_error(
        dataset.train.tokens(0..count),
        &["train-00000.tokens was cut short while it was in"],
    );
}

#[test]
fn a_corpus_that_changes_while_it_is_read_is_refused() {
    let folder = tempdir().unwrap();
    let corpus = write(folder.path(), "corpus.txt", text(300));
    let options = options(folder.path(), corpus.clone());
    let mut changed = false;
    let prepared = prepare(&options, &mut |progress| {
        if progress.phase == Phase::Tokenize && !changed {
            changed = true;
            fs::write(&corpus, text(300).replace("cat", "dog")).unwrap();
        }
    });
    assert!(changed);
    assert_error(prepared, &["corpus.txt", "changed while it was read"]);
}

#[test]
fn files_are_known_by_their_contents_too() {
    let folder = tempdir().unwrap();
    let corpus = write(folder.path(), "corpus.txt", text(100));
    let modified = fs::metadata(&corpus).unwrap().modified().unwrap();
    let options = options(folder.path(), corpus.clone());
    let first = silent(&options).folder;
    fs::write(&corpus, text(100).replace("cat", "dog")).unwrap();
    fs::File::options().write(true).open(&corpus).unwrap().set_modified(modified).unwrap();
    assert_ne!(silent(&options).folder, first);
}

#[test]
fn a_corpus_of_one_document_is_split_by_position_and_said_so() {
    let folder = tempdir().unwrap();
    let long = text(50).replace('\n', " ");
    let options = options(folder.path(), write(folder.path(), "corpus.txt", &long));
    let dataset = silent(&options);
    let (train, held_out) = (&dataset.train, &dataset.held_out);
    assert_eq!((train.document_count(), held_out.document_count()), (1, 1));
    let all = dataset.tokenizer.encode(long.trim()).unwrap();
    assert_eq!(held_out.token_count(), (0.1 * all.len() as f64).round() as usize);
    assert_eq!([train.document(0).unwrap(), held_out.document(0).unwrap()].concat(), all);
    assert!(dataset.notes[0].contains("one document: its end is held out"), "{:?}", dataset.notes);
    assert_eq!(silent(&options).notes, dataset.notes, "said each time");
}

#[test]
fn nothing_held_out_is_a_choice() {
    let folder = tempdir().unwrap();
    let options = options(folder.path(), write(folder.path(), "corpus.txt", text(1)));
    let dataset = silent(&DatasetOptions { held_out: HeldOut::Share(0.0), ..options });
    assert_eq!((dataset.train.document_count(), dataset.held_out.document_count()), (1, 0));
    assert_eq!(dataset.summary.held_out_unigram_loss, None);
    let options = MlmOptions {
        batch_size: 2,
        sequence_length: 64,
        mask_rate: 0.15,
        layout: Layout::Packed,
        seed: 1,
        unit: bert4rs_data::MaskUnit::Tokens,
        fit: bert4rs_data::Fit::EndToEnd,
    };
    let vocabulary = dataset.tokenizer.vocabulary().unwrap();
    let batches = MlmBatches::held_out(dataset.held_out, vocabulary, options).unwrap();
    assert_eq!(batches.batches_per_epoch(), 0);
}

#[test]
fn which_documents_are_held_out_depends_on_their_text_alone() {
    let folder = tempdir().unwrap();
    let held_out = |name: &str, contents: &str| -> Vec<String> {
        let corpus = write(folder.path(), name, contents);
        let tokenizer = TokenizerChoice::Load(
            silent(&options(folder.path(), write(folder.path(), "t.txt", text(300)))).folder,
        );
        let dataset = silent(&DatasetOptions { tokenizer, ..options(folder.path(), corpus) });
        let decode = |index| {
            let tokens = dataset.held_out.document(index).unwrap();
            dataset.tokenizer.decode(&tokens).unwrap()
        };
        (0..dataset.held_out.document_count()).map(decode).collect()
    };
    let first = held_out("a.txt", &text(300));
    let grown = held_out("b.txt", &format!("a cat in front\n\n{}a dog behind", text(300)));
    let known: Vec<&String> = grown.iter().filter(|text| first.contains(text)).collect();
    assert_eq!(known.len(), first.len());
}

#[test]
fn unknown_tokens_are_counted_and_warned_about() {
    let folder = tempdir().unwrap();
    let trained = silent(&options(folder.path(), write(folder.path(), "a.txt", text(100))));
    assert_eq!(trained.summary.unknown_share, Some(0.0));
    let corpus = write(folder.path(), "b.txt", "the cat 中\n\n".repeat(50));
    let tokenizer = TokenizerChoice::Load(trained.folder);
    let dataset = silent(&DatasetOptions { tokenizer, ..options(folder.path(), corpus) });
    let share = dataset.summary.unknown_share.unwrap();
    assert!((share - 1.0 / 3.0).abs() < 1e-9, "{share}");
    assert!(dataset.notes[0].contains("33.3% of the tokens are unknown"), "{:?}", dataset.notes);
}

#[test]
fn the_statistics_of_a_dataset_are_those_of_its_tokens() {
    let folder = tempdir().unwrap();
    let dataset = silent(&options(folder.path(), write(folder.path(), "c.txt", text(300))));
    let found = ShardStatistics::of(&dataset.train, &dataset.tokenizer).unwrap();
    assert_eq!(found.documents, dataset.train.document_count() as u64);
    assert_eq!(found.lengths.iter().sum::<u64>(), found.documents);
    let tokens = dataset.train.tokens(0..dataset.train.token_count()).unwrap();
    let total: u64 = found.frequencies.iter().map(|(_, count)| count).sum();
    assert_eq!((found.tokens, total), (tokens.len() as u64, tokens.len() as u64));
    let (most, count) = found.frequencies[0];
    assert_eq!(tokens.iter().filter(|&&id| id == most).count() as u64, count);
    assert!(found.frequencies.is_sorted_by(|a, b| a.1 >= b.1));
    let in_bucket = |power: u32, length: u64| (1 << power..2 << power).contains(&length);
    let lengths = dataset.train.offsets().windows(2).map(|pair| pair[1] - pair[0]);
    let eights = lengths.filter(|&length| in_bucket(3, length)).count() as u64;
    assert_eq!(found.lengths[3], eights);
    assert!((1.0..8.0).contains(&found.bytes_per_token), "{}", found.bytes_per_token);
    assert_eq!(found.unknown_share, 0.0);
}
