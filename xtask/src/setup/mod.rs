//! `cargo xtask setup`: finds or fetches the one libtorch that bert4rs is built with.

mod elf;
mod find;
mod here;
mod libraries;
mod links;
mod wheels;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cache::Cache;
use crate::checkout::Checkout;
use crate::console;
use crate::error::Result;

/// The libtorch that the pinned `tch` is written for.
pub(crate) const EXPECTED: &str = "2.11.0";

/// A folder with `lib` and `include`, and what led to it.
pub(crate) struct Libtorch {
    torch: PathBuf,
    origin: &'static str,
}

/// Find or fetch libtorch 2.11.0, and link it into the checkout
///
/// Looks at the variable LIBTORCH, the folder .libtorch in the checkout, and an installed
/// PyTorch; where there is none, fetches pinned packages (0.5 GB) into the cache folder.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fetch what a GPU needs as well (2 GB more)
    #[arg(long)]
    cuda: bool,
    /// Let a project outside the checkout build on this libtorch: writes its .cargo/config.toml
    #[arg(long, value_name = "DIR")]
    here: Option<PathBuf>,
}

/// Finds or fetches libtorch, makes `.torch` lead to it, and tells which it was.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<()> {
    let started = Instant::now();
    let libtorch = find_or_fetch(checkout, args.cuda)?;
    if let Some(project) = &args.here {
        let path = here::write(project, &libtorch)?;
        console::line(format_args!("{}: this project builds on it", path.display()));
    }
    let count = links::write(&checkout.torch(), &libtorch)?;
    console::line(format_args!(
        "libtorch {EXPECTED}: {} ({})",
        libtorch.torch.display(),
        libtorch.origin
    ));
    let devices = match libraries::check(&libtorch.torch, true)? {
        Ok(()) => "CPU and CUDA",
        Err(_) => "CPU only; `cargo xtask setup --cuda` fetches what a GPU needs",
    };
    console::line(format_args!(
        ".torch: {count} libraries linked ({devices}), in {}",
        console::seconds(started.elapsed())
    ));
    Ok(())
}

/// Sets up unless it is already done, which costs a millisecond to see and is not told.
pub(crate) fn ensure(checkout: &Checkout) -> Result<()> {
    let Some(target) = links::target(&checkout.torch()) else {
        return run(checkout, &Args { cuda: false, here: None });
    };
    match find::chosen(checkout) {
        // A choice made since then is followed, and checked.
        Some(chosen) if chosen.torch().as_ref() != Some(&target) => {
            run(checkout, &Args { cuda: false, here: None })
        }
        _ => Ok(()),
    }
}

fn find_or_fetch(checkout: &Checkout, cuda: bool) -> Result<Libtorch> {
    match find::chosen(checkout) {
        Some(chosen) => chosen.open(cuda),
        None => match find::installed(cuda)? {
            Some(installed) => Ok(installed),
            None => fetched(cuda),
        },
    }
}

/// Lets a project outside the checkout build on the libtorch that the checkout is built with.
pub(crate) fn here(checkout: &Checkout, project: &Path) -> Result<()> {
    here::write(project, &find_or_fetch(checkout, false)?).map(drop)
}

fn fetched(cuda: bool) -> Result<Libtorch> {
    let torch = wheels::fetch(&Cache::of_user()?, cuda)?;
    // A cache folder that is itself a link may lead elsewhere tomorrow.
    let torch = fs::canonicalize(&torch).unwrap_or(torch);
    Ok(Libtorch { torch, origin: "fetched once for all checkouts" })
}

/// The folder of NVRTC, which compiles kernels and needs no GPU; fetches it where it is missing.
pub(crate) fn nvrtc() -> Result<PathBuf> {
    wheels::fetch_nvrtc(&Cache::of_user()?)
}
