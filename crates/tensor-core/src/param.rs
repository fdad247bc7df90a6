//! Parameters: named, owned in one place, each with a role from birth.

use std::cell::{Ref, RefCell};
use std::collections::HashSet;
use std::ops::Div;

use tch::{Device, Kind, Tensor};

use crate::buffers::Buffers;
use crate::error::{Context, Error, Result};
use crate::fp8::{Fp8Config, Fp8Scaling, OverflowCount};
use crate::int8::{Int8Config, Int8Map};
use crate::no_grad;
use crate::policy::Policy;

/// What a parameter is in its model. Optimizers group by it, so it is never guessed from a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A hidden matrix `[out, in]` of attention or feed-forward.
    Matrix,
    /// A lookup table `[entries, features]`, tied to the output or not.
    Embedding,
    /// An output projection of its own, to vocabulary, classes or answers.
    Head,
    /// A gain or bias of a normalisation.
    Norm,
    /// A bias of a linear map.
    Bias,
    /// T5's table of relative-position biases.
    RelativeBias,
    /// A small learned gate or scale.
    Gate,
}

impl Role {
    /// Every role, for checks that a partition leaves none out.
    pub const ALL: [Self; 7] = [
        Self::Matrix,
        Self::Embedding,
        Self::Head,
        Self::Norm,
        Self::Bias,
        Self::RelativeBias,
        Self::Gate,
    ];
}

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Normal of mean 0 and this standard deviation.
    Normal(f64),
    /// Zeros.
    Zeros,
    /// Ones.
    Ones,
}

/// One parameter.
#[derive(Debug)]
pub struct Param {
    /// Its path in the model, such as `bert.embeddings.word_embeddings.weight`.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// The leaf that the model computes with, in the store's compute dtype.
    pub weight: Tensor,
    /// The exact FP32 value that the optimizer updates, where `weight` is of lower precision.
    pub master: Option<Tensor>,
}

impl Param {
    /// The most exact value there is: the master if any, else the weight.
    pub fn master_or_weight(&self) -> &Tensor {
        self.master.as_ref().unwrap_or(&self.weight)
    }

    /// Sets weight and master to `value`, of the same shape and of any dtype and device.
    ///
    /// # Errors
    /// Another shape, which leaves the parameter as it was, and what libtorch throws.
    pub fn set(&mut self, value: &Tensor) -> Result<()> {
        if value.size() != self.weight.size() {
            return Err(Error::Shape {
                op: "set a parameter",
                tensor: "value",
                found: value.size(),
                expected: format!("{:?}, that of {}", self.weight.size(), self.name),
            });
        }
        no_grad(|| match &mut self.master {
            None => self.weight.f_copy_(value).during(&self.name),
            Some(master) => {
                master.f_copy_(value).during(&self.name)?;
                self.weight.f_copy_(master).during(&self.name)
            }
        })
    }
}

/// All parameters of a model, in the order in which they were made.
#[derive(Debug)]
pub struct ParamStore {
    device: Device,
    kind: Kind,
    meta: bool,
    fp8: Fp8Config,
    int8: Int8Config,
    buffers: Buffers,
    policy: Policy,
    params: RefCell<Vec<Param>>,
    names: RefCell<HashSet<String>>,
}

impl ParamStore {
    /// An empty store whose weights will be of `kind` on `device`. A `kind` other than FP32 and
    /// FP64 gets FP32 masters.
    pub fn new(device: Device, kind: Kind) -> Self {
        let (params, names) = (RefCell::default(), RefCell::default());
        Self {
            device,
            kind,
            meta: false,
            fp8: Fp8Config::default(),
            int8: Int8Config::default(),
            buffers: Buffers::default(),
            policy: Policy::default(),
            params,
            names,
        }
    }

    /// A store whose parameters have names, roles, shapes and dtypes, but no memory of their own:
    /// all values of one share a single element. To ask what a model would need.
    pub fn meta(kind: Kind) -> Self {
        Self { meta: true, ..Self::new(Device::Cpu, kind) }
    }

    /// The same store; linear maps that are made in it from now on and that `config` includes
    /// multiply in FP8.
    pub fn with_fp8(mut self, config: Fp8Config) -> Self {
        self.fp8 = config;
        self
    }

    /// The same store; linear maps that are made in it from now on and that `config` includes
    /// multiply integers of 8 bits.
    pub fn with_int8(mut self, config: Int8Config) -> Self {
        self.int8 = config.resolve(self.device);
        self
    }

    /// The same store; `policy` chooses the backends of layers that are made in it from now on.
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Which linear maps multiply in FP8.
    pub fn fp8(&self) -> &Fp8Config {
        &self.fp8
    }

