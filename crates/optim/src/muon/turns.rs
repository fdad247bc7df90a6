//! Layers that take turns: each moves in one step of several, with momentum of all of them.
//!
//! Source: Drop-Muon (arXiv 2510.02239), which updates a part of the layers in each step, by lot,
//! and leaves the momentum of the others as it is. Here they go round, so that each step has as
//! much work and a run repeats itself, and no gradient is lost.

/// Which layers' turn it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    /// In how many steps a layer moves once: 1 for all layers in all steps.
    pub(crate) turns: u32,
    /// Steps taken.
    pub(crate) taken: u64,
}

impl Turn {
    /// Whether the parameter of this name moves.
    pub(super) fn is_of(self, name: &str) -> bool {
        (layer_of(name) + self.taken).is_multiple_of(u64::from(self.turns.max(1)))
    }
}

/// The number of the layer that a parameter is of: the first one among the parts of its name. What
/// has none is as the first layer.
fn layer_of(name: &str) -> u64 {
    name.split('.').find_map(|part| part.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_move_once_in_a_round() {
        let names = ["h.0.a", "bert.layer.1.b.weight[0..64]", "layer.2.layer.7.c", "head.weight"];
        assert_eq!(names.map(layer_of), [0, 1, 2, 0]);
        for name in names {
            for turns in 1..4 {
                let moves = (10..10 + u64::from(turns))
                    .filter(|&taken| Turn { turns, taken }.is_of(name))
                    .count();
                assert_eq!(moves, 1, "{name} {turns}");
            }
        }
        let at_once = |taken| names.map(|name| Turn { turns: 2, taken }.is_of(name));
        assert_eq!(at_once(4), [true, false, true, true]);
        assert_eq!(at_once(5), [false, true, false, false]);
    }
}
