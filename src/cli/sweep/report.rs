//! `peft-bench sweep report`

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::Which;
use crate::cli::Outcome;
use crate::cli::options::CommonOptions;
use crate::cli::report::View;
use crate::sweep::SweepFolder;

/// `sweep report`
#[derive(Debug, Args)]
pub struct Report {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    view: View,
}

impl Report {
    /// Runs the command.
    pub fn run(&self, common: &CommonOptions) -> Result<Outcome> {
        let folder = self.which.folder()?;
        let sections = sections(&folder)?;
        self.view.run_sections(&sections, common)?;
        Ok(Outcome::Done)
    }
}

/// The tables of all results of `sweep`, as `report` prints them.
pub fn tables(sweep: &SweepFolder) -> Result<String> {
    View::usual().text_of_sections(&sections(sweep)?)
}

/// Each kind of hardware with the folder of its results.
fn sections(sweep: &SweepFolder) -> Result<Vec<(String, PathBuf)>> {
    let name = |folder: &PathBuf| {
        folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let folders = sweep.hardware().into_iter();
    let sections: Vec<_> = folders.map(|folder| (name(&folder), folder)).collect();
    match sections.is_empty() {
        true => bail!(
            "there are no results in `{}` yet; `peft-bench sweep status` says how the jobs stand",
            sweep.results().display()
        ),
        false => Ok(sections),
    }
}
