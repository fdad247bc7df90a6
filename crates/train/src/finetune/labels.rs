//! Which classes there are, in the order of a head's outputs.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

/// Names of classes, each with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelNames {
    names: Vec<String>,
    numbers: HashMap<String, usize>,
}

impl LabelNames {
    /// Names in the order of a head's outputs.
    pub fn new(names: Vec<String>) -> Self {
        let numbers = names.iter().cloned().enumerate().map(|(at, name)| (name, at)).collect();
        Self { names, numbers }
    }

    /// The names that occur, each once: whole numbers by value, others by their letters.
    pub fn of<'a>(found: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names: Vec<String> = found.into_iter().map(str::to_owned).collect();
        names.sort();
        names.dedup();
        if names.iter().all(|name| name.parse::<i64>().is_ok()) {
            names.sort_by_key(|name| name.parse::<i64>().unwrap_or_default());
        }
        Self::new(names)
    }

    /// Those of a `config.json`, where it names each output.
    pub fn of_config(config: &Value) -> Option<Self> {
        let named = config["id2label"].as_object()?;
        let by_number: BTreeMap<usize, &str> = named
            .iter()
            .map(|(number, name)| Some((number.parse().ok()?, name.as_str()?)))
            .collect::<Option<_>>()?;
        let is_whole = by_number.keys().copied().eq(0..by_number.len());
        is_whole.then(|| Self::new(by_number.into_values().map(str::to_owned).collect()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The number of a name.
    pub fn number(&self, name: &str) -> Option<usize> {
        self.numbers.get(name).copied()
    }

    /// The name of a number.
    pub fn name(&self, number: usize) -> &str {
        self.names.get(number).map_or("?", String::as_str)
    }

    /// All names, in the order of their numbers.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether every one of `others` is among them.
    pub fn include(&self, others: &Self) -> bool {
        others.names.iter().all(|name| self.numbers.contains_key(name))
    }

    /// `id2label` and `label2id`, as `config.json` has them.
    pub fn to_config(&self) -> (Value, Value) {
        let pairs = || self.names.iter().enumerate();
        let names: Map<String, Value> =
            pairs().map(|(number, name)| (number.to_string(), json!(name))).collect();
        let numbers: Map<String, Value> =
            pairs().map(|(number, name)| (name.clone(), json!(number))).collect();
        (names.into(), numbers.into())
    }

    /// The names in a sentence; of many, the first.
    pub fn list(&self) -> String {
        const SHOWN: usize = 20;
        let shown = self.names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        match self.len() {
            count if count > SHOWN => format!("{shown}, … ({count} in all)"),
            _ => shown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_their_order_and_configs_give_names_back() {
        assert_eq!(LabelNames::of(["10", "9", "10"]).names(), ["9", "10"]);
        let labels = LabelNames::of(["pos", "neg"]);
        assert_eq!(labels.names(), ["neg", "pos"]);
        let (names, numbers) = labels.to_config();
        assert_eq!(numbers, json!({ "neg": 0, "pos": 1 }));
        assert_eq!(LabelNames::of_config(&json!({ "id2label": names })), Some(labels));
        assert_eq!(LabelNames::of_config(&json!({ "id2label": { "1": "a" } })), None);
    }
}
