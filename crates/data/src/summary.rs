//! What is known of a dataset without reading its tokens.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What is known of a dataset without reading its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DatasetSummary {
    /// Entropy of the token frequencies in the whole corpus, in nats.
    pub unigram_entropy: f64,
    /// Loss on held-out tokens of a model that predicts the training tokens' frequencies, each
    /// raised by one, in nats.
    pub held_out_unigram_loss: f64,
}

impl DatasetSummary {
    /// Reads what [`write`](Self::write) wrote.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let json = fs::read(path).map_err(Error::io("read", path))?;
        serde_json::from_slice(&json).map_err(|error| Error::io("read", path)(error.into()))
    }

    /// Writes it as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::io("write", path)(error.into()))?;
        Ok(bert4rs_tensor_core::safetensors::write_atomic(path, &json)?)
    }
}
