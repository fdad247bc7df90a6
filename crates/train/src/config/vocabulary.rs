//! How many tokens a model has where no one says so: as many as the tokenizer that is loaded.

use std::path::{Path, PathBuf};

use bert4rs_data::{Dataset, TextTokenizer};
use toml::Value;

use super::overlays::Overlay;

/// What `data.tokenizer` says where one is to be trained.
pub(crate) const TRAINED: &str = "train";

/// The overlays with the size of the tokenizer that they load, or that of a corpus that is
/// prepared, as `model.vocab_size`, unless one of them sets it; `defaults` is the origin of those
/// that nobody chose. A tokenizer that can't be read is refused where it is used.
pub(super) fn with_vocabulary(mut overlays: Vec<Overlay>, defaults: &str) -> Vec<Overlay> {
    let chosen = |overlay: &&Overlay| overlay.origin != defaults;
    let last = |key: &str| overlays.iter().filter(chosen).rev().find_map(|each| each.value(key));
    if last("model.vocab_size").is_some() {
        return overlays;
    }
    let path = match last("data.tokenizer") {
        Some(Value::String(path)) if path != TRAINED => Some(PathBuf::from(path)),
        _ => last("data.corpus").and_then(Value::as_array).and_then(|paths| prepared(paths)),
    };
    if let Some(path) = path
        && let Ok(tokenizer) = TextTokenizer::load(&path)
    {
        let size = tokenizer.vocab_size() as i64;
        let place = overlays.iter().rposition(|overlay| overlay.origin == defaults);
        let origin = path.display().to_string();
        let overlay = Overlay::single(origin, "model.vocab_size", size);
        overlays.insert(place.map_or(0, |place| place + 1), overlay);
    }
    overlays
}

/// The first of the corpora that is prepared.
fn prepared(corpora: &[Value]) -> Option<PathBuf> {
    let path = |corpus: &Value| {
        let path = corpus.as_str().or_else(|| corpus.get("path")?.as_str())?;
        Dataset::is_in(Path::new(path)).then(|| PathBuf::from(path))
    };
    corpora.iter().find_map(path)
}
