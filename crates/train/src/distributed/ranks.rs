//! This process among those that train together.

use std::env;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bert4rs_optim::Sharding;
use bert4rs_tensor_core::device::DeviceChoice;
use bert4rs_tensor_core::distributed::{
    Facts as SharedFacts, Gloo, GlooOptions, Launch, ProcessGroup, Store, agree,
};
use bert4rs_tensor_core::{Error as Core, random};
use toml::Table;

use super::{DistributedConfig, MeteredGroup, agree_on, agreement};
use crate::build::Parts;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::stop::StopSignal;
use crate::trainer::Trainer;

/// Written by a rank that fails before it is in the group, so that others need not wait for it.
const FAILED: &str = "failed";
/// How long rank 0 serves the store for others that have not yet read why all end.
const LEAVING: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// This process among those that train together, or alone.
#[derive(Debug, Clone)]
pub struct Ranks {
    group: MeteredGroup,
    /// Absent for a process alone.
    meeting: Option<Rc<Meeting>>,
}

/// Where processes meet.
#[derive(Debug)]
struct Meeting {
    launch: Launch,
    store: Store,
}

impl Ranks {
    /// A process alone.
    pub fn alone() -> Self {
        Self { group: MeteredGroup::alone(), meeting: None }
    }

    /// Meets the other processes, compares version and configuration with theirs, and connects.
    ///
    /// # Errors
    /// A process that does not come in time, or that was given something else to do.
    pub fn join(config: &Config, launch: Launch) -> Result<Self> {
        Self::meet(&config.to_table()?, &config.distributed, launch)
    }

    /// [`join`](Self::join) with settings of another kind.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn meet(settings: &Table, talk: &DistributedConfig, launch: Launch) -> Result<Self> {
        let timeout = Duration::from_secs(talk.timeout_s);
        let store = launch.store(timeout)?;
        let (rank, size) = (launch.rank, launch.size);
        let meeting = Meeting { launch, store };
        meeting.compare("configuration", &agreement::of_settings(settings)?)?;
        let is_one_machine = meeting.launch.local_size == size;
        let chosen = env::var_os("GLOO_SOCKET_IFNAME").is_some();
        let address = (is_one_machine && !chosen).then(|| "127.0.0.1".to_owned());
        let checks = talk.checks;
        let options = GlooOptions { rank, size, address, timeout, checks };
        let group = MeteredGroup::new(Gloo::new(&meeting.store, options)?);
        Ok(Self { group, meeting: Some(Rc::new(meeting)) })
    }

    /// The group of all.
    pub fn group(&self) -> &MeteredGroup {
        &self.group
    }

    /// Whether this process writes what the run leaves and shows: one of them does.
    pub fn leads(&self) -> bool {
        self.group.rank() == 0
    }

    /// The device of one of them, of which `asked` was asked for: of several, the CPU.
    ///
    /// # Errors
    /// A GPU where there are other processes.
    pub(crate) fn device(&self, asked: DeviceChoice) -> Result<DeviceChoice> {
        match asked {
            device if !self.group.is_shared() => Ok(device),
            DeviceChoice::Auto | DeviceChoice::Cpu => Ok(DeviceChoice::Cpu),
            DeviceChoice::Cuda(_) => Err(Error::Config {
                origin: "configuration".into(),
                key: "compute.device".into(),
                reason: "processes that train together talk over Gloo, which takes tensors on \
                         CPUs; choose cpu, or one process"
                    .into(),
            }),
        }
    }

    /// A line for people; nothing for a process alone.
    pub fn describe(&self, sharding: Sharding) -> Option<String> {
        let Meeting { launch, .. } = self.meeting.as_deref()?;
        let sharding = crate::names::name_of(sharding);
        Some(format!(
            "processes  {}, {} on this machine; optimizer.sharding {sharding}",
            launch.size, launch.local_size
        ))
    }

    /// Waits until all processes have made their parts, compares data and initial weights with
    /// theirs, and gives each process random numbers of its own for dropout.
    ///
    /// # Errors
    /// A process that failed, or that has other data or weights.
    pub(crate) fn check_parts(&self, parts: &Parts, seed: u64) -> Result<()> {
        self.check(|| agreement::of_parts(parts), seed)
    }

    /// [`check_parts`](Self::check_parts) of what `facts` tell.
    ///
    /// # Errors
    /// As [`check_parts`](Self::check_parts).
    pub(crate) fn check(
        &self,
        facts: impl FnOnce() -> Result<SharedFacts>,
        seed: u64,
    ) -> Result<()> {
        let Some(meeting) = self.meeting.as_deref() else { return Ok(()) };
        // Preparing text has no time limit; a process that fails says so.
        meeting.wait_for_all("prepared")?;
        meeting.compare("parts", &facts()?)?;
        if !self.leads() {
            random::seed(seed_of_rank(&seed.to_le_bytes(), self.group.rank()));
        }
        Ok(())
    }

    /// After the last step: the signal that stopped the run before it had taken all, whichever rank
    /// got it. If there was none, each parameter has its exact value afterwards.
    pub(crate) fn end_of_steps(
        &self,
        trainer: &mut Trainer,
        stop: &StopSignal,
    ) -> Result<Option<u8>> {
        let signal = self.stopped_by(trainer, stop)?;
        if signal.is_none() {
            trainer.gather_weights()?;
        }
        Ok(signal)
    }

    /// The signal that stopped the run before it had taken all steps, whichever rank got it.
    pub(crate) fn stopped_by(&self, trainer: &Trainer, stop: &StopSignal) -> Result<Option<u8>> {
        let [signal] = agree_on(&self.group, [stop.received().unwrap_or(0).into()])?;
        let is_whole = trainer.steps() >= trainer.max_steps() || trainer.ended_early().is_some();
        Ok((signal != 0 && !is_whole).then_some(signal as u8))
    }

    /// Tells the others that this process ends with `error`.
    pub fn tell_failure(&self, error: &Error) {
        // Of another's failure all know from that one.
        let is_own = !matches!(error, Error::Core(Core::Distributed { .. }));
        if let Some(Meeting { launch, store }) = self.meeting.as_deref().filter(|_| is_own) {
            let text = format!("rank {} failed: {error}", launch.rank);
            // Where the store is gone, the others know.
            let _ = store.set(FAILED, text.as_bytes());
        }
    }
}

