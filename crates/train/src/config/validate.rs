//! Which values can be used, alone and together.

use std::str::FromStr;

use bert4rs_data::packing::Framing;
use bert4rs_data::{Noise, Objective};
use bert4rs_tensor_core::attention;
use bert4rs_tensor_core::device::DeviceChoice;
use bert4rs_tensor_core::precision::Precision;

use super::vocabulary::TRAINED;
use super::{Config, Family, leaves};

/// Ten times the deepest transformer that was ever published.
const MOST_LAYERS: u64 = 10_000;

/// Sentinels of a tokenizer that is trained for T5, as published.
const SENTINELS: usize = 100;

/// The key at fault and the reason.
pub(crate) type Fault = (String, String);

impl Config {
    /// Checks every value; the first that can't be used is the error.
    pub(super) fn validate(&self) -> Result<(), Fault> {
        self.validate_numbers()?;
        self.check_init()?;
        self.validate_model()?;
        self.validate_compute()?;
        self.validate_data()?;
        self.validate_loop()?;
        self.validate_optimizer()
    }

    /// Numbers act on values in FP32: one that it can't hold would become infinite, or nothing.
    fn validate_numbers(&self) -> Result<(), Fault> {
        let Ok(table) = self.to_table() else { return Ok(()) };
        for (key, value) in leaves(&table) {
            let Some(number) = value.as_float() else { continue };
            let size = number.abs();
            if number.is_nan() || size > f32::MAX.into() {
                return Err((key, format!("{number} is more than FP32 can hold, {:e}", f32::MAX)));
            }
            if size > 0.0 && size < f32::MIN_POSITIVE.into() {
                let least = f32::MIN_POSITIVE;
                return Err((
                    key,
                    format!("{number:e} is less than FP32 can hold, {least:e}; set 0"),
                ));
            }
        }
        Ok(())
    }

    fn validate_model(&self) -> Result<(), Fault> {
        let model = &self.model;
        at_least("model.vocab_size", model.vocab_size.into(), 6)?;
        at_least("model.hidden_size", model.hidden_size.into(), 1)?;
        for (key, layers) in
            [("model.num_layers", model.num_layers), ("model.decoder_layers", model.decoder_layers)]
        {
            at_most(key, layers.into(), MOST_LAYERS)?;
        }
        at_least("model.num_layers", model.num_layers.into(), 1)?;
        at_least("model.num_heads", model.num_heads.into(), 1)?;
        if let Some((key, reason)) = model.refusal() {
            return Err((key.into(), reason.into()));
        }
        if model.head_size == 0 && !model.hidden_size.is_multiple_of(model.num_heads) {
            let reason = format!(
                "{} heads don't divide hidden_size {}; choose a number of heads that does",
                model.num_heads, model.hidden_size
            );
            return Err(("model.num_heads".into(), reason));
        }
        if self.max_positions() < self.data.seq_len {
            let reason = format!(
                "{} positions are fewer than data.seq_len {}; raise it, or set 0",
                model.max_positions, self.data.seq_len
            );
            return Err(("model.max_positions".into(), reason));
        }
        probability("model.dropout", model.dropout)?;
        probability("model.attention_dropout", model.attention_dropout)?;
        // Tokens are known only with the tokenizer; any will do here.
        let checked = match model.family {
            Family::Bert => self.bert(0).validate(),
            Family::Gpt => self.gpt(0).validate(),
            Family::T5 => self.t5(0, 1).validate(),
        };
        checked.map_err(|error| fault_of_model("model.", &error))?;
        self.loss.validate().map_err(|error| fault_of_model("loss.", &error))
    }

