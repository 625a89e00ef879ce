//! `peft-bench sweep cancel`

use anyhow::{Context, Result, bail};
use clap::Args;

use super::Which;
use crate::advice::shell_word;
use crate::cli::Outcome;
use crate::cli::progress::message;
use crate::files::write_file;
use crate::sweep::launch::{hyperqueue, slurm, submissions};

/// `sweep cancel`
#[derive(Debug, Args)]
pub struct Cancel {
    #[command(flatten)]
    which: Which,
}

impl Cancel {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let folder = self.which.folder()?;
        folder.plan()?;
        let marker = folder.cancelled();
        write_file(&marker, b"").with_context(|| format!("cannot write `{}`", marker.display()))?;
        let mut failed = 0;
        for submission in submissions(&folder) {
            let cancelled = match submission.launcher.as_str() {
                "slurm" => slurm::cancel(&submission),
                _ => hyperqueue::cancel(&submission),
            };
            match cancelled {
                Ok(()) => message(&format!(
                    "cancelled {} {}",
                    submission.launcher,
                    submission.ids.join(", ")
                )),
                Err(error) => {
                    message(&format!("error: {:#}", anyhow::Error::from(error)));
                    failed += 1;
                }
            }
        }
        if failed > 0 {
            bail!("{failed} submissions couldn't be cancelled");
        }
        let word = shell_word(self.which.folder.as_deref().unwrap_or(folder.path()));
        message(&format!(
            "whoever runs the sweep ends within seconds; `peft-bench sweep run {word}` goes on"
        ));
        Ok(Outcome::Done)
    }
}