impl Meeting {
    /// Compares `facts` with those of all others. Rank 0 stays until all have read them, as it may
    /// be the one that serves them.
    fn compare(&self, phase: &str, facts: &SharedFacts) -> Result<()> {
        let Launch { rank, size, .. } = self.launch;
        let compared = agree(&self.store.with_prefix(phase)?, rank, size, facts);
        let left = format!("{phase}/left");
        let mut gone = self.store.add(&left, 1)?;
        let until = Instant::now() + LEAVING;
        while rank == 0 && compared.is_err() && gone < size as i64 && Instant::now() < until {
            std::thread::sleep(POLL);
            gone = self.store.add(&left, 0)?;
        }
        Ok(compared?)
    }

    /// Waits until all are here, or one has failed.
    fn wait_for_all(&self, phase: &str) -> Result<()> {
        let Launch { rank, size, .. } = self.launch;
        let mut here = self.store.add(phase, 1)?;
        while here < size as i64 {
            if self.store.contains(FAILED)? {
                let reason = String::from_utf8_lossy(&self.store.get(FAILED)?).into_owned();
                let op = "wait for the others";
                return Err(Core::Distributed { rank, op, reason }.into());
            }
            std::thread::sleep(POLL);
            here = self.store.add(phase, 0)?;
        }
        Ok(())
    }
}

/// A seed that follows from `bytes` and the rank.
pub(crate) fn seed_of_rank(bytes: &[u8], rank: usize) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(bytes).update(&(rank as u64).to_le_bytes());
    let mut seed = [0; 8];
    seed.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ_by_rank_and_by_seed() {
        let mut seeds: Vec<u64> =
            (0..64u64).map(|at| seed_of_rank(&(at % 2).to_le_bytes(), at as usize / 2)).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 64);
    }
}
