//! What was submitted to engines, so that it can be asked after and cancelled.

use std::fs::File;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::files::read_to_string;
use crate::sweep::folder::SweepFolder;

/// Jobs that were submitted to an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// `slurm` or `hq`
    pub launcher: String,
    /// The engine's numbers.
    pub ids: Vec<String>,
    /// The number of tasks.
    pub tasks: usize,
    /// The plan's hash.
    pub plan: String,
}

impl Submission {
    /// Adds it to those of `sweep`.
    ///
    /// # Errors
    /// If that can't be written.
    pub fn keep(&self, sweep: &SweepFolder) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        let file = File::options()
            .create(true)
            .append(true)
            .open(sweep.submissions());
        file?.write_all(&line)
    }
}

/// All submissions of `sweep`, in order.
pub fn submissions(sweep: &SweepFolder) -> Vec<Submission> {
    let text = read_to_string(&sweep.submissions()).unwrap_or_default();
    let lines = text.lines();
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}
