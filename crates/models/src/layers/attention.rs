//! Multi-head attention. Source: arXiv 1706.03762, section 3.2.
//!
//! Axes: `b` batch, `h` heads, `g` heads of keys and values, `t` queries, `s` keys, `d` features,
//! `e` features of a head.

use std::cell::Cell;

use bert4rs_tensor_core::attention::{AttentionImplementation, AttentionOptions};
use bert4rs_tensor_core::param::{Init, ParamPath};
use bert4rs_tensor_core::policy::Policy;
use bert4rs_tensor_core::{Device, Tensor};

use super::backend::{AttentionBackend, Heads};
use super::{Biased, Linear, Norm, NormKind, Rotation};
use crate::error::Result;
use crate::mask::AttentionMask;

/// Sizes and choices of a [`MultiHeadAttention`].
#[derive(Debug, Clone, Copy)]
pub struct MultiHeadConfig {
    /// Features `d` in and out.
    pub hidden: i64,
    /// Heads `h` of queries.
    pub heads: i64,
    /// Heads `g` of keys and values, a divisor of `heads`.
    pub kv_heads: i64,
    /// Features `e` of a head.
    pub head_size: i64,
    /// Whether the maps have biases.
    pub biased: Biased,
    /// What scores are multiplied with; `1 / √e` if absent.
    pub scale: Option<f64>,
    /// RMS norms of each head's queries and keys, with this eps (QK-norm, arXiv 2302.05442).
    pub qk_norm: Option<f64>,
    /// Which code computes attention.
    pub implementation: AttentionImplementation,
    /// Probability of dropping an attention weight, in training.
    pub dropout: f64,
    /// How the maps start.
    pub init: MultiHeadInit,
}

/// How the maps of a [`MultiHeadAttention`] start.
#[derive(Debug, Clone, Copy)]
pub struct MultiHeadInit {
    /// Of queries.
    pub query: Init,
    /// Of keys and values.
    pub key_value: Init,
    /// Of the output.
    pub output: Init,
}

impl MultiHeadConfig {
    /// Multiply-adds a token, where each query sees `keys` keys.
    pub fn products(&self, keys: f64) -> f64 {
        let (d, e) = (self.hidden as f64, self.head_size as f64);
        let (h, g) = (self.heads as f64, self.kv_heads as f64);
        2.0 * d * e * (h + g) + 2.0 * keys * h * e
    }
}

/// Where a [`MultiHeadAttention`] has its maps.
#[derive(Debug)]
pub enum MultiHeadPaths<'a> {
    /// Queries, keys and values have maps of their own.
    Separate {
        /// Of queries.
        query: ParamPath<'a>,
        /// Of keys.
        key: ParamPath<'a>,
        /// Of values.
        value: ParamPath<'a>,
        /// Of the heads' joint output.
        output: ParamPath<'a>,
        /// Above the `query_norm` and `key_norm` of QK-norm.
        norms: ParamPath<'a>,
    },
    /// One map gives queries, keys and values, in this order.
    Joint {
        /// Of queries, keys and values.
        query_key_value: ParamPath<'a>,
        /// Of the heads' joint output.
        output: ParamPath<'a>,
        /// Above the `query_norm` and `key_norm` of QK-norm.
        norms: ParamPath<'a>,
    },
}

/// The maps to queries, keys and values.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one an attention layer, never moved")]
enum Projections {
    Separate { query: Linear, key: Linear, value: Linear },
    Joint(Linear),
}

/// What attention reads beside its queries' source.
#[derive(Debug)]
pub struct AttentionInput<'a> {
    /// Which keys a query sees.
    pub mask: &'a AttentionMask,
    /// What rotates queries and keys by their positions.
    pub rotation: Option<&'a Rotation>,
    /// Keys and values of earlier calls, to which this call's are added.
    pub cache: Option<&'a mut KeyValueCache>,
    /// Whether dropout acts.
    pub train: bool,
}

/// Keys and values that were computed before, `[b, g, s, e]`.
#[derive(Debug, Default)]
pub struct KeyValueCache {
    held: Option<(Tensor, Tensor)>,
}

impl KeyValueCache {
    /// Number of positions held.
    pub fn len(&self) -> i64 {
        self.held.as_ref().map_or(0, |(keys, _)| keys.size()[2])
    }

    /// Whether nothing is held yet.
    pub fn is_empty(&self) -> bool {
        self.held.is_none()
    }

    /// Keeps the rows of the batch that `rows` names, in its order.
    pub fn select_rows(&mut self, rows: &Tensor) {
        if let Some((keys, values)) = &mut self.held {
            *keys = keys.index_select(0, rows);
            *values = values.index_select(0, rows);
        }
    }

