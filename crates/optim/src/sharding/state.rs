//! Saved states of a sharded optimizer: whole tensors by name, those of one process, so that a run
//! on any number of ranks goes on from them.
//!
//! What ranks hold of one kind of state travels as one flat buffer, each value at its weight's
//! place. NorMuon's mean squares, fewer than weights, stand at the start of their matrix.

use std::collections::{BTreeMap, BTreeSet};

use bert4rs_tensor_core::distributed::{ProcessGroup, ReduceOp, gather};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Kind, Tensor, no_grad_guard};

use super::flat::{of_piece, placed_of_param, segment, unflatten};
use super::optimizer::{ShardedOptimizer, Whole};
use super::plan::Piece;
use crate::error::{Error, Result};
use crate::group::UpdateRule;
use crate::optimizer::{BF16_RESIDUAL, COUNTERS, STEP};

const OP: &str = "state of a sharded optimizer";
const MEAN_SQUARES: &str = "second_momentum_buffer";

/// A kind of state with a value for each weight: its names for AdamW and for Muon.
type PerValue = [Option<&'static str>; 2];

const PER_VALUE: [PerValue; 2] =
    [[Some("exp_avg"), Some("momentum_buffer")], [Some("exp_avg_sq"), None]];
const RESIDUAL: PerValue = [Some(BF16_RESIDUAL); 2];

fn name_in(kind: PerValue, rule: UpdateRule) -> Option<&'static str> {
    match rule {
        UpdateRule::Adamw => kind[0],
        UpdateRule::Muon => kind[1],
    }
}

impl ShardedOptimizer {
    /// What [`Optimizer::state`](crate::Optimizer::state) of one process would be; each rank gets
    /// all of it.
    ///
    /// # Errors
    /// Those of the group.
    pub fn state(&self, group: &dyn ProcessGroup) -> Result<BTreeMap<String, Tensor>> {
        let _guard = no_grad_guard();
        let own = self.inner.state()?;
        let mut state = BTreeMap::from([(COUNTERS.to_owned(), own[COUNTERS].shallow_clone())]);
        for kind in self.per_value() {
            let parts = self.own_parts(|rule| name_in(kind, rule), &own);
            let wholes = self.gather_wholes(group, &parts, self.kind_of(kind))?;
            for (param, whole) in self.whole.iter().zip(wholes) {
                if let Some(name) = name_in(kind, param.rule) {
                    state.insert(format!("{}.{name}", param.name), whole);
                }
            }
        }
        self.gather_steps(group, &own, &mut state)?;
        self.gather_mean_squares(group, &own, &mut state)?;
        Ok(state)
    }

