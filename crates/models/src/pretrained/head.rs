//! A folder's model under a head that it may not have had: where fine-tuning begins.

use std::path::Path;

use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamStore;

use super::{LoadOptions, Pretrained};
use crate::bert::BertConfig;
use crate::error::{Error, Result};
use crate::hugging_face::{Architecture, Folder, HeadKind, Loaded, ModelType};

/// What of a folder's head is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldHead {
    /// All that fits.
    Kept,
    /// All that fits but the last map, whose outputs mean something else.
    NewOutputs,
}

/// Last maps of heads.
const OUTPUTS: [&str; 9] = [
    "classifier.weight",
    "classifier.bias",
    "classifier.out_proj.weight",
    "classifier.out_proj.bias",
    "classification_head.out_proj.weight",
    "classification_head.out_proj.bias",
    "score.weight",
    "qa_outputs.weight",
    "qa_outputs.bias",
];

impl Pretrained {
    /// The model in `folder` under the head `head`, in `params`, an empty store. The head's weights
    /// that the folder lacks, or has in another shape, are drawn: they are
    /// [`Loaded::fresh`]. How many classes there are, and which, the folder's `id2label` says: see
    /// [`Folder::set`].
    ///
    /// # Errors
    /// A family that has no such head, and as [`from_folder`](Self::from_folder).
    pub fn with_head(
        folder: &Folder,
        head: HeadKind,
        old: OldHead,
        attention: AttentionImplementation,
        params: ParamStore,
    ) -> Result<(Self, Loaded)> {
        let family = folder.encoder_architecture()?.model_type();
        let architecture = family.with(head).ok_or_else(|| no_head(folder.path(), family, head))?;
        let options = LoadOptions { device: params.device(), kind: params.kind(), attention };
        let may_be_fresh = |name: &str| match family {
            ModelType::Gpt2 => name.starts_with("score."),
            ModelType::T5 => name.starts_with("classification_head."),
            _ => is_above_encoder(folder, name),
        };
        let replaced = |name: &str| old == OldHead::NewOutputs && OUTPUTS.contains(&name);
        Self::assemble(folder, architecture, options, params, &may_be_fresh, &replaced)
    }

    /// Its parameters, for a trainer to own. The model goes on computing with them; this value has
    /// none any more, so that [`save_params`](Self::save_params) is what saves it.
    pub fn take_params(&mut self) -> ParamStore {
        let without = ParamStore::meta(self.params.kind());
        std::mem::replace(&mut self.params, without)
    }
}

/// Whether a parameter of BERT's or a relative's is a head's: a pooler is one.
fn is_above_encoder(folder: &Folder, name: &str) -> bool {
    folder.config::<BertConfig>().is_ok_and(|config| is_above(&config, name))
}

/// The same by the model's configuration.
pub(super) fn is_above(config: &BertConfig, name: &str) -> bool {
    let base = config.variant.names().base;
    match name.strip_prefix(base).and_then(|rest| rest.strip_prefix('.')) {
        Some(inner) => inner.starts_with("pooler."),
        None => true,
    }
}

fn no_head(path: &Path, family: ModelType, head: HeadKind) -> Error {
    let with: Vec<String> = ModelType::ALL
        .into_iter()
        .filter_map(|family| family.with(head).map(|class| class.to_string()))
        .collect();
    let class = Architecture::without_head(family);
    let reason =
        format!("is a {class}, which has no such head in bert4rs; it has {}", with.join(", "));
    Error::File { path: path.to_owned(), reason }
}