    fn validate_compute(&self) -> Result<(), Fault> {
        DeviceChoice::from_str(&self.compute.device)
            .map_err(|error| ("compute.device".into(), error.to_string()))?;
        self.validate_cpu_isa()?;
        self.validate_eight_bits()?;
        self.validate_backends()?;
        let options = attention::AttentionOptions {
            implementation: self.compute.attention,
            dropout: self.model.attention_dropout,
        };
        options.check().map_err(|error| ("compute.attention".into(), error.to_string()))?;
        let features = self.model.head_size();
        if self.compute.attention == attention::AttentionImplementation::Own
            && !features.is_multiple_of(32)
        {
            let reason = format!(
                "own takes heads of a multiple of 32 features, and these have {features}; choose \
                 fused"
            );
            return Err(("compute.attention".into(), reason));
        }
        if self.compute.attention == attention::AttentionImplementation::Flash
            && self.model.family == Family::T5
        {
            let reason = "T5 learns its bias by distance, of which flash attention gives no \
                          gradients; choose fused, plain or math";
            return Err(("compute.attention".into(), reason.into()));
        }
        self.validate_varlen()
    }

    fn validate_varlen(&self) -> Result<(), Fault> {
        if self.compute.attention != attention::AttentionImplementation::Varlen {
            return Ok(());
        }
        let reason = if self.model.family == Family::T5 {
            "T5's bias by distance can't be given to varlen; choose fused"
        } else if self.compute.precision == Precision::Fp32 {
            "varlen is for BF16; set compute.precision = \"bf16\" or choose fused"
        } else if !self.model.head_size().is_multiple_of(8) || self.model.head_size() > 256 {
            "varlen takes heads of at most 256 features, a multiple of 8; choose fused"
        } else {
            return Ok(());
        };
        Err(("compute.attention".into(), reason.into()))
    }

    fn validate_data(&self) -> Result<(), Fault> {
        let data = &self.data;
        at_least("data.seq_len", data.seq_len.into(), 8)?;
        at_least("data.batch_size", data.batch_size.into(), 1)?;
        within("data.mask_rate", data.mask_rate, 0.0, 1.0)?;
        if (data.mask_rate * f64::from(data.seq_len)).round() < 1.0 {
            let reason = format!("{} of {} tokens is none", data.mask_rate, data.seq_len);
            return Err(("data.mask_rate".into(), reason));
        }
        self.validate_corpus()?;
        self.validate_stages()?;
        self.validate_masks()?;
        self.validate_spans()?;
        self.validate_tokenizer()?;
        self.validate_vocabulary()?;
        within("data.held_out", data.held_out, 0.0, 0.5)?;
        at_least("data.workers", data.workers.into(), 1)
    }

    /// What decides how a tokenizer is trained is refused where none is.
    fn validate_tokenizer(&self) -> Result<(), Fault> {
        let data = &self.data;
        let coverage = data.character_coverage;
        if !(coverage > 0.0 && coverage <= 1.0) {
            let reason = format!("{coverage} is not above 0 and at most 1");
            return Err(("data.character_coverage".into(), reason));
        }
        let loaded = data.tokenizer != TRAINED;
        if loaded && coverage != 0.9995 {
            let reason = "data.tokenizer is not trained, but loaded; leave it out";
            return Err(("data.character_coverage".into(), reason.into()));
        }
        if data.byte_fallback && (loaded || self.model.family != Family::T5) {
            let reason = "only a tokenizer that is trained for T5 can; leave it out";
            return Err(("data.byte_fallback".into(), reason.into()));
        }
        Ok(())
    }

    /// Only T5 has spans, and GPT hides nothing: there, other values than the default are refused.
    fn validate_spans(&self) -> Result<(), Fault> {
        let (data, family) = (&self.data, self.model.family);
        let absent = |key: &str, value: f64, default: f64, what: &str| {
            if value == default {
                return Ok(());
            }
            let reason = format!("{} {what}; leave it out", family.name());
            Err((format!("data.{key}"), reason))
        };
        match family {
            Family::Bert => absent("mean_span", data.mean_span, 3.0, "masks single tokens"),
            Family::Gpt => {
                absent("mask_rate", data.mask_rate, 0.15, "hides no tokens")?;
                absent("mean_span", data.mean_span, 3.0, "hides no tokens")
            }
            Family::T5 => {
                // Text stands between spans of noise, so there is at least as much of it.
                within("data.mask_rate", data.mask_rate, 0.0, 0.5)?;
                within("data.mean_span", data.mean_span, 1.0, 100.0)?;
                self.validate_sentinels()
            }
        }
    }

