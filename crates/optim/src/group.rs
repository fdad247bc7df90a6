//! Which rule a parameter gets: by its role, unless a user names it.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::{Param, Role};
use bert4rs_tensor_core::{Device, Kind, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateRule {
    /// [`crate::adamw`].
    Adamw,
    /// [`crate::muon`], of which NorMuon is a variant.
    Muon,
}

/// A user's own assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Names of parameters, `*` for any text. Must match at least one.
    pub names: String,
    /// Their rule.
    pub rule: UpdateRule,
}

/// The rule for `role` where hidden matrices get Muon.
pub fn rule_of(role: Role) -> UpdateRule {
    match role {
        Role::Matrix => UpdateRule::Muon,
        Role::Embedding
        | Role::Head
        | Role::Norm
        | Role::Bias
        | Role::RelativeBias
        | Role::Gate => UpdateRule::Adamw,
    }
}

/// The rule of each of `params`. Without Muon all get AdamW. Of several assignments that match a
/// name the last counts.
///
/// # Errors
/// An assignment that matches nothing, or Muon for what is not a matrix or while it is off.
pub fn partition(
    params: &[Param],
    muon: bool,
    assignments: &[Assignment],
) -> Result<Vec<UpdateRule>> {
    let by_role = |param: &Param| if muon { rule_of(param.role) } else { UpdateRule::Adamw };
    let mut rules: Vec<UpdateRule> = params.iter().map(by_role).collect();
    for assignment in assignments {
        let refuse = |reason: &str| {
            let (key, value) = ("assignments.names".into(), assignment.names.clone());
            Err(Error::Config { key, value, reason: reason.into() })
        };
        if assignment.rule == UpdateRule::Muon && !muon {
            return refuse("asks for Muon, but there is no section [optimizer.muon]");
        }
        let mut matched = false;
        for (param, rule) in params.iter().zip(&mut rules) {
            if matches(&assignment.names, &param.name) {
                (*rule, matched) = (assignment.rule, true);
            }
        }
        if !matched {
            return refuse("matches no parameter");
        }
    }
    for (param, rule) in params.iter().zip(&rules) {
        if *rule == UpdateRule::Muon && param.weight.dim() != 2 {
            let (name, shape) = (param.name.clone(), param.weight.size());
            let reason = format!("Muon takes matrices, this is {shape:?}; assign it to adamw");
            return Err(Error::Parameter { name, reason });
        }
    }
    Ok(rules)
}

/// The device of `params`, which are all on one.
pub(crate) fn device_of(params: &[Param]) -> Device {
    params.first().map_or(Device::Cpu, |param| param.weight.device())
}

/// Whether `name` fits `pattern`, in which `*` stands for any text.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, rest)) => name.strip_prefix(before).is_some_and(|name| {
            (0..=name.len())
                .filter(|&at| name.is_char_boundary(at))
                .any(|at| matches(rest, &name[at..]))
        }),
    }
}

/// Parameters from the variables of a `tch` model, such as `VarStore::variables()`, sorted by
/// name, with roles by [`role_by_name`]. Weights of lower precision get FP32 masters.
pub fn params(variables: impl IntoIterator<Item = (String, Tensor)>) -> Vec<Param> {
    let mut params: Vec<Param> = variables
        .into_iter()
        .filter(|(_, weight)| weight.requires_grad())
        .map(|(name, weight)| {
            let role = role_by_name(&name, &weight.size());
            let exact = matches!(weight.kind(), Kind::Float | Kind::Double);
            let master = (!exact).then(|| weight.detach().to_kind(Kind::Float));
            Param { name, role, weight, master }
        })
        .collect();
    params.sort_by(|left, right| left.name.cmp(&right.name));
    params
}

/// Gradients of `loss` for `params`, in their order; undefined for those that it does not depend
/// on. Gradients of an earlier call are dropped.
///
/// # Errors
/// What libtorch throws.
pub fn grads(loss: &Tensor, params: &[Param]) -> Result<Vec<Tensor>> {
    for param in params {
        let mut weight = param.weight.shallow_clone();
        weight.zero_grad();
    }
    loss.f_backward().during("backward")?;
    let fresh = |param: &Param| {
        let mut grad = param.weight.grad();
        if grad.defined() { grad.detach_() } else { grad }
    };
    Ok(params.iter().map(fresh).collect())
}

/// Words that tell tables of embeddings: BERT's, GPT-2's, T5's and `tch` examples' names.
const EMBEDDINGS: [&str; 5] = ["embed", "wte", "wpe", "shared", "lookup"];
/// Words that tell output projections.
const HEADS: [&str; 6] = ["head", "classifier", "decoder.weight", "qa_outputs", "pooler", "score"];
/// Words that tell normalisations.
const NORMS: [&str; 3] = ["norm", "ln_", ".ln"];

/// A guess at a role from a name and a shape, for models that don't say it. Where it errs, set
/// [`Param::role`], or assign the name a rule.
pub fn role_by_name(name: &str, shape: &[i64]) -> Role {
    let name = name.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    match shape.len() {
        _ if name.contains("relative_attention_bias") => Role::RelativeBias,
        0 | 1 if has(&NORMS) => Role::Norm,
        0 => Role::Gate,
        1 if name.contains("gate") => Role::Gate,
        1 => Role::Bias,
        _ if has(&HEADS) => Role::Head,
        _ if has(&EMBEDDINGS) => Role::Embedding,
        _ => Role::Matrix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("*.query.weight", "layer.0.query.weight", true),
            ("layer.*.q*", "layer.10.query", true),
            ("layer.*.q*", "layer.10.key", false),
            ("*", "", true),
            ("*ä", "öä", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn names_of_all_three_families_get_their_roles() {
        let cases = [
            ("bert.embeddings.word_embeddings.weight", 2, Role::Embedding),
            ("bert.embeddings.LayerNorm.weight", 1, Role::Norm),
            ("bert.encoder.layer.0.attention.self.query.weight", 2, Role::Matrix),
            ("bert.encoder.layer.0.attention.self.query.bias", 1, Role::Bias),
            ("bert.encoder.layer.0.output.LayerNorm.bias", 1, Role::Norm),
            ("bert.pooler.dense.weight", 2, Role::Head),
            ("cls.predictions.decoder.weight", 2, Role::Head),
            ("transformer.wte.weight", 2, Role::Embedding),
            ("transformer.wpe.weight", 2, Role::Embedding),
            ("transformer.h.0.attn.c_attn.weight", 2, Role::Matrix),
            ("transformer.h.0.ln_1.weight", 1, Role::Norm),
            ("transformer.ln_f.bias", 1, Role::Norm),
            ("lm_head.weight", 2, Role::Head),
            ("shared.weight", 2, Role::Embedding),
            ("encoder.block.0.layer.0.SelfAttention.q.weight", 2, Role::Matrix),
            (
                "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                2,
                Role::RelativeBias,
            ),
            ("encoder.block.0.layer.0.layer_norm.weight", 1, Role::Norm),
            ("decoder.block.0.layer.2.DenseReluDense.wi.weight", 2, Role::Matrix),
            ("scale", 0, Role::Gate),
        ];
        for (name, axes, role) in cases {
            assert_eq!(role_by_name(name, &vec![4; axes]), role, "{name}");
        }
    }
}
