//! `peft-bench runtime`

use anyhow::Result;
use clap::{Args, Subcommand};

use super::options::CommonOptions;
use super::output::line;
use super::progress::ByteProgress;
use crate::engine::OnnxRuntime;
use crate::onnxruntime::install::install;
use crate::onnxruntime::library::{Library, LibrarySource};
use crate::onnxruntime::locate::locate;

/// `runtime`
#[derive(Debug, Args)]
pub struct Runtime {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Fetch the pinned ONNX Runtime into this project's cache.
    Install {
        /// The build with the CUDA provider.
        #[arg(long)]
        cuda: bool,
    },
}

impl Runtime {
    /// Runs the command.
    pub fn run(&self, _common: &CommonOptions) -> Result<()> {
        if let Some(Action::Install { cuda }) = self.action {
            let progress = ByteProgress::default();
            let library = install(cuda, &|event| progress.install(event));
            progress.finish();
            return show(&library?);
        }
        match locate(false)? {
            Some(library) => show(&library),
            None => line(
                "none found; `peft-bench runtime install` fetches one, and so does the first run",
            ),
        }
    }
}

fn show(library: &Library) -> Result<()> {
    let runtime = OnnxRuntime::load(library)?;
    line(&format!("library    {}", library.path.display()))?;
    line(&format!("version    {}", library.version))?;
    line(&format!("providers  {}", runtime.providers().join(", ")))?;
    line(&format!(
        "source     {}",
        match &library.source {
            LibrarySource::Environment => "the variable `ORT_DYLIB_PATH`".to_owned(),
            LibrarySource::Cache => "this project's cache".to_owned(),
            LibrarySource::PythonEnvironment(path) =>
                format!("the Python environment {}", path.display()),
            LibrarySource::Downloaded => "just downloaded".to_owned(),
        }
    ))
}
