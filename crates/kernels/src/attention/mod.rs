//! Attention on the CPU, forward and backward, that computes only what is seen.
//!
//! libtorch's own kernel hands its products, block by block, to a library that on processors
//! without matrix units widens BF16 to FP32 first; it takes a mask, and computes what the mask
//! hides. Here products use the dot products of BF16 that the CPU has, a query's block meets
//! only the blocks of keys that its documents and its place let it see, and a bias by distance,
//! such as T5's, is a vector and not a matrix.
//!
//! Axes: `b` batch, `h` heads, `g` heads of keys and values, `t` queries, `s` keys, `d` features
//! of a head.

mod cpu;
mod visible;

use bert4rs_tensor_core::autograd::{self, BackwardContext, ForwardContext, Function};
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};
use half::bf16;

pub use visible::VisibleKeys;

use crate::cpu::isa::Isa;
use crate::cpu::views;
use visible::VisibilityRule;

/// Keys of a block.
const KEYS: usize = 64;

/// What [`attend`] computes with, beside queries, keys and values.
#[derive(Debug, Clone, Copy)]
pub struct AttentionArgs<'a> {
    /// Which keys a query sees.
    pub visible: VisibleKeys<'a>,
    /// Added to the score of a query and a key by their distance: `[h, t + s - 1]`, FP32 or the
    /// inputs' dtype, where column `key - query + t - 1` is that of a key and a query.
    pub bias: Option<&'a Tensor>,
    /// What products are multiplied with.
    pub scale: f64,
}

/// Whether [`attend`] takes such inputs: on the CPU, FP32 or BF16 alike, with a number of
/// features that 32 divides.
pub fn supports(q_bhtd: &Tensor, k_bgsd: &Tensor, v_bgsd: &Tensor) -> bool {
    let kind = q_bhtd.kind();
    let alike = [q_bhtd, k_bgsd, v_bgsd].iter().all(|x| {
        x.device() == Device::Cpu
            && x.kind() == kind
            && matches!(x.size()[..], [_, _, n, d] if n > 0 && d > 0 && d % 32 == 0)
    });
    alike && matches!(kind, Kind::BFloat16 | Kind::Float) && k_bgsd.size() == v_bgsd.size()
}

/// `softmax(q kᵀ · scale + bias) v` over the keys that are seen: a view `[b, h, t, d]` of memory
/// `[b, t, h, d]`. Each head of keys and values serves `h / g` heads of queries in turn.
///
/// Queries, keys and values are FP32 or BF16; sums and softmax are FP32. Weights are rounded to
/// the inputs' dtype before they meet the values.
///
/// # Errors
/// Inputs that it does not [support](supports), shapes that don't fit one another.
pub fn attend(
    q_bhtd: &Tensor,
    k_bgsd: &Tensor,
    v_bgsd: &Tensor,
    args: &AttentionArgs,
) -> Result<Tensor> {
    check(q_bhtd, k_bgsd, v_bgsd, args)?;
    let [b, h, t, d] = extents(q_bhtd);
    let [_, g, s, _] = extents(k_bgsd);
    let call = Call {
        isa: Isa::fastest(),
        heads: h,
        groups: g,
        queries: t,
        keys: s,
        features: d,
        scale: args.scale as f32,
        rule: VisibilityRule::new(&args.visible, [b, t, s], args.bias.is_none())?,
        bias: None,
    };
    let mut inputs = vec![q_bhtd, k_bgsd, v_bgsd];
    inputs.extend(args.bias);
    autograd::apply_one(Attention { call }, &inputs)
}

fn extents(x: &Tensor) -> [usize; 4] {
    let size = x.size();
    std::array::from_fn(|axis| size[axis] as usize)
}

fn check(q: &Tensor, k: &Tensor, v: &Tensor, args: &AttentionArgs) -> Result<()> {
    if !supports(q, k, v) {
        return Err(Error::Unsupported {
            what: format!("this attention of {:?} {:?} and {:?}", q.kind(), q.size(), k.size()),
            reason: "it takes FP32 or BF16 on the CPU, in heads of a multiple of 32 features"
                .into(),
        });
    }
    let ([b, h, t, d], [keys_b, g, s, keys_d]) = (extents(q), extents(k));
    if keys_b != b || keys_d != d || h % g != 0 {
        return Err(Error::Shape {
            op: "attention",
            tensor: "keys",
            found: k.size(),
            expected: format!("[{b}, a divisor of {h}, time, {d}]"),
        });
    }
    match args.bias {
        Some(bias) if bias.size() != [h as i64, (t + s - 1) as i64] => Err(Error::Shape {
            op: "attention",
            tensor: "bias",
            found: bias.size(),
            expected: format!("[{h}, {}]", t + s - 1),
        }),
        _ => Ok(()),
    }
}

