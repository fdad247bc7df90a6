//! A model folder's weights for a larger vocabulary.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::{Param, ParamStore};
use bert4rs_tensor_core::{Device, Tensor, no_grad};

use super::folder::names_of;
use super::{Folder, PretrainedConfig};
use crate::error::Result;

const OP: &str = "extend a vocabulary";

impl Folder {
    /// Gives what has a row for each of the folder's `vocab_size` tokens as many rows as the
    /// parameters of `store` have, which the model of `config` was made in: the new rows are those
    /// that the parameters start with. Says whether anything was extended.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn extend_vocabulary<C: PretrainedConfig>(
        &mut self,
        config: &C,
        store: &ParamStore,
        vocab_size: i64,
    ) -> Result<bool> {
        let tied = config.tied();
        let mut extended = false;
        for param in store.params().iter() {
            let mut names = names_of(config, &param.name);
            // A file may hold the output matrix beside the table that it is a copy of.
            if let Some([output, table]) = &tied
                && names_of(config, table).contains(&param.name)
            {
                names.extend(names_of(config, output));
            }
            for name in names {
                let Some(stored) = self.tensors.get_mut(&name) else { continue };
                if lacks_rows(stored, param, vocab_size) {
                    *stored = with_rows_of(stored, param)?;
                    extended = true;
                }
            }
        }
        Ok(extended)
    }
}

/// Whether `stored` has a row for each of `vocab_size` tokens, and `param` more, all else alike.
fn lacks_rows(stored: &Tensor, param: &Param, vocab_size: i64) -> bool {
    let (found, wanted) = (stored.size(), param.weight.size());
    let alike = found.len() == wanted.len() && found.get(1..) == wanted.get(1..);
    alike && found.first() == Some(&vocab_size) && found.first() < wanted.first()
}

/// `stored`, and below it the further rows of `param`.
fn with_rows_of(stored: &Tensor, param: &Param) -> Result<Tensor> {
    let rows = stored.size()[0];
    let start = param.master_or_weight().detach();
    let new = start.f_narrow(0, rows, start.size()[0] - rows).during(OP)?;
    let new = new.f_to_device(Device::Cpu).during(OP)?.f_to_kind(stored.kind()).during(OP)?;
    Ok(no_grad(|| Tensor::f_cat(&[stored, &new], 0)).during(OP)?)
}

#[cfg(test)]
mod tests {
    use bert4rs_tensor_core::Kind;
    use bert4rs_tensor_core::attention::AttentionImplementation;
    use serde_json::json;

    use super::*;
    use crate::bert::{BertConfig, BertForMaskedLm};
    use crate::hugging_face::{Architecture, save};

    fn bert(vocab_size: i64) -> BertConfig {
        BertConfig {
            vocab_size,
            hidden_size: 8,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            // As many as the tokens: only what stands for tokens is to grow.
            intermediate_size: 20,
            max_position_embeddings: 20,
            ..BertConfig::default()
        }
    }

    fn model(config: &BertConfig) -> ParamStore {
        let params = ParamStore::new(Device::Cpu, Kind::Float);
        BertForMaskedLm::new(&params.root(), config, AttentionImplementation::Plain).unwrap();
        params
    }

    #[test]
    fn old_rows_are_the_folders_and_new_ones_those_of_a_fresh_model() {
        let folder = tempfile::tempdir().unwrap();
        let (small, large) = (bert(20), bert(23));
        let trained = model(&small);
        let architecture = Architecture::BERT_FOR_MASKED_LM;
        save(folder.path(), &small, architecture, &trained, json!({})).unwrap();
        let mut extended = model(&large);
        let fresh: Vec<Tensor> = extended.params().iter().map(|p| p.weight.copy()).collect();
        let mut folder = Folder::open(folder.path()).unwrap();
        assert!(folder.load(&large, &mut extended, &[]).is_err(), "not by itself");
        assert!(folder.extend_vocabulary(&large, &extended, 20).unwrap());
        folder.load(&large, &mut extended, &[]).unwrap();
        let all = (extended.params(), trained.params());
        let mut grown = 0;
        for ((found, old), new) in all.0.iter().zip(all.1.iter()).zip(&fresh) {
            let rows = old.weight.size()[0];
            assert!(found.weight.narrow(0, 0, rows) == old.weight, "{}", found.name);
            let more = found.weight.size()[0] - rows;
            if more > 0 {
                grown += 1;
                let expected = new.narrow(0, rows, more);
                assert!(found.weight.narrow(0, rows, more) == expected, "{}", found.name);
            }
        }
        assert_eq!(grown, 2, "the table and the bias of the output layer");
    }
}