    /// Takes over what [`state`](Self::state) gave, on this or any number of ranks. The parameters
    /// that [`new`](Self::new) got must have had their weights and FP32 masters restored: those of
    /// [`gather_masters`](Self::gather_masters), or what BF16 weights and residuals join to.
    ///
    /// # Errors
    /// Those of [`Optimizer::load_state`](crate::Optimizer::load_state). Nothing has been changed
    /// then.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let refuse = |name: &str, reason: String| {
            Err(Error::State { path: None, name: name.to_owned(), reason })
        };
        let expected = self.state_names();
        if let Some(name) = expected.iter().find(|name| !state.contains_key(*name)) {
            return refuse(name, "is missing".into());
        }
        if let Some(name) = state.keys().find(|name| !expected.contains(*name)) {
            return refuse(name, "belongs to no parameter, or to another rule".into());
        }
        let mut own = BTreeMap::from([(COUNTERS.to_owned(), state[COUNTERS].shallow_clone())]);
        for (piece, shard) in self.plan.segment(self.rank).iter().zip(&self.pieces) {
            let param = &self.whole[piece.param];
            for name in self.per_value().iter().filter_map(|kind| name_in(*kind, param.rule)) {
                let whole = &state[&format!("{}.{name}", param.name)];
                if whole.size() != param.shape {
                    let reason = format!("is {:?}, expected {:?}", whole.size(), param.shape);
                    return refuse(&format!("{}.{name}", param.name), reason);
                }
                let part = of_piece(&whole.f_contiguous().during(OP)?, piece)?;
                let part = part.f_view(&shard.weight.size()[..]).during(OP)?;
                own.insert(format!("{}.{name}", shard.name), part);
            }
            if param.rule == UpdateRule::Adamw {
                let step = state[&format!("{}.{STEP}", param.name)].shallow_clone();
                own.insert(format!("{}.{STEP}", shard.name), step);
            }
            if self.mean_squares_shape(piece).is_some() {
                let squares = state[&self.mean_squares_name(piece)].shallow_clone();
                own.insert(format!("{}.{MEAN_SQUARES}", shard.name), squares);
            }
        }
        self.inner.load_state(&own)
    }

    /// The exact FP32 values beside BF16 weights, whole and by parameter, for saving a model: each
    /// rank gets all of them. Empty where there are no masters.
    ///
    /// # Errors
    /// Those of the group.
    pub fn gather_masters(&self, group: &dyn ProcessGroup) -> Result<Vec<Tensor>> {
        if !self.has_masters {
            return Ok(Vec::new());
        }
        let _guard = no_grad_guard();
        let parts: Vec<Option<Tensor>> = self
            .pieces
            .iter()
            .map(|param| param.master.as_ref().map(Tensor::shallow_clone))
            .collect();
        self.gather_wholes(group, &parts, Kind::Float)
    }

    /// Whole tensors of `kind`, one a parameter, of which each rank has the part of each of its
    /// [pieces](crate::DataParallel::exact) in `parts`: each rank gets all of them.
    ///
    /// # Errors
    /// Those of the group.
    pub fn gather_parts(
        &self,
        group: &dyn ProcessGroup,
        parts: &[Tensor],
        kind: Kind,
    ) -> Result<Vec<Tensor>> {
        let _guard = no_grad_guard();
        let parts: Vec<_> = parts.iter().map(|part| Some(part.shallow_clone())).collect();
        self.gather_wholes(group, &parts, kind)
    }

    /// The part of each of this rank's pieces of `wholes`, one a parameter: the reverse of
    /// [`gather_parts`](Self::gather_parts).
    ///
    /// # Errors
    /// Tensors of other sizes.
    pub fn parts_of(&self, wholes: &[Tensor]) -> Result<Vec<Tensor>> {
        let part = |(piece, shard): (&Piece, &Param)| -> Result<Tensor> {
            let part = of_piece(&wholes[piece.param].f_contiguous().during(OP)?, piece)?;
            Ok(part.f_view(&shard.weight.size()[..]).during(OP)?)
        };
        self.plan.segment(self.rank).iter().zip(&self.pieces).map(part).collect()
    }

    /// Makes this rank's masters those in `exact`, whole FP32 tensors by parameter, and its weights
    /// follow; nothing where there are no masters.
    ///
    /// # Errors
    /// A parameter that is missing, or of another shape.
    pub fn load_masters(&mut self, exact: &BTreeMap<String, Tensor>) -> Result<()> {
        let _guard = no_grad_guard();
        for (piece, shard) in self.plan.segment(self.rank).iter().zip(&mut self.pieces) {
            let Some(master) = &mut shard.master else { continue };
            let Whole { name, shape, .. } = &self.whole[piece.param];
            let refuse = |reason| Error::State { path: None, name: name.clone(), reason };
            let whole = exact.get(name).ok_or_else(|| refuse("is missing".to_owned()))?;
            if whole.size() != *shape {
                return Err(refuse(format!("is {:?}, expected {shape:?}", whole.size())));
            }
            let part = of_piece(&whole.f_contiguous().during(OP)?, piece)?;
            let part = part.f_view(&master.size()[..]).during(OP)?;
            master.f_copy_(&part).during(OP)?;
            shard.weight.detach().f_copy_(master).during(OP)?;
        }
        Ok(())
    }

    /// The kinds of state with a value for each weight that this optimizer has.
    fn per_value(&self) -> Vec<PerValue> {
        PER_VALUE.into_iter().chain(self.has_residuals.then_some(RESIDUAL)).collect()
    }

    fn kind_of(&self, kind: PerValue) -> Kind {
        if kind == RESIDUAL { Kind::Int16 } else { self.exact_kind }
    }

    /// The state called `name`, by rule, of each of this rank's pieces.
    fn own_parts(
        &self,
        name: impl Fn(UpdateRule) -> Option<&'static str>,
        own: &BTreeMap<String, Tensor>,
    ) -> Vec<Option<Tensor>> {
        let part = |(piece, shard): (&Piece, &Param)| {
            let name = name(self.whole[piece.param].rule)?;
            own.get(&format!("{}.{name}", shard.name)).map(Tensor::shallow_clone)
        };
        self.plan.segment(self.rank).iter().zip(&self.pieces).map(part).collect()
    }

    /// The flat buffer of all ranks' `parts`, of `kind`.
    fn gather_flat(
        &self,
        group: &dyn ProcessGroup,
        parts: &[Option<Tensor>],
        kind: Kind,
    ) -> Result<Tensor> {
        // Gloo does not send 16-bit integers.
        let travels = if kind == Kind::Int16 { Kind::Int } else { kind };
        let own = segment(&self.plan, self.rank, parts, (travels, self.device))?;
        Ok(gather(group, &own)?.f_to_kind(kind).during(OP)?)
    }

    /// The whole tensors, one a parameter, of which all ranks have `parts`.
    fn gather_wholes(
        &self,
        group: &dyn ProcessGroup,
        parts: &[Option<Tensor>],
        kind: Kind,
    ) -> Result<Vec<Tensor>> {
        let flat = self.gather_flat(group, parts, kind)?;
        let empty =
            |param: &Whole| Tensor::f_empty(&param.shape[..], (kind, self.device)).during(OP);
        let wholes =
            self.whole.iter().map(empty).collect::<bert4rs_tensor_core::Result<Vec<_>>>()?;
        unflatten(&self.plan, &flat, &wholes)?;
        Ok(wholes)
    }

    /// Steps by parameter: those of any of its pieces.
    fn gather_steps(
        &self,
        group: &dyn ProcessGroup,
        own: &BTreeMap<String, Tensor>,
        state: &mut BTreeMap<String, Tensor>,
    ) -> Result<()> {
        let mut steps = vec![0i64; self.whole.len()];
        for (piece, shard) in self.plan.segment(self.rank).iter().zip(&self.pieces) {
            if let Some(step) = own.get(&format!("{}.{STEP}", shard.name)) {
                steps[piece.param] = step.f_int64_value(&[]).during(OP)?;
            }
        }
        let mut steps =
            Tensor::f_from_slice(&steps).and_then(|s| s.f_to_device(self.device)).during(OP)?;
        group.all_reduce(&mut steps, ReduceOp::Max)?.wait()?;
        let adamw = self.whole.iter().enumerate().filter(|(_, p)| p.rule == UpdateRule::Adamw);
        for (index, param) in adamw {
            let step = steps.f_get(index as i64).during(OP)?;
            state.insert(format!("{}.{STEP}", param.name), step);
        }
        Ok(())
    }

    fn gather_mean_squares(
        &self,
        group: &dyn ProcessGroup,
        own: &BTreeMap<String, Tensor>,
        state: &mut BTreeMap<String, Tensor>,
    ) -> Result<()> {
        if self.config.muon.as_ref().is_none_or(|muon| muon.normuon.is_none()) {
            return Ok(());
        }
        let parts = self.own_parts(|_| Some(MEAN_SQUARES), own);
        let flat = self.gather_flat(group, &parts, self.exact_kind)?;
        for (place, piece) in (0..self.whole.len()).flat_map(|p| placed_of_param(&self.plan, p)) {
            if let Some([rows, cols]) = self.mean_squares_shape(piece) {
                let squares = flat.f_narrow(0, place, rows * cols).during(OP)?;
                let squares = squares.f_view([rows, cols]).during(OP)?;
                state.insert(self.mean_squares_name(piece), squares);
            }
        }
        Ok(())
    }

    /// The shape of the mean squares of a piece, if NorMuon updates it.
    fn mean_squares_shape(&self, piece: &Piece) -> Option<[i64; 2]> {
        let norm = self.config.muon.as_ref()?.normuon?;
        piece.matrix.map(|[rows, cols]| norm.axis.stats_shape(rows, cols))
    }

    /// Numbered where the parameter is split, as by one process.
    fn mean_squares_name(&self, piece: &Piece) -> String {
        let all = placed_of_param(&self.plan, piece.param);
        let name = format!("{}.{MEAN_SQUARES}", self.whole[piece.param].name);
        match all.iter().position(|(_, other)| *other == piece) {
            Some(number) if all.len() > 1 => format!("{name}.{number}"),
            _ => name,
        }
    }

    /// The names of a whole state.
    fn state_names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::from([COUNTERS.to_owned()]);
        for (index, param) in self.whole.iter().enumerate() {
            let kinds = self.per_value();
            let of_values = kinds.iter().filter_map(|kind| name_in(*kind, param.rule));
            let step = (param.rule == UpdateRule::Adamw).then_some(STEP);
            names.extend(of_values.chain(step).map(|name| format!("{}.{name}", param.name)));
            let pieces = placed_of_param(&self.plan, index);
            let squares = pieces.iter().filter(|(_, p)| self.mean_squares_shape(p).is_some());
            names.extend(squares.map(|(_, piece)| self.mean_squares_name(piece)));
        }
        names
    }
}
