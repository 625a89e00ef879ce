//! Ctrl-C: the first ends the measurement in order, the second this process.

use anyhow::{Context, Result};

use crate::measure::client::Interrupt;
use crate::measure::stats::hurry;

/// What a shell reports for a process that Ctrl-C ended.
pub const EXIT_CODE: u8 = 130;

/// Catches Ctrl-C, and the termination that a job scheduler sends.
pub fn install() -> Result<Interrupt> {
    let interrupt = Interrupt::default();
    let raised = interrupt.clone();
    ctrlc::set_handler(move || {
        hurry();
        if raised.raise() {
            std::process::exit(EXIT_CODE.into());
        }
    })
    .context("cannot catch Ctrl-C")?;
    Ok(interrupt)
}
