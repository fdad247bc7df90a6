//! Configurations made at random: each is taken whole or refused in words, never by a panic.
//! `PROPTEST_CASES=1000000 cargo test -p bert4rs-train fuzz` looks longer.

use proptest::prelude::*;
use toml::Value;

use super::{Overlay, known_keys, leaves, parse_assignment, resolve};
use crate::presets::PRESETS;

/// Words of serde, which no user is to read.
const FOREIGN: [&str; 5] = ["invalid type", "invalid value", "variant", "enum ", "struct "];

/// Values of every type, and the ends of their ranges.
fn value() -> impl Strategy<Value = Value> {
    let simple = prop_oneof![
        any::<i64>().prop_map(Value::Integer),
        (-3i64..4096).prop_map(Value::Integer),
        any::<f64>().prop_map(Value::Float),
        (0.0..2.0).prop_map(Value::Float),
        any::<bool>().prop_map(Value::Boolean),
        "\\PC{0,12}".prop_map(Value::String),
        prop::sample::select(vec!["published", "none", "auto", "fused", "off", "cpu", "train"])
            .prop_map(Value::from),
    ];
    simple.prop_recursive(2, 8, 3, |inner| {
        let key = prop::sample::select(vec!["kind", "shape", "steps", "fraction", "min", "x"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::vec((key, inner), 0..3).prop_map(|pairs| {
                Value::Table(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

/// A key that there is, one of its sections, or none.
fn key() -> impl Strategy<Value = String> {
    let known = known_keys().unwrap();
    prop_oneof![
        8 => prop::sample::select(known.clone()),
        1 => prop::sample::select(known).prop_map(|key| key.split('.').next().unwrap().to_owned()),
        1 => "[a-z_]{1,8}(\\.[a-z_]{1,8}){0,3}",
    ]
}

/// What becomes of these overlays is a configuration that survives being written, or a message.
fn check(overlays: &[Overlay]) -> Result<(), TestCaseError> {
    match resolve(overlays) {
        Ok(config) => {
            let text = config.to_toml().unwrap();
            let again = resolve(&[Overlay::parse("again", &text).unwrap()]).unwrap();
            prop_assert_eq!(again, config);
        }
        Err(error) => {
            let message = error.to_string();
            prop_assert!(error.is_bad_input() && message.len() < 2500, "{}", message);
            // What is quoted may be the user's own words.
            let spoken: String = message.split('"').step_by(2).collect();
            for word in FOREIGN {
                prop_assert!(!spoken.contains(word), "{}", message);
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_value_of_any_key_is_taken_or_refused(
        pairs in prop::collection::vec((key(), value()), 1..4),
    ) {
        let overlays: Vec<Overlay> = pairs
            .into_iter()
            .map(|(key, value)| Overlay::single("test", &key, value))
            .collect();
        check(&overlays)?;
    }

    #[test]
    fn any_assignment_is_read_or_refused(text in "\\PC{0,60}", key in key()) {
        for text in [text.clone(), format!("{key}={text}")] {
            if let Ok(overlay) = parse_assignment(&text) {
                check(&[overlay])?;
            }
        }
    }

    #[test]
    fn any_damage_to_a_file_is_read_or_refused(
        preset in prop::sample::select(PRESETS.to_vec()),
        place in any::<prop::sample::Index>(),
        length in 0usize..20,
        insert in "\\PC{0,8}",
    ) {
        let letters: Vec<char> = preset.toml.chars().collect();
        let start = place.index(letters.len());
        let end = (start + length).min(letters.len());
        let after = letters[end..].iter().copied();
        let damaged: String =
            letters[..start].iter().copied().chain(insert.chars()).chain(after).collect();
        if let Ok(overlay) = Overlay::parse("damaged.toml", &damaged) {
            check(&[overlay])?;
        }
    }
}

#[test]
fn every_key_has_a_value_of_each_type_to_refuse() {
    let baseline = resolve(&[]).unwrap().to_table().unwrap();
    for (key, _) in leaves(&baseline) {
        for value in [Value::Integer(-7), Value::Boolean(true), Value::Array(vec![])] {
            check(&[Overlay::single("test", &key, value)]).unwrap();
        }
    }
}
