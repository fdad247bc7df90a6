//! What has to be in the environment before the program's libraries are loaded.

use bert4rs_tensor_core::cpu::CpuFeatures;
use bert4rs_tensor_core::cpu_isa::CpuIsa;
use bert4rs_tensor_core::threads;
use bert4rs_train::config::resolve;

use crate::commands::train::settings;
use crate::flags::{Command, TrainFlags};

/// Starts the program anew where the command needs other variables in its environment. Returns
/// where it does not, or can't; what then is not in force, the command refuses.
pub(crate) fn restart_for(command: &Command) {
    let (spinning, isa) = match command {
        Command::Train(flags) => (threads::bounded_spinning(), isa_of_run(&flags.run)),
        Command::Profile(flags) => (threads::bounded_spinning(), isa_of_run(&flags.train)),
        Command::Finetune(_) => (threads::bounded_spinning(), None),
        Command::Doctor(flags) => (None, flags.cpu_isa.as_ref().and_then(|name| name.parse().ok())),
        _ => return,
    };
    // One of the environment alone holds for libtorch too.
    let isa: Option<CpuIsa> = isa.or_else(|| CpuIsa::of_process().ok().flatten());
    let isa = isa.filter(|isa| !isa.is_in_force() && isa.check(CpuFeatures::of_machine()).is_ok());
    let variables = isa.map(CpuIsa::environment).unwrap_or_default();
    let variables = variables.into_iter().filter(|(name, _)| !name.is_empty());
    let variables = variables.map(|(name, value)| (name, value.to_owned())).chain(spinning);
    // Where it fails, training is as good, but slow beside other work.
    let _ = threads::restart_with(&variables.collect::<Vec<_>>());
}

/// The class of processor that a run is to keep to. What is wrong with its flags is told later.
fn isa_of_run(flags: &TrainFlags) -> Option<CpuIsa> {
    resolve(&settings(flags).ok()?).ok()?.cpu_isa()
}
