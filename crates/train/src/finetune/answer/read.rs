//! Questions with texts that hold their answers: SQuAD's JSON, 1.1 and 2.0, and the same flat, a
//! question a line.

use std::fmt::Display;
use std::path::Path;
use std::rc::Rc;

use bert4rs_data::{TableReader, read_text};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::finetune::example::{bad_file, bad_line};

/// Fields of the flat form, which are those of Hugging Face's copy of SQuAD.
const FIELDS: [&str; 4] = ["question", "context", "answers", "id"];

/// An answer and where it begins in its text, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerText {
    /// The answer.
    pub text: String,
    /// Its first byte.
    pub start: usize,
}

/// A question about a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Its line, or in a file of JSON its number from 1.
    pub line: u64,
    /// Where it stands, for messages.
    pub place: String,
    /// Its name, by which predictions are told.
    pub id: Value,
    /// The question.
    pub question: String,
    /// The text.
    pub context: Rc<str>,
    /// Right answers, all in the text; none where it has no answer. Absent in a file without
    /// labels.
    pub answers: Option<Vec<AnswerText>>,
}

/// Reads the questions in a file, in its order; without answers if not `labelled`.
///
/// # Errors
/// A file that can't be read or is no such JSON, an empty question or text, an answer that is not
/// where it is said to be: with the place.
pub fn read_questions(path: &Path, labelled: bool) -> Result<Vec<Question>> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let questions = match name.to_ascii_lowercase().rsplit_once('.') {
        Some((_, "json")) => of_squad(path, labelled)?,
        Some((_, "csv" | "tsv" | "txt")) => {
            let reason = "holds no questions by its name: expected .json as SQuAD's, or .jsonl \
                          with question, context and answers";
            return Err(bad_file(path, reason));
        }
        _ => of_lines(path, labelled)?,
    };
    if questions.is_empty() {
        return Err(bad_file(path, "has no questions"));
    }
    Ok(questions)
}

/// `data`, a list of articles, each with `paragraphs`, each with a `context` and `qas`.
fn of_squad(path: &Path, labelled: bool) -> Result<Vec<Question>> {
    let whole: Value = serde_json::from_str(&read_text(path)?)
        .map_err(|error| bad_file(path, format!("is no JSON: {error}")))?;
    let mut questions = Vec::new();
    for (article, article_at) in list(path, &whole, "data", "")? {
        for (paragraph, at) in list(path, article, "paragraphs", &article_at)? {
            let context: Rc<str> = text(paragraph, "context", bad_place(path, &at))?.into();
            for (entry, place) in list(path, paragraph, "qas", &at)? {
                let bad = bad_place(path, &place);
                let answers = match labelled {
                    true => Some(answers_of_squad(entry, &context, &bad)?),
                    false => None,
                };
                let question = text(entry, "question", bad)?.to_owned();
                questions.push(Question {
                    line: questions.len() as u64 + 1,
                    place,
                    id: entry["id"].clone(),
                    question,
                    context: Rc::clone(&context),
                    answers,
                });
            }
        }
    }
    Ok(questions)
}

fn answers_of_squad(
    entry: &Value,
    context: &str,
    bad: &impl Fn(&dyn Display) -> Error,
) -> Result<Vec<AnswerText>> {
    match (&entry["answers"], entry["is_impossible"].as_bool()) {
        (_, Some(true)) => Ok(Vec::new()),
        (Value::Array(answers), said) => {
            if answers.is_empty() && said.is_none() {
                let reason = "has no answers, and is_impossible does not say that there are none";
                return Err(bad(&reason));
            }
            let answer = |answer: &Value| {
                placed(context, answer["text"].as_str(), answer["answer_start"].as_u64(), bad)
            };
            answers.iter().map(answer).collect()
        }
        _ => Err(bad(&"has no list \"answers\"")),
    }
}

/// A question a line: `answers` holds a list of texts and one of starts, both empty where the text
/// has no answer.
fn of_lines(path: &Path, labelled: bool) -> Result<Vec<Question>> {
    let mut reader = TableReader::open(path, &FIELDS, if labelled { 3 } else { 2 })?;
    let mut questions = Vec::new();
    while let Some(row) = reader.next_row()? {
        let bad = |reason: &dyn Display| bad_line(path, row.line, reason);
        let [question, context, answers, id] = &row.values[..] else {
            return Err(bad(&"lacks a field"));
        };
        let filled = |name: &str, value: &Value| match value.as_str() {
            Some(text) if !text.trim().is_empty() => Ok(text.to_owned()),
            _ => Err(bad(&format!("has no text in {name:?}, but {value}"))),
        };
        let (question, context) = (filled(FIELDS[0], question)?, filled(FIELDS[1], context)?);
        let answers = match labelled {
            true => Some(answers_of_lists(answers, &context, &bad)?),
            false => None,
        };
        let (context, line, id) = (context.into(), row.line, id.clone());
        let place = format!("line {line}");
        questions.push(Question { line, place, id, question, context, answers });
    }
    Ok(questions)
}

fn answers_of_lists(
    answers: &Value,
    context: &str,
    bad: &impl Fn(&dyn Display) -> Error,
) -> Result<Vec<AnswerText>> {
    let (Some(texts), Some(starts)) =
        (answers["text"].as_array(), answers["answer_start"].as_array())
    else {
        let reason = "has no lists \"text\" and \"answer_start\" in \"answers\"";
        return Err(bad(&reason));
    };
    if texts.len() != starts.len() {
        let reason = format!("has {} answers and {} starts", texts.len(), starts.len());
        return Err(bad(&reason));
    }
    let pairs = texts.iter().zip(starts);
    pairs.map(|(text, start)| placed(context, text.as_str(), start.as_u64(), bad)).collect()
}

