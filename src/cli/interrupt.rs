//! Ctrl-C: the first ends the measurement in order, a later one this process.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::measure::client::Interrupt;
use crate::measure::stats::hurry;

/// What a shell reports for a process that Ctrl-C ended.
pub const EXIT_CODE: u8 = 130;

/// A second signal within this time is taken for the first: a job scheduler ends all processes of a
/// task, and each of them its children.
const SAME: Duration = Duration::from_secs(2);

/// Catches Ctrl-C, and the termination that a job scheduler sends.
pub fn install() -> Result<Interrupt> {
    let interrupt = Interrupt::default();
    let raised = interrupt.clone();
    let first = OnceLock::new();
    ctrlc::set_handler(move || {
        hurry();
        raised.raise();
        if first.get_or_init(Instant::now).elapsed() > SAME {
            std::process::exit(EXIT_CODE.into());
        }
    })
    .context("cannot catch Ctrl-C")?;
    Ok(interrupt)
}
