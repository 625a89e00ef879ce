//! Worker processes: a study starts its program once more for each subject, which measures in a
//! process of its own.

use std::io;

use crate::measure::worker::serve;

/// The argument that makes a worker of a program.
const ARGUMENT: &str = "worker";

/// Does a worker's work if this process was started as one, and returns whether it was. A program
/// that runs a [`Study`](super::Study) calls it first, and ends if it was one.
///
/// # Errors
/// If the study's process is gone.
pub fn become_worker() -> io::Result<bool> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != ARGUMENT) {
        return Ok(false);
    }
    serve(io::stdin().lock(), io::stdout().lock())?;
    Ok(true)
}
