//! GPT and T5 run token by token.
//!
//! Axes: `r` rows, `t` time of the decoder, `s` time of the encoder, `v` vocabulary.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Tensor};

use super::Start;
use crate::error::Result;
use crate::gpt::{Gpt, GptCache, GptInput};
use crate::mask;
use crate::t5::{T5, T5Cache};

/// A model with what it remembers of its rows.
pub(super) trait Decoder {
    /// Logits `[r, v]` in FP32 of the token after each row's `tokens`, which are all of one
    /// length and go on from those of the last call.
    fn next(&mut self, tokens: &[Vec<i64>]) -> Result<Tensor>;

    /// Keeps these of its rows, in this order; a row may be named more than once.
    fn select_rows(&mut self, rows: &[i64]);
}

/// Rows of one length, from the position `from` on, as I64 `[r, t]`.
fn rows_from(tokens: &[Vec<i64>], from: usize, device: Device) -> Result<Tensor> {
    let flat: Vec<i64> = tokens.iter().flat_map(|row| &row[from..]).copied().collect();
    let ids = Tensor::from_slice(&flat).f_view([tokens.len() as i64, -1]).during("tokens")?;
    Ok(ids.to_device(device))
}

/// The last position's logits `[r, v]`, of hidden states `[r, t, d]`.
fn last(hidden_rtd: &Tensor, logits: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
    logits(&hidden_rtd.select(1, -1)).to_kind(Kind::Float)
}

/// GPT, whose prompts are padded on the left.
#[derive(Debug)]
pub(super) struct GptDecoder<'a> {
    model: &'a Gpt,
    cache: Option<GptCache>,
    /// How many positions of each row are padding; empty where none is.
    padding: Vec<i64>,
}

impl<'a> GptDecoder<'a> {
    pub(super) fn new(model: &'a Gpt, start: &Start, cached: bool) -> Self {
        let is_padded = start.padding.iter().any(|&padding| padding > 0);
        let padding = start.padding.iter().map(|&padding| padding as i64);
        Self {
            model,
            cache: cached.then(GptCache::default),
            padding: if is_padded { padding.collect() } else { Vec::new() },
        }
    }
}

impl Decoder for GptDecoder<'_> {
    fn next(&mut self, tokens: &[Vec<i64>]) -> Result<Tensor> {
        let device = self.model.device();
        let held = self.cache.as_ref().map_or(0, GptCache::len);
        let ids = rows_from(tokens, held as usize, device)?;
        let length = tokens[0].len() as i64;
        let mut input = GptInput::new(&ids);
        let (positions, padding);
        if !self.padding.is_empty() {
            let padding_r1 = Tensor::from_slice(&self.padding).unsqueeze(1).to_device(device);
            let position_t = Tensor::arange(length, (Kind::Int64, device));
            padding = mask::padding(&position_t.ge_tensor(&padding_r1));
            let real_rt = (&position_t - &padding_r1).clamp_min(0);
            positions = real_rt.narrow(1, held, length - held);
            input.mask = Some(&padding);
            input.position_ids = Some(&positions);
        }
        let hidden_rtd = match &mut self.cache {
            Some(cache) => self.model.forward_cached(&input, cache)?,
            None => self.model.forward(&input, false)?,
        };
        Ok(last(&hidden_rtd, |hidden| self.model.logits(hidden)))
    }

    fn select_rows(&mut self, rows: &[i64]) {
        if let Some(cache) = &mut self.cache {
            cache.select_rows(&Tensor::from_slice(rows).to_device(self.model.device()));
        }
        if !self.padding.is_empty() {
            self.padding = rows.iter().map(|&row| self.padding[row as usize]).collect();
        }
    }
}

/// T5's decoder, and the encoder's result for the prompts.
#[derive(Debug)]
pub(super) struct T5Decoder<'a> {
    model: &'a T5,
    memory_rsd: Tensor,
    mask: Tensor,
    cache: Option<T5Cache>,
}

impl<'a> T5Decoder<'a> {
    /// Runs the encoder on `prompts`, padded on the right.
    pub(super) fn new(model: &'a T5, prompts: &[Vec<i64>], cached: bool) -> Result<Self> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let pad = model.config().pad_token_id;
        let padded: Vec<Vec<i64>> = prompts
            .iter()
            .map(|prompt| {
                let mut row = prompt.clone();
                row.resize(longest, pad);
                row
            })
            .collect();
        let device = model.device();
        let ids = rows_from(&padded, 0, device)?;
        let lengths: Vec<i64> = prompts.iter().map(|prompt| prompt.len() as i64).collect();
        let length_r1 = Tensor::from_slice(&lengths).unsqueeze(1).to_device(device);
        let place_s = Tensor::arange(longest as i64, (Kind::Int64, device));
        let mask = mask::padding(&place_s.lt_tensor(&length_r1));
        let memory_rsd = model.encode(&ids, Some(&mask), false)?;
        Ok(Self { model, memory_rsd, mask, cache: cached.then(T5Cache::default) })
    }
}

impl Decoder for T5Decoder<'_> {
    fn next(&mut self, tokens: &[Vec<i64>]) -> Result<Tensor> {
        let held = self.cache.as_ref().map_or(0, T5Cache::len);
        let ids = rows_from(tokens, held as usize, self.model.device())?;
        let (memory, mask) = (&self.memory_rsd, Some(&self.mask));
        let hidden_rtd = self.model.decode(&ids, None, memory, mask, self.cache.as_mut(), false)?;
        Ok(last(&hidden_rtd, |hidden| self.model.logits(hidden)))
    }

    fn select_rows(&mut self, rows: &[i64]) {
        let rows = Tensor::from_slice(rows).to_device(self.model.device());
        self.memory_rsd = self.memory_rsd.index_select(0, &rows);
        self.mask = self.mask.index_select(0, &rows);
        if let Some(cache) = &mut self.cache {
            cache.select_rows(&rows);
        }
    }
}