/// An answer that the text holds from its character `start` on.
fn placed(
    context: &str,
    text: Option<&str>,
    start: Option<u64>,
    bad: &impl Fn(&dyn Display) -> Error,
) -> Result<AnswerText> {
    let (Some(text), Some(start)) = (text.filter(|text| !text.trim().is_empty()), start) else {
        let reason = "has an answer without a text, or without \"answer_start\", a whole number";
        return Err(bad(&reason));
    };
    let place = usize::try_from(start).ok().and_then(|at| context.char_indices().nth(at));
    match place {
        Some((byte, _)) if context[byte..].starts_with(text) => {
            Ok(AnswerText { text: text.to_owned(), start: byte })
        }
        _ => {
            let length = text.chars().count();
            let there = |(byte, _): (usize, char)| context[byte..].chars().take(length);
            let there = place.map(|place| format!("{:?}", there(place).collect::<String>()));
            let there = there.unwrap_or_else(|| "nothing".into());
            let reason = format!(
                "has the answer {text:?} from character {start} of its text on, where {there} \
                 stands; correct \"answer_start\""
            );
            Err(bad(&reason))
        }
    }
}

/// The error for what stands at `place` of the file's value.
fn bad_place<'a>(path: &'a Path, place: &'a str) -> impl Fn(&dyn Display) -> Error + 'a {
    move |reason| bad_file(path, format!("{place} {reason}"))
}

/// The members of the list `key` of `value`, which stands at `place`, each with its own.
fn list<'a>(
    path: &Path,
    value: &'a Value,
    key: &str,
    place: &str,
) -> Result<Vec<(&'a Value, String)>> {
    let dot = if place.is_empty() { "" } else { "." };
    let Some(members) = value[key].as_array() else {
        let what = if place.is_empty() { "the file" } else { place };
        let reason = format!("{what} has no list {key:?}; expected JSON as SQuAD's");
        return Err(bad_file(path, reason));
    };
    let placed = members.iter().enumerate();
    Ok(placed.map(|(at, member)| (member, format!("{place}{dot}{key}[{at}]"))).collect())
}

fn text<'a>(value: &'a Value, key: &str, bad: impl Fn(&dyn Display) -> Error) -> Result<&'a str> {
    match value[key].as_str() {
        Some(text) if !text.trim().is_empty() => Ok(text),
        _ => Err(bad(&format!("has no text in {key:?}, but {}", value[key]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str, labelled: bool) -> Result<Vec<Question>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_questions(&path, labelled)
    }

    fn squad(qas: &str) -> String {
        format!(r#"{{"data":[{{"paragraphs":[{{"context":"Zoë saw Émile.","qas":[{qas}]}}]}}]}}"#)
    }

    #[test]
    fn both_forms_give_the_same() {
        let nested = squad(
            r#"{"id":"1","question":"Whom?","answers":[{"text":"Émile","answer_start":8}]},
               {"id":"2","question":"When?","answers":[],"is_impossible":true}"#,
        );
        let flat = [
            r#"{"id":"1","question":"Whom?","context":"Zoë saw Émile.","#,
            r#""answers":{"text":["Émile"],"answer_start":[8]}}"#,
            "\n",
            r#"{"id":"2","question":"When?","context":"Zoë saw Émile.","#,
            r#""answers":{"text":[],"answer_start":[]}}"#,
        ];
        let found = read("a.json", &nested, true).unwrap();
        let parts = |questions: &[Question]| -> Vec<_> {
            let part = |one: &Question| (one.line, one.id.clone(), one.answers.clone());
            questions.iter().map(part).collect()
        };
        let lines = read("a.jsonl", &flat.concat(), true).unwrap();
        assert_eq!(parts(&found), parts(&lines));
        assert_eq!(found[1].context, lines[1].context);
        assert_eq!(
            (&*found[1].place, &*lines[1].place),
            ("data[0].paragraphs[0].qas[1]", "line 2")
        );
        let answer = AnswerText { text: "Émile".into(), start: 9 };
        assert_eq!(found[0].answers, Some(vec![answer]));
        assert_eq!(found[1].answers, Some(Vec::new()));
        let unlabelled = read("a.json", &squad(r#"{"id":1,"question":"Whom?"}"#), false).unwrap();
        assert_eq!(unlabelled[0].answers, None);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let answer = |start: u32| {
            squad(&format!(
                r#"{{"question":"Whom?","answers":[{{"text":"Émile","answer_start":{start}}}]}}"#
            ))
        };
        for (text, told) in [
            (answer(9), "data[0].paragraphs[0].qas[0] has the answer \"Émile\" from character 9"),
            (answer(90), "where nothing stands"),
            (squad(r#"{"question":" ","answers":[]}"#), "is_impossible does not say"),
            (squad(r#"{"question":"Who?"}"#), "qas[0] has no list \"answers\""),
            (r#"{"data":[{"paragraphs":[{"qas":[]}]}]}"#.into(), "has no text in \"context\""),
            (r#"{"data":[{}]}"#.into(), "data[0] has no list \"paragraphs\""),
            ("[1]".into(), "the file has no list \"data\""),
            ("{".into(), "is no JSON"),
            (squad(""), "has no questions"),
        ] {
            let error = read("a.json", &text, true).unwrap_err().to_string();
            assert!(error.contains(told), "{told}: {error}");
        }
        let line = r#"{"question":"Whom?","context":"Zoë.","answers":{"text":["b"]}}"#;
        let error = read("a.jsonl", line, true).unwrap_err().to_string();
        assert!(error.contains("line 1 has no lists"), "{error}");
        assert!(read("a.csv", "a", true).unwrap_err().to_string().contains("by its name"));
    }
}