    fn extend(&mut self, k_bgse: Tensor, v_bgse: Tensor) -> (Tensor, Tensor) {
        let (keys, values) = match self.held.take() {
            None => (k_bgse, v_bgse),
            Some((keys, values)) => {
                (Tensor::cat(&[keys, k_bgse], 2), Tensor::cat(&[values, v_bgse], 2))
            }
        };
        let held = (keys.shallow_clone(), values.shallow_clone());
        self.held = Some(held);
        (keys, values)
    }
}

/// `softmax(q kᵀ · scale) v` in each head, between linear maps.
#[derive(Debug, Clone)]
pub struct MultiHeadAttention {
    config: MultiHeadConfig,
    projections: Projections,
    norms: Option<(Norm, Norm)>,
    output: Linear,
    policy: Policy,
    /// The code that computed it when it was first used.
    backend: Cell<Option<AttentionBackend>>,
}

impl MultiHeadAttention {
    /// Makes its parameters at `paths`.
    ///
    /// # Errors
    /// A name that the store has already, and what libtorch throws.
    pub fn new(paths: &MultiHeadPaths, config: &MultiHeadConfig) -> Result<Self> {
        let MultiHeadConfig { hidden, heads, kv_heads, head_size, biased, init, .. } = *config;
        let (q, kv) = (heads * head_size, kv_heads * head_size);
        let linear = |path, outputs, init| Linear::new(path, hidden, outputs, biased, init);
        let (projections, output, norms) = match paths {
            MultiHeadPaths::Separate { query, key, value, output, norms } => {
                let projections = Projections::Separate {
                    query: linear(query, q, init.query)?,
                    key: linear(key, kv, init.key_value)?,
                    value: linear(value, kv, init.key_value)?,
                };
                (projections, output, norms)
            }
            MultiHeadPaths::Joint { query_key_value, output, norms } => {
                let joint = linear(query_key_value, q + 2 * kv, init.query)?;
                (Projections::Joint(joint), output, norms)
            }
        };
        let norms = match config.qk_norm {
            None => None,
            Some(eps) => {
                let norm = |name: &str| Norm::new(&(norms / name), NormKind::Rms, head_size, eps);
                Some((norm("query_norm")?, norm("key_norm")?))
            }
        };
        let policy = output.policy().clone();
        let output = Linear::new(output, q, hidden, biased, init.output)?;
        Ok(Self { config: *config, projections, norms, output, policy, backend: Cell::new(None) })
    }

    /// The code that computed it when it was first used; absent before.
    pub fn backend(&self) -> Option<AttentionBackend> {
        self.backend.get()
    }

    /// Whether it draws random numbers in training.
    pub fn drops(&self) -> bool {
        self.config.dropout > 0.0 || self.maps().into_iter().any(Linear::drops)
    }

    /// Its parameters.
    pub fn weights(&self) -> impl Iterator<Item = &Tensor> {
        let maps = self.maps();
        let norms = self.norms.iter().flat_map(|(query, key)| [query, key]);
        maps.into_iter().flat_map(Linear::weights).chain(norms.flat_map(Norm::weights))
    }

    fn maps(&self) -> Vec<&Linear> {
        match &self.projections {
            Projections::Separate { query, key, value } => vec![query, key, value, &self.output],
            Projections::Joint(joint) => vec![joint, &self.output],
        }
    }

    /// Its maps, to be changed.
    pub fn maps_mut(&mut self) -> Vec<&mut Linear> {
        match &mut self.projections {
            Projections::Separate { query, key, value } => {
                vec![query, key, value, &mut self.output]
            }
            Projections::Joint(joint) => vec![joint, &mut self.output],
        }
    }

    /// Queries, keys and values, `[b, t, h·e]` and `[b, t, g·e]` twice, of separate maps by one
    /// product if `joined`.
    fn project(&self, x_btd: &Tensor, joined: bool, train: bool) -> [Tensor; 3] {
        match &self.projections {
            Projections::Separate { query, key, value } => {
                let maps = [query, key, value];
                let parts = if joined { Linear::forward_joined(maps, x_btd) } else { None };
                parts.unwrap_or_else(|| maps.map(|map| map.forward_adapted(x_btd, train)))
            }
            Projections::Joint(joint) => {
                let MultiHeadConfig { heads, kv_heads, head_size, .. } = self.config;
                let (q, kv) = (heads * head_size, kv_heads * head_size);
                let parts = joint.forward_adapted(x_btd, train).split_with_sizes([q, kv, kv], -1);
                [0, 1, 2].map(|part| parts[part].shallow_clone())
            }
        }
    }

