//! `peft-bench completions` and `peft-bench man`, from the command line's own definitions.

use std::fs;
use std::io::stdout;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::progress::message;

/// `completions`
#[derive(Debug, Args)]
pub struct Completions {
    /// Shell that completes the commands.
    shell: Shell,
}

/// `man`
#[derive(Debug, Args)]
pub struct ManPages {
    /// Folder for a page of each command [default: the main page goes to stdout].
    folder: Option<PathBuf>,
}

impl Completions {
    /// Runs the command: writes the script to stdout.
    pub fn run(&self, mut program: Command) -> Result<()> {
        let mut script = Vec::new();
        let name = program.get_name().to_owned();
        clap_complete::generate(self.shell, &mut program, name, &mut script);
        super::output::print(&String::from_utf8(script)?)
    }
}

impl ManPages {
    /// Runs the command.
    pub fn run(&self, program: Command) -> Result<()> {
        let Some(folder) = &self.folder else {
            return Man::new(program)
                .render(&mut stdout())
                .context("cannot write to stdout");
        };
        let failed = || format!("cannot write man pages into `{}`", folder.display());
        fs::create_dir_all(folder).with_context(failed)?;
        clap_mangen::generate_to(program, folder).with_context(failed)?;
        message(&format!(
            "next: `man {}`",
            crate::advice::shell_word(&folder.join("peft-bench.1"))
        ));
        Ok(())
    }
}
