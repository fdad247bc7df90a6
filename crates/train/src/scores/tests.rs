//! Every score against the reference implementation's.

use serde_json::Value;

use super::answers::ScoredAnswer;
use super::confusion::ConfusionTable;
use super::entities::EntityScores;
use super::multi_label::MultiLabelCounts;
use super::{answers, auc, bleu, chrf, correlation, entities, ranking, rouge};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../tests/vectors/scores.json")).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(|value| value.as_f64().unwrap()).collect()
}

fn indices(value: &Value) -> Vec<usize> {
    list(value).iter().map(|value| value.as_u64().unwrap() as usize).collect()
}

fn texts(value: &Value) -> Vec<&str> {
    list(value).iter().map(|value| value.as_str().unwrap()).collect()
}

#[track_caller]
fn assert_is(found: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
}

#[test]
fn one_class_of_several() {
    for case in list(&vectors()["classes"]) {
        let pairs = indices(&case["right"]).into_iter().zip(indices(&case["predicted"]));
        let table = ConfusionTable::new(case["classes"].as_u64().unwrap() as usize, pairs);
        assert_is(table.accuracy(), &case["accuracy"]);
        assert_is(table.f1_macro(), &case["f1_macro"]);
        assert_is(table.f1_micro(), &case["f1_micro"]);
        assert_is(table.matthews(), &case["matthews"]);
    }
}

#[test]
fn any_number_of_classes() {
    let case = &vectors()["labels"];
    let rows = |name: &str| -> Vec<Vec<bool>> {
        let row = |row: &Value| list(row).iter().map(|flag| flag.as_bool().unwrap()).collect();
        list(&case[name]).iter().map(row).collect()
    };
    let (right, predicted) = (rows("right"), rows("predicted"));
    let pairs = right.iter().zip(&predicted).map(|(right, said)| (&right[..], &said[..]));
    let counts = MultiLabelCounts::new(4, pairs);
    assert_is(counts.exact_match(), &case["exact_match"]);
    assert_is(counts.f1_macro(), &case["f1_macro"]);
    assert_is(counts.f1_micro(), &case["f1_micro"]);
}

#[test]
fn areas_under_curves_with_ties() {
    let case = &vectors()["areas"];
    let right: Vec<bool> = indices(&case["right"]).iter().map(|&label| label == 1).collect();
    assert_is(auc::of_class(&numbers(&case["scores"]), &right).unwrap(), &case["auc"]);
    let found = auc::of_classes(&numbers(&case["shares"]), 3, &indices(&case["many"]));
    assert_is(found.unwrap(), &case["auc_many"]);
    assert_eq!(auc::of_class(&[1.0, 2.0], &[true, true]), None);
}

#[test]
fn correlations_with_ties() {
    let case = &vectors()["numbers"];
    let (left, right) = (numbers(&case["left"]), numbers(&case["right"]));
    assert_is(correlation::pearson(&left, &right).unwrap(), &case["pearson"]);
    assert_is(correlation::spearman(&left, &right).unwrap(), &case["spearman"]);
    assert_is(correlation::mean_squared_error(&left, &right), &case["mse"]);
    assert_eq!(correlation::pearson(&[1.0, 1.0], &[1.0, 2.0]), None);
    assert_eq!(correlation::spearman(&[1.0, f64::NAN], &[1.0, 2.0]), None);
}

#[test]
fn entities_of_every_scheme() {
    for case in list(&vectors()["entities"]) {
        let mut scores = EntityScores::default();
        for (right, predicted) in list(&case["right"]).iter().zip(list(&case["predicted"])) {
            scores.add(&texts(right), &texts(predicted));
        }
        assert_is(scores.overall().f1(), &case["f1"]);
        assert_is(scores.overall().precision(), &case["precision"]);
        assert_is(scores.overall().recall(), &case["recall"]);
        assert_is(scores.f1_macro(), &case["f1_macro"]);
        for (kind, f1) in case["kinds"].as_object().unwrap() {
            assert_is(scores.by_kind()[kind].f1(), f1);
        }
    }
    let found = entities::entities(&["O", "I-PER", "I-PER", "B-PER", "O"]);
    let places: Vec<_> = found.iter().map(|entity| (entity.start, entity.last)).collect();
    assert_eq!(places, [(1, 2), (3, 3)]);
}

#[test]
fn answers_of_both_squads() {
    let case = &vectors()["answers"];
    let mut scored = Vec::new();
    for (row, no_answer) in list(&case["rows"]).iter().zip(numbers(&case["no_answer"])) {
        let (answer, right) = (row["answer"].as_str().unwrap(), texts(&row["right"]));
        assert_is(answers::exact_match(answer, &right), &row["exact"]);
        assert_is(answers::word_f1(answer, &right), &row["f1"]);
        let (score, has_answer) = (answers::word_f1(answer, &right), !right.is_empty());
        let is_empty = answer.is_empty();
        scored.push(ScoredAnswer { score, has_answer, is_empty, no_answer });
    }
    let (threshold, best) = answers::best_threshold(&scored);
    assert_is(100.0 * best, &case["best"]);
    assert_is(threshold, &case["threshold"]);
}

#[test]
fn orders_of_texts() {
    for case in list(&vectors()["rankings"]) {
        let (scores, gains) = (numbers(&case["scores"]), numbers(&case["gains"]));
        assert_is(ranking::ndcg(&scores, &gains, usize::MAX), &case["ndcg"]);
        assert_is(ranking::ndcg(&scores, &gains, 3), &case["ndcg_at_3"]);
    }
    let rank = |cutoff| ranking::reciprocal_rank(&[0.5, 0.9, 0.1], &[true, false, true], cutoff);
    assert_eq!((rank(10), rank(1)), (0.5, 0.0));
    assert_eq!(ranking::reciprocal_rank(&[0.5], &[false], 10), 0.0);
}

#[test]
fn translations_and_summaries() {
    let case = &vectors()["texts"];
    let pairs = |case: &Value| -> Vec<(String, String)> {
        let pair = |pair: &Value| {
            let pair = texts(pair);
            (pair[0].to_owned(), pair[1].to_owned())
        };
        list(&case["pairs"]).iter().map(pair).collect()
    };
    for case in [case, &case["smoothed"], &case["short"]] {
        assert_is(bleu::bleu(pairs(case)), &case["bleu"]);
    }
    assert_is(chrf::chrf(pairs(case)), &case["chrf"]);
    for ((summary, reference), expected) in pairs(case).iter().zip(list(&case["rouge"])) {
        let found = rouge::rouge(summary, reference);
        assert_is(found.rouge1, &expected[0]);
        assert_is(found.rouge2, &expected[1]);
        assert_is(found.rouge_l, &expected[2]);
    }
}
