//! `--verbose`: what the crates report through `tracing`, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::filter::LevelFilter;

/// From now on, shows the crates' events: none, those of level debug and above, or all.
pub(crate) fn show(times: u8) {
    let level = match times {
        0 => return,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
}
