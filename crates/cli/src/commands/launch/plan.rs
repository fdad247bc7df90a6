//! Which processes a launcher starts, and what it tells each of them.

use std::process::Command;

use bert4rs_train::{Error, Result};

use crate::launch_flags::LaunchFlags;

/// Where machines meet, unless --master says so: as torchrun has it.
const PORT: u16 = 29500;
/// What several processes can do.
const COMMANDS: [&str; 3] = ["train", "finetune", "doctor"];
/// Tells a process who started it, so that it ends with that one.
pub(crate) const LAUNCHER: &str = "BERT4RS_LAUNCHER";
/// How many threads OpenMP's loops have.
const THREADS: &str = "OMP_NUM_THREADS";

/// The processes of this machine among all.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) processes: usize,
    nodes: usize,
    pub(super) node_rank: usize,
    host: String,
    /// 0 lets the system choose.
    pub(super) port: u16,
    args: Vec<String>,
}

impl Plan {
    /// # Errors
    /// Flags that make no sense, alone or together.
    pub(super) fn new(flags: &LaunchFlags) -> Result<Self> {
        let LaunchFlags { processes, nodes, node_rank, max_restarts, .. } = *flags;
        if processes == 0 || nodes == 0 {
            let flag = if processes == 0 { "--processes" } else { "--nodes" };
            return Err(refuse(flag, "0: expected at least 1"));
        }
        if node_rank >= nodes {
            let reason = format!("{node_rank} is not below --nodes {nodes}; machines count from 0");
            return Err(refuse("--node-rank", &reason));
        }
        if max_restarts > 0 && nodes > 1 {
            let reason = "starts anew on one machine alone; use torchrun for several";
            return Err(refuse("--max-restarts", reason));
        }
        if !flags.command.first().is_some_and(|command| COMMANDS.contains(&command.as_str())) {
            return Err(refuse(
                "-- COMMAND",
                "expected -- train …, -- finetune … or -- doctor --network",
            ));
        }
        let (host, port) = match &flags.master {
            Some(master) => address(master)?,
            None if nodes == 1 => ("127.0.0.1".to_owned(), 0),
            None => {
                let reason = "is needed with --nodes: the address of machine 0";
                return Err(refuse("--master", reason));
            }
        };
        Ok(Self { processes, nodes, node_rank, host, port, args: flags.command.clone() })
    }

    /// The number among all of a process on this machine.
    pub(super) fn rank(&self, local_rank: usize) -> usize {
        self.node_rank * self.processes + local_rank
    }

    /// This program as such a process, with torchrun's variables. Cores are divided, unless the
    /// environment says how many threads there are.
    ///
    /// # Errors
    /// The system does not tell where this program is.
    pub(super) fn command(&self, local_rank: usize, port: u16, restart: u64) -> Result<Command> {
        let program = std::env::current_exe()
            .map_err(|source| Error::Io { path: "this program".into(), source })?;
        let mut command = Command::new(program);
        command.args(&self.args).env("MASTER_ADDR", &self.host);
        for (name, value) in [
            ("RANK", self.rank(local_rank) as u64),
            ("WORLD_SIZE", (self.nodes * self.processes) as u64),
            ("LOCAL_RANK", local_rank as u64),
            ("LOCAL_WORLD_SIZE", self.processes as u64),
            ("MASTER_PORT", port.into()),
            ("TORCHELASTIC_RESTART_COUNT", restart),
            (LAUNCHER, std::process::id().into()),
        ] {
            command.env(name, value.to_string());
        }
        command.env("TORCHELASTIC_USE_AGENT_STORE", "True");
        if std::env::var_os(THREADS).is_none() {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            command.env(THREADS, (cores / self.processes).max(1).to_string());
        }
        Ok(command)
    }
}

/// `HOST` or `HOST:PORT`.
fn address(master: &str) -> Result<(String, u16)> {
    let Some((host, port)) = master.rsplit_once(':') else { return Ok((master.to_owned(), PORT)) };
    match port.parse() {
        Ok(port) if port > 0 && !host.is_empty() => Ok((host.to_owned(), port)),
        _ => Err(refuse("--master", &format!("{master:?}: expected HOST or HOST:PORT"))),
    }
}

fn refuse(flag: &str, reason: &str) -> Error {
    Error::Config { origin: "command line".into(), key: flag.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(
        processes: usize,
        nodes: usize,
        node_rank: usize,
        master: Option<&str>,
    ) -> LaunchFlags {
        LaunchFlags {
            processes,
            nodes,
            node_rank,
            master: master.map(str::to_owned),
            max_restarts: 0,
            command: vec!["train".into()],
        }
    }

    #[test]
    fn ranks_and_cores_are_divided() {
        let plan = Plan::new(&flags(4, 3, 2, Some("node0:1234"))).unwrap();
        assert_eq!((plan.rank(1), plan.host.as_str(), plan.port), (9, "node0", 1234));
        let command = plan.command(1, 1234, 2).unwrap();
        let value = |name: &str| {
            let found = command.get_envs().find(|(other, _)| *other == name);
            found.and_then(|(_, value)| value?.to_str().map(str::to_owned)).unwrap_or_default()
        };
        assert_eq!(value("RANK"), "9");
        assert_eq!(value("WORLD_SIZE"), "12");
        assert_eq!(value("LOCAL_WORLD_SIZE"), "4");
        assert_eq!(value("TORCHELASTIC_RESTART_COUNT"), "2");
    }

    #[test]
    fn flags_that_make_no_sense_are_refused_by_name() {
        let mut restarts = flags(2, 2, 0, Some("a"));
        restarts.max_restarts = 1;
        let mut command = flags(2, 1, 0, None);
        command.command = vec!["data".into()];
        for (flags, named) in [
            (flags(0, 1, 0, None), "--processes"),
            (flags(1, 0, 0, None), "--nodes"),
            (flags(1, 2, 2, Some("a")), "--node-rank"),
            (flags(1, 2, 0, None), "--master"),
            (flags(1, 2, 0, Some("a:b")), "--master"),
            (flags(1, 2, 0, Some(":1")), "--master"),
            (restarts, "--max-restarts"),
            (command, "-- train …"),
        ] {
            let error = Plan::new(&flags).unwrap_err();
            assert!(error.is_bad_input() && error.to_string().contains(named), "{error}");
        }
    }
}
