//! Fewer draws, once somebody waits for the program's end.
//!
//! Intervals of thousands of runs take many seconds, in which a job scheduler may kill the process,
//! and with it a measurement of hours. A tenth of the draws gives the same interval with ends that
//! are a little less certain. It's the whole process that's asked to end, so the flag is its own.

use std::sync::atomic::{AtomicBool, Ordering};

/// The least draws that an interval is made of.
pub(super) const LEAST_DRAWS: usize = 1_000;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Asks for fewer draws from now on, until the process ends.
pub fn hurry() {
    ASKED.store(true, Ordering::SeqCst);
}

/// Whether fewer draws were asked for.
pub fn is_hurried() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Whether the draw with this number, from 0, is left out.
pub(super) fn leaves_out(draw: usize) -> bool {
    draw >= LEAST_DRAWS && is_hurried()
}