    /// Each span of a piece needs a sentinel of its own, of which a trained tokenizer has
    /// [`SENTINELS`]; one that is loaded is looked at when it is.
    fn validate_sentinels(&self) -> Result<(), Fault> {
        let data = &self.data;
        if data.tokenizer != TRAINED {
            return Ok(());
        }
        let noise = Noise { rate: data.mask_rate, mean_span: data.mean_span };
        let longest = Framing::Spans(noise).max_tokens(data.seq_len.into());
        let (_, spans) = noise.counts(longest as usize);
        if spans <= SENTINELS {
            return Ok(());
        }
        let reason = format!(
            "a text of {} tokens has {spans} spans, and T5 {SENTINELS} sentinels to mark them; \
             lower it, or raise data.mean_span",
            data.seq_len
        );
        Err(("data.seq_len".into(), reason))
    }

    /// A tokenizer that is trained has room for bytes and special tokens.
    fn validate_vocabulary(&self) -> Result<(), Fault> {
        if self.data.tokenizer != TRAINED {
            return Ok(());
        }
        let objective = match self.model.family {
            Family::Bert => Objective::MaskedTokens,
            Family::Gpt => Objective::NextTokens,
            Family::T5 => Objective::Spans,
        };
        let least = objective.min_vocab_size() as u64;
        at_least("model.vocab_size", self.model.vocab_size.into(), least)
    }

    /// The optimizer and its schedule know their own rules.
    fn validate_optimizer(&self) -> Result<(), Fault> {
        self.optimizer.validate().map_err(|error| fault_of_optimizer("optimizer.", error))?;
        self.schedule
            .resolve(self.horizon(self.train.max_steps))
            .map(drop)
            .map_err(|error| fault_of_optimizer("", error))
    }
}

/// The key and reason in a model's error, the key in `section`.
pub(crate) fn fault_of_model(section: &str, error: &bert4rs_models::Error) -> Fault {
    match error {
        bert4rs_models::Error::Config { key, value, reason } => {
            (format!("{section}{}", our_key(key)), format!("{value}: {reason}"))
        }
        other => (section.trim_end_matches('.').into(), other.to_string()),
    }
}

/// The key that decides what the families' own files call `key`.
fn our_key(key: &str) -> &str {
    match key {
        "head size" => "num_heads",
        "positions.yarn.original_max_position_embeddings" => "positions.original_length",
        "positions.yarn.factor" => "positions.factor",
        "num_hidden_layers" | "n_layer" => "num_layers",
        "num_decoder_layers" => "decoder_layers",
        "n_embd" | "d_model" => "hidden_size",
        "n_inner" | "d_ff" => "intermediate_size",
        "n_positions" | "max_position_embeddings" => "max_positions",
        "n_head" | "num_attention_heads" => "num_heads",
        key => key,
    }
}

/// The key and reason in an optimizer's error.
pub(crate) fn fault_of_optimizer(section: &str, error: bert4rs_optim::Error) -> Fault {
    match error {
        bert4rs_optim::Error::Config { key, value, reason } => {
            (format!("{section}{key}"), format!("{value} {reason}"))
        }
        other => (section.trim_end_matches('.').into(), other.to_string()),
    }
}

pub(crate) fn at_least(key: &'static str, value: u64, least: u64) -> Result<(), Fault> {
    if value >= least { Ok(()) } else { Err((key.into(), format!("{value} is below {least}"))) }
}

fn at_most(key: &'static str, value: u64, most: u64) -> Result<(), Fault> {
    if value <= most { Ok(()) } else { Err((key.into(), format!("{value} is above {most}"))) }
}

pub(crate) fn probability(key: &'static str, value: f64) -> Result<(), Fault> {
    if (0.0..1.0).contains(&value) {
        Ok(())
    } else {
        Err((key.into(), format!("{value} is not in [0, 1)")))
    }
}

pub(crate) fn within(key: &'static str, value: f64, least: f64, most: f64) -> Result<(), Fault> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err((key.into(), format!("{value} is not between {least} and {most}")))
    }
}
