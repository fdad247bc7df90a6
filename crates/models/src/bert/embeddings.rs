//! From tokens to the first hidden states.
//!
//! Axes: `b` batch, `t` time, `d` features, `e` features of the tables.

use bert4rs_tensor_core::param::ParamPath;
use bert4rs_tensor_core::{Kind, Tensor};

use super::{BertConfig, BertInput};
use crate::error::Result;
use crate::layers::{Biased, Dropout, Embedding, Linear, Norm};

/// The tables of tokens, positions and token types; their sum is normalised.
#[derive(Debug)]
pub(super) struct Embeddings {
    pub(super) words: Embedding,
    /// Absent with rotary positions.
    positions: Option<Embedding>,
    /// Absent in relatives of BERT that have none.
    token_types: Option<Embedding>,
    norm: Norm,
    dropout: Dropout,
    /// From `e` to `d` features, where they differ.
    projection: Option<Linear>,
    /// The padding token, if positions count real tokens alone, as in RoBERTa.
    counted_without: Option<i64>,
}

impl Embeddings {
    /// Makes its parameters under `path`, the encoder's.
    pub(super) fn new(path: &ParamPath, config: &BertConfig) -> Result<Self> {
        let (names, features) = (config.variant.names(), config.embedding_size());
        let table = |name: &str, entries, padding| {
            Embedding::new(&(path / name), entries, features, padding, config.init())
        };
        let words = table(names.words, config.vocab_size, config.pad_token_id)?;
        let counted_without = (config.first_position() > 0).then_some(config.first_position() - 1);
        let positions = match config.rotary() {
            None => Some(table(names.positions, config.max_position_embeddings, counted_without)?),
            Some(_) => None,
        };
        let token_types = match config.type_vocab_size {
            0 => None,
            types => Some(table(names.token_types, types, None)?),
        };
        let norm = config.norm(&(path / names.embeddings_norm), features)?;
        let (d, init) = (config.hidden_size, config.init());
        let projection = match features == d {
            true => None,
            false => {
                Some(Linear::new(&(path / "embeddings_project"), features, d, Biased::Yes, init)?)
            }
        };
        let dropout = config.dropout();
        Ok(Self { words, positions, token_types, norm, dropout, projection, counted_without })
    }

    /// `[b, t]` ids to `[b, t, d]`.
    pub(super) fn forward(&self, input: &BertInput, train: bool) -> Result<Tensor> {
        let words_bte = self.words.forward(input.input_ids)?;
        let sum_bte = match self.added(input)? {
            Some(added) => words_bte + added,
            None => words_bte,
        };
        let x_bte = self.dropout.forward(self.norm.forward(&sum_bte)?, train);
        Ok(match &self.projection {
            Some(projection) => projection.forward(&x_bte),
            None => x_bte,
        })
    }

    /// Positions' and token types' rows, which broadcast to `[b, t, e]`.
    fn added(&self, input: &BertInput) -> Result<Option<Tensor>> {
        // Without ids, rows are taken as views and broadcast, which is cheaper than looking up.
        let types = match (&self.token_types, input.token_type_ids) {
            (Some(types), Some(ids)) => Some(types.forward(ids)?),
            (Some(types), None) => Some(types.weight.select(0, 0)),
            (None, _) => None,
        };
        let Some(positions) = &self.positions else { return Ok(types) };
        let positions = match (input.position_ids, self.counted_without) {
            (Some(ids), _) => positions.forward(ids)?,
            (None, Some(padding)) => positions.forward(&counted(input.input_ids, padding))?,
            (None, None) => positions.weight.narrow(0, 0, input.input_ids.size()[1]),
        };
        Ok(Some(match types {
            Some(types) => positions + types,
            None => positions,
        }))
    }
}

/// The position of each token, counted from `padding + 1` and without padding, whose own position
/// is `padding`.
fn counted(ids_bt: &Tensor, padding: i64) -> Tensor {
    let real_bt = ids_bt.ne(padding).to_kind(Kind::Int64);
    real_bt.cumsum(1, Kind::Int64) * &real_bt + padding
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_not_counted() {
        let ids_bt = Tensor::from_slice(&[1i64, 1, 5, 6, 7, 8, 1, 9]).view([2, 4]);
        let positions = Vec::<i64>::try_from(counted(&ids_bt, 1).flatten(0, 1)).unwrap();
        assert_eq!(positions, [1, 1, 2, 3, 2, 3, 1, 4]);
    }
}