    /// Whether separate maps multiply integers of 8 bits.
    fn is_of_integers(&self) -> bool {
        matches!(&self.projections, Projections::Separate { query, .. } if query.int8.is_some())
    }

    /// Queries, keys and values all from `x_btd`: `[b, t, d]` to `[b, t, d]`.
    ///
    /// # Errors
    /// What the implementation of attention can't do, and what libtorch throws there.
    pub fn forward(&self, x_btd: &Tensor, input: AttentionInput) -> Result<Tensor> {
        let (query_norm, key_norm) = self.norms();
        // A GPU would be half idle in each of three products, and integers be made three times.
        let joined = x_btd.device() != Device::Cpu || self.is_of_integers();
        let parts = self.project(x_btd, joined, input.train);
        let q_bhte = self.heads(&parts[0], query_norm, input.rotation)?;
        let mut k_bgte = self.heads(&parts[1], key_norm, input.rotation)?;
        let mut v_bgte = self.heads(&parts[2], None, None)?;
        if let Some(cache) = input.cache {
            (k_bgte, v_bgte) = cache.extend(k_bgte, v_bgte);
        }
        self.finish(&q_bhte, &k_bgte, &v_bgte, input.mask, input.train)
    }

    /// Queries from `x_btd`, keys and values from `memory_bsd`: `[b, t, d]` to `[b, t, d]`. A
    /// cache keeps the memory's keys and values, which are then computed once.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); one joint map for queries, keys and values.
    pub fn cross(
        &self,
        x_btd: &Tensor,
        memory_bsd: &Tensor,
        input: AttentionInput,
    ) -> Result<Tensor> {
        let Projections::Separate { query, key, value } = &self.projections else {
            return Err(bert4rs_tensor_core::Error::Unsupported {
                what: "cross-attention with one map for queries, keys and values".into(),
                reason: "keys and values come from another tensor".into(),
            }
            .into());
        };
        // Gradients of keys and values are summed before those of other blocks are added, so that
        // activation checkpointing gives the same bits.
        let memory_bsd = &memory_bsd.alias();
        let (query_norm, key_norm) = self.norms();
        let train = input.train;
        let q_bhte = self.heads(&query.forward_adapted(x_btd, train), query_norm, None)?;
        let key_value = || -> Result<_> {
            let k_bgse = self.heads(&key.forward_adapted(memory_bsd, train), key_norm, None)?;
            Ok((k_bgse, self.heads(&value.forward_adapted(memory_bsd, train), None, None)?))
        };
        let (k_bgse, v_bgse) = match input.cache {
            None => key_value()?,
            Some(KeyValueCache { held: Some((keys, values)) }) => {
                (keys.shallow_clone(), values.shallow_clone())
            }
            Some(cache) => {
                let (keys, values) = key_value()?;
                cache.extend(keys, values)
            }
        };
        self.finish(&q_bhte, &k_bgse, &v_bgse, input.mask, input.train)
    }

    fn finish(
        &self,
        q_bhte: &Tensor,
        k_bgse: &Tensor,
        v_bgse: &Tensor,
        mask: &AttentionMask,
        train: bool,
    ) -> Result<Tensor> {
        let dropout = if train { self.config.dropout } else { 0.0 };
        let MultiHeadConfig { implementation, scale, .. } = self.config;
        let options = AttentionOptions { implementation, dropout };
        let heads = Heads { q_bhte, k_bgse, v_bgse, policy: &self.policy };
        if self.backend.get().is_none() {
            self.backend.set(Some(heads.backend(mask, scale, &options)?));
        }
        let y_bhte = heads.attend(mask, scale, &options)?;
        // The fused kernels write `[b, t, h, e]` in memory, of which this is a view.
        Ok(self.output.forward_adapted(&y_bhte.transpose(1, 2).flatten(2, 3), train))
    }

    /// Of queries and of keys.
    fn norms(&self) -> (Option<&Norm>, Option<&Norm>) {
        self.norms.as_ref().map(|(query, key)| (query, key)).unzip()
    }

    /// `[b, t, h·e]` to a view `[b, h, t, e]`, each head normed and rotated if asked for: before
    /// the transposition, while the memory is contiguous.
    fn heads(
        &self,
        x: &Tensor,
        norm: Option<&Norm>,
        rotation: Option<&Rotation>,
    ) -> Result<Tensor> {
        let x_bthe = x.unflatten(2, [-1, self.config.head_size]);
        let x_bthe = match (rotation, norm) {
            (Some(rotation), norm) => rotation.forward(&x_bthe, norm, &self.policy)?,
            (None, Some(norm)) => norm.forward(&x_bthe)?,
            (None, None) => x_bthe,
        };
        Ok(x_bthe.transpose(1, 2))
    }
}

#[cfg(test)]
mod tests;