    /// How many values overflowed FP8 in all of this store's maps.
    pub fn fp8_overflows(&self) -> OverflowCount {
        OverflowCount::new(&self.buffers)
    }

    /// What the model keeps from step to step beside its parameters, such as FP8's histories of
    /// largest magnitudes.
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Where names begin.
    pub fn root(&self) -> ParamPath<'_> {
        ParamPath { store: self, prefix: String::new() }
    }

    /// The device that all parameters are on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The dtype of the weights.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The parameters, in the order in which they were made.
    pub fn params(&self) -> Ref<'_, Vec<Param>> {
        self.params.borrow()
    }

    /// The parameters, to be changed in place.
    pub fn params_mut(&mut self) -> &mut Vec<Param> {
        self.params.get_mut()
    }

    /// Number of trained values.
    pub fn count(&self) -> usize {
        self.params().iter().map(|param| param.weight.numel()).sum()
    }
}

/// A place in a model's tree of names; `path / "query"` goes down.
#[derive(Debug, Clone)]
pub struct ParamPath<'a> {
    store: &'a ParamStore,
    prefix: String,
}

impl<'a> ParamPath<'a> {
    /// Makes the parameter `name` here and returns the leaf to compute with.
    ///
    /// The starting value is drawn in FP32 whatever the compute dtype, so that models of one
    /// seed start alike.
    ///
    /// # Errors
    /// A name made twice, and what libtorch throws.
    pub fn param(&self, name: &str, shape: &[i64], role: Role, init: Init) -> Result<Tensor> {
        let name = self.full_name(name);
        let store = self.store;
        if store.names.borrow().contains(&name) {
            let message = "a parameter of this name was made before".into();
            return Err(Error::Torch { op: name, message });
        }
        let exact = if store.meta {
            Tensor::f_zeros([], (Kind::Float, store.device))
        } else {
            initial_value(shape, init, store.device)
        };
        let exact = exact.during(&name)?;
        let weight = exact.f_to_kind(store.kind).during(&name)?;
        let (exact, weight) = if store.meta {
            let expand = |element: Tensor| element.f_expand(shape, false).during(&name);
            (expand(exact)?, expand(weight)?)
        } else {
            (exact, weight)
        };
        let weight = weight.set_requires_grad(true);
        let has_master = !matches!(store.kind, Kind::Float | Kind::Double);
        let master = has_master.then_some(exact);
        let leaf = weight.shallow_clone();
        store.names.borrow_mut().insert(name.clone());
        store.params.borrow_mut().push(Param { name, role, weight, master });
        Ok(leaf)
    }

    /// How the map with the weight `name` here multiplies in FP8, if it does, and where it counts
    /// overflow.
    pub fn fp8(&self, name: &str, role: Role) -> Option<(Fp8Scaling, OverflowCount)> {
        let scaling = self.store.fp8.scaling_of(&self.full_name(name), role)?;
        Some((scaling, self.store.fp8_overflows()))
    }

    /// How the map with the weight `name` here multiplies integers of 8 bits, if it does.
    pub fn int8(&self, name: &str, role: Role) -> Option<Int8Map> {
        self.store.int8.map_of(&self.full_name(name), role)
    }

    /// What is kept here beside parameters.
    pub fn buffers(&self) -> Buffers {
        if self.prefix.is_empty() {
            self.store.buffers.clone()
        } else {
            self.store.buffers.within(&self.prefix)
        }
    }

    /// What chooses the backends of layers made here.
    pub fn policy(&self) -> &'a Policy {
        &self.store.policy
    }

    /// The device that parameters made here are on.
    pub fn device(&self) -> Device {
        self.store.device
    }

    /// The dtype that parameters made here have.
    pub fn kind(&self) -> Kind {
        self.store.kind
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }
}

impl<'a, T: std::fmt::Display> Div<T> for &ParamPath<'a> {
    type Output = ParamPath<'a>;

    fn div(self, name: T) -> ParamPath<'a> {
        ParamPath { store: self.store, prefix: self.full_name(&name.to_string()) }
    }
}

impl<'a, T: std::fmt::Display> Div<T> for ParamPath<'a> {
    type Output = ParamPath<'a>;

    fn div(self, name: T) -> ParamPath<'a> {
        &self / name
    }
}

/// The FP32 starting value.
fn initial_value(
    shape: &[i64],
    init: Init,
    device: Device,
) -> std::result::Result<Tensor, tch::TchError> {
    let options = (Kind::Float, device);
    match init {
        Init::Zeros => Tensor::f_zeros(shape, options),
        Init::Ones => Tensor::f_ones(shape, options),
        Init::Normal(std) => Tensor::f_empty(shape, options)?.f_normal_(0.0, std),
    }
}