/// Sizes and rules of one call.
#[derive(Debug, Clone)]
struct Call {
    isa: Isa,
    heads: usize,
    groups: usize,
    queries: usize,
    keys: usize,
    features: usize,
    scale: f32,
    rule: VisibilityRule,
    bias: Option<Bias>,
}

impl Call {
    fn distances(&self) -> usize {
        self.queries + self.keys - 1
    }

    /// The place of the distance of a key and a query, the greatest distance first.
    fn distance_of(&self, key: usize, query: usize) -> usize {
        self.keys - 1 - key + query
    }
}

/// A bias by distance, in the order in which keys read it, and in that of queries.
#[derive(Debug, Clone)]
struct Bias {
    /// `[h, distances]`, the greatest `query - key` first.
    by_keys: Vec<f32>,
    /// The same in reverse order.
    by_queries: Vec<f32>,
    queries: usize,
    keys: usize,
}

impl Bias {
    fn new(bias: &Tensor, queries: usize, keys: usize) -> Result<Self> {
        let dense = bias.to_kind(Kind::Float).contiguous();
        let by_keys = views::read::<f32>(&dense, "a bias")?.to_vec();
        let rows = by_keys.chunks_exact(queries + keys - 1);
        let by_queries = rows.flat_map(|row| row.iter().rev().copied()).collect();
        Ok(Self { by_keys, by_queries, queries, keys })
    }

    fn head<'a>(&self, values: &'a [f32], head: usize) -> &'a [f32] {
        let count = self.queries + self.keys - 1;
        &values[head * count..][..count]
    }

    /// Of a query and the keys from `key` on.
    fn of_query(&self, head: usize, query: usize, key: usize) -> &[f32] {
        &self.head(&self.by_keys, head)[key + self.queries - 1 - query..]
    }

    /// Of a key and the queries from `query` on.
    fn of_key(&self, head: usize, key: usize, query: usize) -> &[f32] {
        &self.head(&self.by_queries, head)[self.keys - 1 - key + query..]
    }
}

struct Attention {
    call: Call,
}

impl Function for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn forward(&mut self, inputs: &[&Tensor], ctx: &mut ForwardContext) -> Result<Vec<Tensor>> {
        if let Some(bias) = inputs.get(3) {
            self.call.bias = Some(Bias::new(bias, self.call.queries, self.call.keys)?);
        }
        let dense: [Tensor; 3] = dense_features(&inputs[..3]);
        let [q, k, v] = &dense;
        let (out, log_sums) = match q.kind() {
            Kind::BFloat16 => cpu::forward_all::<bf16>(&self.call, q, k, v)?,
            _ => cpu::forward_all::<f32>(&self.call, q, k, v)?,
        };
        let out = out.transpose(1, 2);
        dense.iter().chain([&out, &log_sums]).for_each(|tensor| ctx.save(tensor));
        Ok(vec![out])
    }

    fn backward(
        &self,
        ctx: &BackwardContext,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(grad) = &grads[0] else {
            let inputs = 3 + usize::from(self.call.bias.is_some());
            return Ok((0..inputs).map(|_| None).collect());
        };
        let [q, k, v, out, log_sums] = ctx.saved() else {
            return Err(Error::Torch { op: "attention".into(), message: "nothing saved".into() });
        };
        let grad: [Tensor; 1] = dense_features(&[grad]);
        let saved = cpu::Saved { q, k, v, out, log_sums, grad: &grad[0] };
        match q.kind() {
            Kind::BFloat16 => cpu::backward_all::<bf16>(&self.call, &saved),
            _ => cpu::backward_all::<f32>(&self.call, &saved),
        }
    }
}

/// The tensors, copied only where features of a head don't lie side by side.
fn dense_features<const COUNT: usize>(tensors: &[&Tensor]) -> [Tensor; COUNT] {
    std::array::from_fn(|i| match tensors[i].stride().last() {
        Some(1) => tensors[i].shallow_clone(),
        _ => tensors[i].contiguous(),
    })
}
