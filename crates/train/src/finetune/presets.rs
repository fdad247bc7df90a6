//! What presets of pretraining say of fine-tuning: how numbers are computed and how examples lie in
//! rows. What a preset says of models, data and update rules is not for a model that is there.

use toml::Table;

use super::config::TaskName;
use crate::config::{Overlay, leaves, merge, nested};
use crate::error::{Error, Result};
use crate::presets::{BASELINE, Preset};

/// Keys that both have, with the same meaning.
const SHARED: [&str; 7] = [
    "compute.precision",
    "compute.attention",
    "compute.kernels",
    "compute.activation_checkpointing",
    "data.packing",
    "optimizer.masters",
    "optimizer.adamw.implementation",
];

/// The key that both have where a task computes a loss over the vocabulary by it.
const LOSS: &str = "loss.implementation";

/// Keys that say how pretraining is launched, and what is so in fine-tuning whatever they say.
const WITHOUT_EFFECT: [(&str, &str); 4] = [
    ("compute.int8.products", "fine-tuning multiplies floats"),
    ("compute.logits", "only what has a label gets logits"),
    ("compute.execution", "batches differ in shape, so that steps are eager"),
    ("data.prefetch", "examples are in memory, and batches made in the loop"),
];

const MUON: &str = "optimizer.muon";
const OWN_RULE: &str = "it is for pretraining; say what you want by --set optimizer.…";

/// The values of several presets that `task` can use, to be laid over each other in this order, and
/// a line about each one that has no effect.
///
/// # Errors
/// An unknown name; a preset that is about something else.
pub fn overlays(names: &[&str], task: TaskName) -> Result<(Vec<Overlay>, Vec<String>)> {
    let (mut overlays, mut notes) = (Vec::new(), Vec::new());
    for name in names {
        let (overlay, idle) = overlay(Preset::named(name)?, task)?;
        overlays.push(overlay);
        notes.extend(idle);
    }
    Ok((overlays, notes))
}

fn overlay(preset: Preset, task: TaskName) -> Result<(Overlay, Vec<String>)> {
    let Overlay { origin, values } = preset.overlay()?;
    let (mut taken, mut notes) = (Overlay { origin, values: Table::new() }, Vec::new());
    for (key, value) in leaves(&values) {
        let has_loss = task.has_vocabulary_loss();
        let idle = WITHOUT_EFFECT.iter().find(|(idle, _)| key == *idle).map(|(_, why)| *why);
        match idle {
            _ if SHARED.contains(&&*key) || (key == LOSS && has_loss) => {
                merge(&mut taken.values, &nested(&key, value.clone()));
            }
            // It holds every key there is.
            _ if preset.name == BASELINE.name => {}
            Some(why) => notes.push(format!("{key} of preset {}: {why}", preset.name)),
            None if key == LOSS => {
                let why = "this task has no loss over the vocabulary";
                notes.push(format!("{key} of preset {}: {why}", preset.name));
            }
            None if key.starts_with("optimizer.") => {
                // All of Muon's keys are one rule.
                let rule = if key.starts_with(MUON) { MUON } else { &key };
                let note = format!("{rule} of preset {}: {OWN_RULE}", preset.name);
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            None => return Err(refuse(preset.name, &format!("it sets {key}, {}", about(&key)))),
        }
    }
    match taken.values.is_empty() {
        true => Err(refuse(preset.name, &notes.join("; "))),
        false => Ok((taken, notes)),
    }
}

/// Why fine-tuning has no such key, or takes none of a preset.
fn about(key: &str) -> &'static str {
    match key.split('.').next() {
        Some("model") => "and the model is as its folder says",
        _ => "which fine-tuning does not have",
    }
}

fn refuse(name: &str, why: &str) -> Error {
    let reason = format!("{name} is for pretraining alone: {why}");
    Error::Config { origin: "command line".into(), key: "--preset".into(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finetune::config::resolve;
    use crate::presets::PRESETS;

    fn with(names: &[&str], task: &str) -> crate::finetune::config::FinetuneConfig {
        let paths = format!("task.name = \"{task}\"\ntask.model = \"m\"\ntask.train = \"t\"\n");
        let base = Overlay::parse("test", &paths).unwrap();
        let name = base.values["task"]["name"].clone().try_into().unwrap();
        let (mut all, _) = overlays(names, name).unwrap();
        all.push(base);
        resolve(&all).unwrap()
    }

    #[test]
    fn switches_of_computing_are_taken() {
        use bert4rs_data::Layout;
        use bert4rs_models::checkpointing::ActivationCheckpointing;
        use bert4rs_tensor_core::precision::Precision;
        let plain = with(&["baseline"], "classify");
        assert_eq!(
            (plain.compute.precision, plain.data.packing),
            (Precision::Fp32, Layout::Padded)
        );
        let fast = with(&["baseline", "recommended"], "seq2seq");
        assert_eq!((fast.compute.precision, fast.data.packing), (Precision::Auto, Layout::Packed));
        assert_eq!(
            with(&["low-memory"], "tag").compute.activation_checkpointing,
            ActivationCheckpointing::Blocks
        );
    }

    #[test]
    fn each_preset_is_taken_or_refused_by_its_name() {
        let refused = |task| -> Vec<&str> {
            let is_refused = |name: &&str| match overlays(&[name], task) {
                Ok(_) => false,
                Err(error) => {
                    let told = error.to_string();
                    assert!(told.contains(&format!("--preset: {name} is for pretraining")));
                    true
                }
            };
            PRESETS.iter().map(|preset| preset.name).filter(is_refused).collect()
        };
        let always = ["fp8", "qk-norm", "yarn", "async-data", "muon", "normuon"];
        let found = refused(TaskName::Classify);
        assert!(always.iter().all(|name| found.contains(name)), "{found:?}");
        assert_eq!(found.len(), always.len() + 1, "sparse-logits too: {found:?}");
        assert_eq!(refused(TaskName::Seq2seq).len(), always.len());
    }

    #[test]
    fn what_has_no_effect_is_told() {
        let (_, notes) = overlays(&["recommended"], TaskName::Classify).unwrap();
        for key in ["compute.logits", "compute.execution", "data.prefetch", LOSS] {
            let of_key = notes.iter().filter(|note| note.starts_with(key));
            assert_eq!(of_key.count(), 1, "{key}: {notes:?}");
        }
        assert!(overlays(&["baseline"], TaskName::Classify).unwrap().1.is_empty());
    }
}
