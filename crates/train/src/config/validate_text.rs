//! Which values of what decides about text can be used.

use bert4rs_data::{Denoising, MaskUnit};

use super::validate::{Fault, within};
use super::{Config, CorpusEntry, Family};

impl Config {
    /// Either all of `data.corpus` has weights, or nothing.
    pub(super) fn validate_corpus(&self) -> Result<(), Fault> {
        let corpus = &self.data.corpus;
        let refuse = |reason: String| Err(("data.corpus".to_owned(), reason));
        let weighted = corpus.iter().filter_map(|entry| match entry {
            CorpusEntry::Weighted(corpus) => Some(corpus),
            CorpusEntry::Path(_) => None,
        });
        let weighted: Vec<_> = weighted.collect();
        if weighted.is_empty() {
            return Ok(());
        }
        if weighted.len() < corpus.len() {
            return refuse(
                "has weights for some corpora and none for others; give each one".into(),
            );
        }
        if let Some(bad) = weighted.iter().find(|part| part.weight <= 0.0) {
            return refuse(format!(
                "gives {} the weight {}, which is not above 0",
                bad.path, bad.weight
            ));
        }
        if !self.data.held_out_corpus.is_empty() {
            let reason = "would be held out of each of several corpora; leave it out, and a share \
                          of \
                          each is held out";
            return Err(("data.held_out_corpus".into(), reason.into()));
        }
        Ok(())
    }

    /// Short sequences are shorter than the others, and come before them.
    pub(super) fn validate_stages(&self) -> Result<(), Fault> {
        let data = &self.data;
        within("data.short_share", data.short_share, 0.0, 1.0)?;
        let by_steps = [
            ("data.short_seq_len", data.short_seq_len > 0),
            ("data.final_mask_rate", data.final_mask_rate > 0.0),
        ];
        if let Some((key, _)) = by_steps.iter().find(|(_, is_set)| *is_set)
            && self.train.max_minutes > 0.0
        {
            let reason = "changes with the share of batches seen, which no run of \
                          train.max_minutes knows; leave one of them out";
            return Err(((*key).to_owned(), reason.into()));
        }
        if data.short_seq_len == 0 {
            return Ok(());
        }
        let refuse = |reason: String| Err(("data.short_seq_len".to_owned(), reason));
        if data.short_seq_len < 8 || data.short_seq_len >= data.seq_len {
            let (short, full) = (data.short_seq_len, data.seq_len);
            return refuse(format!("{short} is not from 8 to below data.seq_len {full}"));
        }
        if (data.mask_rate * f64::from(data.short_seq_len)).round() < 1.0 {
            let short = data.short_seq_len;
            return refuse(format!("{} of {short} tokens is none to predict", data.mask_rate));
        }
        Ok(())
    }

    /// Only BERT has masks, and only T5 denoisers.
    pub(super) fn validate_masks(&self) -> Result<(), Fault> {
        let (data, family) = (&self.data, self.model.family);
        let refuse = |key: &str, reason: &str| Err((format!("data.{key}"), reason.to_owned()));
        if family != Family::Bert {
            if data.mask_unit != MaskUnit::Tokens {
                return refuse("mask_unit", "is BERT's alone; leave it out");
            }
            if data.final_mask_rate != 0.0 {
                return refuse("final_mask_rate", "is BERT's alone; leave it out");
            }
        }
        if data.denoising == Denoising::Ul2 {
            if family != Family::T5 {
                return refuse("denoising", "is T5's alone; leave it out");
            }
            if data.mask_rate != 0.15 || data.mean_span != 3.0 {
                let reason = "ul2 has rates and spans of its own; leave out data.mask_rate and \
                              data.mean_span";
                return refuse("denoising", reason);
            }
        }
        within("data.final_mask_rate", data.final_mask_rate, 0.0, 1.0)?;
        if data.final_mask_rate > 0.0 {
            let predicted = data.final_mask_rate * f64::from(data.seq_len);
            if predicted.round() < 1.0 {
                return refuse("final_mask_rate", "predicts no token of a sequence; raise it");
            }
        }
        Ok(())
    }
}
