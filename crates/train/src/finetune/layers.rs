//! How deep in a model each parameter is, and so how fast it learns: lower blocks, which know most
//! of a language already, slower than those above (Howard and Ruder 2018), or not at all.

/// Where a parameter stands, from below: tables of embeddings are 0, the first block's are 1, and a
/// head's are one more than the last block's.
fn depth(name: &str, blocks: usize) -> usize {
    if let Some(block) = block(name) {
        return block + 1;
    }
    let is_below = ["embeddings.", "embeddings_project.", "wte.", "wpe.", "shared."];
    if is_below.iter().any(|part| name.contains(part)) { 0 } else { blocks + 1 }
}

/// The number of a parameter's block: the first number in its name.
fn block(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// How a parameter learns.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpeed {
    /// Its name.
    pub name: String,
    /// What its learning rate is multiplied by.
    pub lr_scale: f64,
    /// Whether it stays as it is.
    pub frozen: bool,
}

/// How each of the parameters `names` learns that does not learn at full speed: the rate of a block
/// is `decay` times that of the next above, and embeddings with the lowest `frozen` blocks stay as
/// they are, if any is said.
pub fn speeds(names: &[String], decay: f64, frozen: Option<usize>) -> Vec<ParamSpeed> {
    let blocks = names.iter().filter_map(|name| block(name)).max().map_or(0, |last| last + 1);
    let speed = |name: &String| {
        let depth = depth(name, blocks);
        let frozen = frozen.is_some_and(|count| depth <= count);
        let below = (blocks + 1 - depth) as i32;
        let lr_scale = if frozen { 1.0 } else { decay.powi(below) };
        (frozen || lr_scale != 1.0).then(|| ParamSpeed { name: name.clone(), lr_scale, frozen })
    };
    names.iter().filter_map(speed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_learn_slower_the_lower_they_are() {
        let names = [
            "bert.embeddings.word_embeddings.weight",
            "bert.encoder.layer.0.attention.self.query.weight",
            "bert.encoder.layer.1.output.dense.bias",
            "bert.pooler.dense.weight",
            "classifier.weight",
        ];
        let names = names.map(str::to_owned);
        let scales = |decay, frozen| -> Vec<(f64, bool)> {
            let found = speeds(&names, decay, frozen);
            found.iter().map(|speed| (speed.lr_scale, speed.frozen)).collect()
        };
        assert_eq!(scales(0.5, None), [(0.125, false), (0.25, false), (0.5, false)]);
        assert_eq!(scales(0.5, Some(0)), [(1.0, true), (0.25, false), (0.5, false)]);
        assert_eq!(scales(1.0, Some(1)), [(1.0, true), (1.0, true)]);
        assert!(scales(1.0, None).is_empty());
    }

    #[test]
    fn every_family_has_its_places() {
        for (name, expected) in [
            ("roberta.encoder.layer.1.intermediate.dense.weight", 2),
            ("distilbert.transformer.layer.0.ffn.lin1.weight", 1),
            ("distilbert.embeddings.LayerNorm.weight", 0),
            ("electra.embeddings_project.weight", 0),
            ("model.layers.1.attn.Wqkv.weight", 2),
            ("model.embeddings.tok_embeddings.weight", 0),
            ("transformer.wte.weight", 0),
            ("transformer.h.0.attn.c_attn.weight", 1),
            ("transformer.ln_f.weight", 3),
            ("score.weight", 3),
        ] {
            assert_eq!(depth(name, 2), expected, "{name}");
        }
    }
}
