//! Slurm's variables, as those of torchrun.

/// Where ports begin that follow from a job's number: above those of services, below those that
/// systems give to connections.
const FIRST_PORT: u64 = 20_000;
const PORTS: u64 = 10_000;

/// The same variables; those of torchrun that are not set follow from what `srun` sets in each
/// process of a step. A batch script has some of them too, but not the step's, and is no rank.
pub(super) fn as_torchrun(
    variable: impl Fn(&str) -> Option<String>,
) -> impl Fn(&str) -> Option<String> {
    move |name| {
        variable(name).or_else(|| {
            let tasks = variable("SLURM_STEP_NUM_TASKS")?;
            match name {
                "RANK" => variable("SLURM_PROCID"),
                "WORLD_SIZE" => Some(tasks),
                "LOCAL_RANK" => variable("SLURM_LOCALID"),
                "LOCAL_WORLD_SIZE" => {
                    let node = variable("SLURM_NODEID")?.parse().ok()?;
                    let tasks = tasks_of_node(&variable("SLURM_STEP_TASKS_PER_NODE")?, node)?;
                    Some(tasks.to_string())
                }
                "MASTER_ADDR" => first_host(&variable("SLURM_STEP_NODELIST")?),
                "MASTER_PORT" => {
                    let job: u64 = variable("SLURM_JOB_ID")?.parse().ok()?;
                    Some((FIRST_PORT + job % PORTS).to_string())
                }
                _ => None,
            }
        })
    }
}

/// The tasks of machine `node` in a list such as `2(x3),1`.
fn tasks_of_node(list: &str, node: usize) -> Option<usize> {
    let mut before = 0;
    for part in list.split(',') {
        let (tasks, times) = match part.split_once("(x") {
            None => (part, 1),
            Some((tasks, times)) => (tasks, times.strip_suffix(')')?.parse().ok()?),
        };
        before += times;
        if node < before {
            return tasks.parse().ok();
        }
    }
    None
}

/// The first machine of a list such as `gpu[07-09,12],login1`.
fn first_host(list: &str) -> Option<String> {
    let end = list.find([',', '[']).unwrap_or(list.len());
    let (name, rest) = list.split_at(end);
    let Some(numbers) = rest.strip_prefix('[') else { return Some(name.to_owned()) };
    let inside = numbers.find(']')?;
    let after = &numbers[inside + 1..];
    let first = numbers[..inside].split([',', '-']).next()?;
    let suffix = after.split(',').next().unwrap_or_default();
    Some(format!("{name}{first}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_tasks_and_machines_are_read() {
        let tasks = |node| tasks_of_node("4(x2),3,1(x2)", node);
        assert_eq!([0, 1, 2, 3, 4].map(tasks), [4, 4, 3, 1, 1].map(Some));
        assert_eq!(tasks(5), None);
        for (list, first) in [
            ("alone", "alone"),
            ("a1,b2", "a1"),
            ("gpu[07-09,12]", "gpu07"),
            ("n[1,3]-ib,m2", "n1-ib"),
        ] {
            assert_eq!(first_host(list).as_deref(), Some(first), "{list}");
        }
    }
}
