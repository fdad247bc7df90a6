//! serde's words about a value, in the user's: what was found, what can be chosen.

use toml::{Table, Value};

use super::overlays::Defaults;
use crate::error::{Result, shorten};
use crate::nearest::nearest;

/// What serde says where a choice has another name.
const UNKNOWN_VARIANT: &str = "unknown variant `";

/// What is wrong with the value of `key`, in `words` of serde. `try_value` gives serde's words
/// about another value of that key.
///
/// # Errors
/// None, as the baseline's file is TOML.
pub(super) fn explain(
    words: &str,
    defaults: &Defaults,
    try_value: impl Fn(Value) -> Option<String>,
) -> Result<String> {
    if let Some(rest) = words.strip_prefix("unknown field `") {
        return no_such_key(rest, defaults);
    }
    if let Some(rest) = words.strip_prefix("missing field `") {
        let name = rest.split('`').next().unwrap_or_default();
        return Ok(format!("{name} is missing; give this section a value for it"));
    }
    if let Some(rest) = words.strip_prefix(UNKNOWN_VARIANT) {
        let found = rest.rsplit_once("`, expected").map_or(rest, |(found, _)| found);
        return Ok(no_such_choice(found, &names_after_expected(rest)));
    }
    let Some((found, expected)) = found_and_expected(words) else { return Ok(shorten(words)) };
    let expected = match in_words(expected) {
        Some(expected) => expected,
        None => choices(try_value).unwrap_or_else(|| expected.to_owned()),
    };
    Ok(format!("{found} is not what it takes: {expected}"))
}

/// About a key that there is not, from "x`, expected one of `a`, `b`".
fn no_such_key(rest: &str, defaults: &Defaults) -> Result<String> {
    let unknown = rest.split('`').next().unwrap_or_default();
    let keys = defaults.keys()?;
    // A forgotten section is the commonest slip: `seq_len` for `data.seq_len`.
    let elsewhere = keys.iter().find(|key| key.rsplit('.').next() == Some(unknown));
    let expected = names_after_expected(rest);
    let near = nearest(unknown, expected).or(elsewhere.map(String::as_str));
    Ok(match near {
        Some(near) => format!("no such key; did you mean {near}?"),
        None => format!("no such key; {}", defaults.help),
    })
}

fn no_such_choice(found: &str, names: &[&str]) -> String {
    let hint = nearest(found, names.iter().copied());
    let hint = hint.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    format!("{:?} is not one of {}{hint}", shorten(found), one_of(names))
}

/// The names between backticks after the last "expected".
fn names_after_expected(words: &str) -> Vec<&str> {
    let expected = words.rsplit_once("expected").map_or("", |(_, expected)| expected);
    expected.split('`').skip(1).step_by(2).collect()
}

/// "invalid type: integer `3`, expected u32" as `3` and `u32`.
fn found_and_expected(words: &str) -> Option<(String, &str)> {
    // A section is read from a list too, by the places of its keys.
    if words.starts_with("invalid length ") {
        return words.rsplit_once(", expected ").map(|(_, expected)| ("a list".into(), expected));
    }
    let rest = words.strip_prefix("invalid type: ").or(words.strip_prefix("invalid value: "))?;
    let (found, expected) = rest.rsplit_once(", expected ")?;
    let value = match found.split_once(['`', '"']) {
        Some((kind, value)) if kind.starts_with("string") => {
            format!("\"{}\"", shorten(value.trim_end_matches('"')))
        }
        Some((_, value)) => shorten(value.trim_end_matches('`')),
        None if found == "map" => "a section".into(),
        None if found == "sequence" => "a list".into(),
        None if found.ends_with("variant") => "this value".into(),
        None => found.to_owned(),
    };
    Some((value, expected))
}

/// What serde calls a type, as people do; `None` for a choice.
fn in_words(expected: &str) -> Option<String> {
    let words = match expected {
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        // TOML's whole numbers end here.
        "u64" => format!("a whole number from 0 to {}", i64::MAX),
        "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a string" => "text in quotes".into(),
        "a sequence" => "a list, such as [\"a\", \"b\"]".into(),
        expected if expected.starts_with("struct ") => "a section with keys of its own".into(),
        _ => return None,
    };
    Some(words)
}

/// What can be chosen: asked of serde by a choice that there is not.
fn choices(try_value: impl Fn(Value) -> Option<String>) -> Option<String> {
    /// Shows the names that there are, and where they stand.
    type Show = fn(&[&str]) -> String;
    const NONE: &str = "?";
    let of_kind =
        |key: &str, value: Value| Value::Table(Table::from_iter([(key.to_owned(), value)]));
    let probes: [(Value, Show); 4] = [
        (NONE.into(), one_of),
        (of_kind("kind", NONE.into()), |names| format!("{{ kind = … }}, of {}", one_of(names))),
        (of_kind("shape", NONE.into()), |names| format!("{{ shape = … }}, of {}", one_of(names))),
        (of_kind(NONE, 0.into()), |names| format!("{{ NAME = … }}, of {}", one_of(names))),
    ];
    probes.into_iter().find_map(|(probe, show)| {
        let words = try_value(probe)?;
        let rest = words.strip_prefix(UNKNOWN_VARIANT)?;
        Some(show(&names_after_expected(rest)))
    })
}

/// `a, b or c`.
fn one_of(names: &[&str]) -> String {
    match names {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        names => names.concat(),
    }
}
