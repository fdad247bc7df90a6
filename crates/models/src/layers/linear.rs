//! Linear maps.

use bert4rs_kernels::{fp8, int8};
use bert4rs_tensor_core::param::{Init, ParamPath, Role};
use bert4rs_tensor_core::{Result, Tensor};

use super::LowRankAdapter;

/// Whether a linear map has a bias, which starts at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Biased {
    /// `x Wᵀ + b`
    Yes,
    /// `x Wᵀ`
    No,
}

/// `x Wᵀ + b`, or without `b`.
#[derive(Debug)]
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weight: Tensor,
    /// `[outputs]`.
    pub bias: Option<Tensor>,
    /// How it multiplies in FP8, where the store of its parameters says so.
    pub fp8: Option<fp8::Fp8Linear>,
    /// How it multiplies integers of 8 bits, where the store says so.
    pub int8: Option<int8::Int8Linear>,
    /// What learns beside the weight, where that stays as it is.
    pub adapter: Option<LowRankAdapter>,
}

/// A clone has the same parameters and FP8 history, not copies of them.
impl Clone for Linear {
    fn clone(&self) -> Self {
        let bias = self.bias.as_ref().map(Tensor::shallow_clone);
        let (weight, fp8) = (self.weight.shallow_clone(), self.fp8.clone());
        Self { weight, bias, fp8, int8: self.int8, adapter: self.adapter.clone() }
    }
}

impl Linear {
    /// Its parameters.
    pub fn weights(&self) -> impl Iterator<Item = &Tensor> {
        let adapter = self.adapter.iter().flat_map(LowRankAdapter::weights);
        std::iter::once(&self.weight).chain(&self.bias).chain(adapter)
    }

    /// Whether it draws random numbers in training.
    pub fn drops(&self) -> bool {
        self.adapter.as_ref().is_some_and(|adapter| adapter.dropout.acts())
    }

    /// A hidden map: parameters `weight` of [`Role::Matrix`] and `bias` under `path`.
    pub fn new(
        path: &ParamPath,
        inputs: i64,
        outputs: i64,
        biased: Biased,
        init: Init,
    ) -> Result<Self> {
        Self::with_role(path, inputs, outputs, Role::Matrix, biased, init)
    }

    /// A map to outputs of the model: `weight` is of [`Role::Head`].
    pub fn head(
        path: &ParamPath,
        inputs: i64,
        outputs: i64,
        biased: Biased,
        init: Init,
    ) -> Result<Self> {
        Self::with_role(path, inputs, outputs, Role::Head, biased, init)
    }

    fn with_role(
        path: &ParamPath,
        inputs: i64,
        outputs: i64,
        role: Role,
        biased: Biased,
        init: Init,
    ) -> Result<Self> {
        let fp8 = path
            .fp8("weight", role)
            .map(|(scaling, overflows)| fp8::Fp8Linear::new(scaling, overflows))
            .map(|map| map.with_buffers(path.buffers()));
        let int8 = path.int8("weight", role).map(int8::Int8Linear::new);
        let weight = path.param("weight", &[outputs, inputs], role, init)?;
        let bias = match biased {
            Biased::Yes => Some(path.param("bias", &[outputs], Role::Bias, Init::Zeros)?),
            Biased::No => None,
        };
        Ok(Self { weight, bias, fp8, int8, adapter: None })
    }

    /// What `maps` give for `x`, each as [`forward`](Self::forward), by one product of all. Their
    /// rows are put together for it: read and written once more, and the product reads `x` once
    /// instead of three times, and makes integers of it once. Absent where a map multiplies in FP8
    /// or has an adapter, not all multiply alike, or not all have a bias.
    pub fn forward_joined(maps: [&Self; 3], x: &Tensor) -> Option<[Tensor; 3]> {
        let biases: Vec<&Tensor> = maps.iter().filter_map(|map| map.bias.as_ref()).collect();
        let int8 = maps[0].int8;
        let is_alike = |map: &&Self| map.fp8.is_none() && map.adapter.is_none() && map.int8 == int8;
        if !maps.iter().all(is_alike) || !matches!(biases.len(), 0 | 3) {
            return None;
        }
        let weight = Tensor::cat(&maps.map(|map| &map.weight), 0);
        let bias = (biases.len() == 3).then(|| Tensor::cat(&biases, 0));
        let parts = Self { weight, bias, fp8: None, int8, adapter: None }.forward(x);
        let outputs = maps.map(|map| map.weight.size()[0]);
        parts.split_with_sizes(outputs.as_slice(), -1).try_into().ok()
    }

    /// [`forward`](Self::forward) with what its adapter adds, if it has one, whose dropout acts if
    /// `train`.
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn forward_adapted(&self, x: &Tensor, train: bool) -> Tensor {
        match &self.adapter {
            None => self.forward(x),
            Some(adapter) => self.forward(x) + adapter.forward(x, train),
        }
    }

    /// `[.., inputs]` to `[.., outputs]`, without an adapter.
    ///
    /// # Panics
    /// On shapes that don't fit, and on what libtorch throws, as `tch` does.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let (weight, bias) = (&self.weight, self.bias.as_ref());
        let product = match (&self.fp8, self.int8) {
            (None, None) => return x.linear(weight, bias),
            (Some(map), _) => map.forward(x, weight, bias),
            (None, Some(map)) => map.forward(x, weight, bias),
        };
        product.unwrap_or_else(|error| panic!("{error}"))
    }
}
