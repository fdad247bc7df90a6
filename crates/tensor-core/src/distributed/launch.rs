//! Which rank a process is, and where it meets the others, from the variables that launchers set.

use std::time::Duration;

use super::{Store, slurm};
use crate::error::{Error, Result};

/// A process's place among those that were started together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Its number, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Its number on this machine, from 0.
    pub local_rank: usize,
    /// How many there are on this machine.
    pub local_size: usize,
    /// Where the store is served.
    pub host: String,
    /// The port that it is served on.
    pub port: u16,
    /// The launcher serves the store; else rank 0 does.
    pub launcher_serves: bool,
    /// How often the launcher has started all anew.
    pub restarts: u64,
}

impl Launch {
    /// From torchrun's variables (`RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT` and so on), or
    /// those that Slurm's `srun` sets, beside which `MASTER_ADDR` and `MASTER_PORT` may say
    /// otherwise: without them it is the first machine of the step, and a port that follows from
    /// the job's number. `None` where this process was started alone. `variable` gives a variable's
    /// value.
    ///
    /// # Errors
    /// A variable that is missing beside others, or makes no sense.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let variable = slurm::as_torchrun(variable);
        let found = |name: &str| variable(name).map(|value| (name.to_owned(), value));
        let (Some(rank), Some(size)) = (found("RANK"), found("WORLD_SIZE")) else {
            return Ok(None);
        };
        let (rank, size): (usize, usize) = (number(rank)?, number(size)?);
        if size <= 1 {
            return Ok(None);
        }
        let or_else = |name: &str, value: usize| found(name).map_or(Ok(value), number);
        let needed = |name: &str| {
            found(name).ok_or_else(|| refuse(name, "", "is not set, but RANK and WORLD_SIZE are"))
        };
        let launch = Self {
            rank,
            size,
            local_rank: or_else("LOCAL_RANK", rank)?,
            local_size: or_else("LOCAL_WORLD_SIZE", size)?,
            host: needed("MASTER_ADDR")?.1,
            port: number(needed("MASTER_PORT")?)?,
            launcher_serves: variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|v| v == "True"),
            restarts: or_else("TORCHELASTIC_RESTART_COUNT", 0)? as u64,
        };
        if launch.rank >= size || launch.local_rank >= launch.local_size {
            let reason = "ranks count from 0 and are below the number of processes";
            return Err(refuse("RANK", &rank.to_string(), reason));
        }
        Ok(Some(launch))
    }

    /// The store where these processes meet. A restart gets other keys than the start before, whose
    /// addresses are stale.
    ///
    /// # Errors
    /// A port that is taken, or nobody who serves the store in time.
    pub fn store(&self, timeout: Duration) -> Result<Store> {
        let store = if self.rank == 0 && !self.launcher_serves {
            Store::serve(self.port, timeout)?
        } else {
            Store::connect(&self.host, self.port, timeout)?
        };
        store.with_prefix(&format!("bert4rs/{}", self.restarts))
    }
}

fn number<T: std::str::FromStr>((name, value): (String, String)) -> Result<T> {
    value.parse().map_err(|_| refuse(&name, &value, "is not a number that fits"))
}

fn refuse(name: &str, value: &str, reason: &str) -> Error {
    Error::Launch { variable: name.into(), value: value.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(variables: &[(&str, &str)]) -> Result<Option<Launch>> {
        Launch::from_variables(|name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const TORCHRUN: [(&str, &str); 8] = [
        ("RANK", "5"),
        ("WORLD_SIZE", "8"),
        ("LOCAL_RANK", "1"),
        ("LOCAL_WORLD_SIZE", "4"),
        ("MASTER_ADDR", "node0"),
        ("MASTER_PORT", "29500"),
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ("TORCHELASTIC_RESTART_COUNT", "2"),
    ];

    #[test]
    fn torchruns_variables_are_understood() {
        let found = launch(&TORCHRUN).unwrap().unwrap();
        let expected = Launch {
            rank: 5,
            size: 8,
            local_rank: 1,
            local_size: 4,
            host: "node0".into(),
            port: 29500,
            launcher_serves: true,
            restarts: 2,
        };
        assert_eq!(found, expected);
    }

    const SRUN: [(&str, &str); 7] = [
        ("SLURM_PROCID", "3"),
        ("SLURM_STEP_NUM_TASKS", "4"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_NODEID", "1"),
        ("SLURM_STEP_TASKS_PER_NODE", "2(x2)"),
        ("SLURM_STEP_NODELIST", "gpu[07-09,12]"),
        ("SLURM_JOB_ID", "4711"),
    ];

    #[test]
    fn slurms_variables_are_understood() {
        let found = launch(&SRUN).unwrap().unwrap();
        assert_eq!((found.rank, found.size, found.local_rank, found.local_size), (3, 4, 1, 2));
        assert!(!found.launcher_serves && found.restarts == 0);
        assert_eq!((found.host.as_str(), found.port), ("gpu07", 24_711));
        let own = [&SRUN[..], &[("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "29500")]].concat();
        let found = launch(&own).unwrap().unwrap();
        assert_eq!((found.host.as_str(), found.port), ("10.0.0.1", 29500));
    }

    #[test]
    fn a_batch_script_of_slurms_is_a_process_alone() {
        // What sbatch sets, without srun.
        let batch = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4"), ("SLURM_LOCALID", "0")];
        assert_eq!(launch(&batch).unwrap(), None);
    }

    #[test]
    fn a_process_alone_is_none_and_nonsense_is_refused_by_name() {
        assert_eq!(launch(&[]).unwrap(), None);
        assert_eq!(launch(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
        for (index, value, message) in [
            (0, "8", "RANK = \"8\""),
            (0, "x", "RANK = \"x\": is not a number"),
            (1, "-1", "WORLD_SIZE = \"-1\""),
            (5, "70000", "MASTER_PORT = \"70000\""),
        ] {
            let mut variables = TORCHRUN;
            variables[index].1 = value;
            let error = launch(&variables).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let error = launch(&TORCHRUN[..5]).unwrap_err().to_string();
        assert!(error.contains("MASTER_PORT") && error.contains("not set"), "{error}");
    }
}
