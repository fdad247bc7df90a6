//! Comparison of what all ranks must have in common, before the first collective.
//!
//! Gloo ends a process, uncatchably, where another sends more than it expects, and gives silent
//! garbage where dtypes differ. So what sizes and dtypes follow from is compared through the store.

use std::collections::BTreeMap;

use super::Store;
use crate::error::{Error, Result};

/// What a rank will do, by name: its version, hashes of configuration, data and parameters.
pub type Facts = BTreeMap<String, String>;

/// Compares `facts` over `size` ranks, of which this is `rank`.
///
/// # Errors
/// The first rank and fact that differ from those of this rank: on every rank, if one differs. A
/// rank that does not come in time.
pub fn agree(store: &Store, rank: usize, size: usize, facts: &Facts) -> Result<()> {
    let key = |rank: usize| format!("facts/{rank}");
    store.set(&key(rank), encode(facts).as_bytes())?;
    for other in (0..size).filter(|other| *other != rank) {
        let theirs = store.get(&key(other))?;
        let theirs = decode(&String::from_utf8_lossy(&theirs));
        if let Some((what, own, found)) = difference(facts, &theirs) {
            return Err(Error::Disagreement { what, rank, own, other, found });
        }
    }
    Ok(())
}

/// One fact a line.
fn encode(facts: &Facts) -> String {
    let one_line = |text: &str| text.replace(['\n', '\t'], " ");
    let line =
        |(name, value): (&String, &String)| format!("{}\t{}", one_line(name), one_line(value));
    facts.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn decode(text: &str) -> Facts {
    let fact = |line: &str| line.split_once('\t').map(|(name, value)| (name.into(), value.into()));
    text.lines().filter_map(fact).collect()
}

/// The first fact that differs: its name, and its values here and there.
fn difference(own: &Facts, other: &Facts) -> Option<(String, String, String)> {
    let own = decode(&encode(own));
    let names = own.keys().chain(other.keys());
    let value = |facts: &Facts, name: &str| {
        facts.get(name).map_or_else(|| "nothing".to_owned(), Clone::clone)
    };
    names
        .map(|name| (name.clone(), value(&own, name), value(other, name)))
        .find(|(_, own, other)| own != other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(pairs: &[(&str, &str)]) -> Facts {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn the_first_difference_is_found_whoever_has_more() {
        let own = facts(&[("data", "1"), ("version", "2\n3")]);
        assert_eq!(difference(&own, &decode(&encode(&own))), None);
        let found = difference(&own, &facts(&[("data", "1"), ("version", "4")]));
        assert_eq!(found, Some(("version".into(), "2 3".into(), "4".into())));
        let more = facts(&[("data", "1"), ("version", "2 3"), ("z", "9")]);
        assert_eq!(difference(&own, &more), Some(("z".into(), "nothing".into(), "9".into())));
        assert!(difference(&own, &Facts::new()).is_some());
    }
}
