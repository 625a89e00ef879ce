//! `peft-bench runtime`

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::options::CommonOptions;
use super::output::{line, print_json};
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

    /// Print an object, or `null` if there's no library.
    #[arg(long, global = true)]
    json: bool,
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
            return self.show(&library?);
        }
        match locate(false)? {
            Some(library) => self.show(&library),
            None if self.json => print_json(&Value::Null),
            None => line(
                "none found; `peft-bench runtime install` fetches one, and so does the first run",
            ),
        }
    }

    fn show(&self, library: &Library) -> Result<()> {
        let runtime = OnnxRuntime::load(library)?;
        match self.json {
            true => print_json(&json(library, &runtime)),
            false => show(library, &runtime),
        }
    }
}

fn json(library: &Library, runtime: &OnnxRuntime) -> Value {
    let (source, environment) = match &library.source {
        LibrarySource::Environment => ("ORT_DYLIB_PATH", None),
        LibrarySource::Cache => ("cache", None),
        LibrarySource::PythonEnvironment(path) => ("python_environment", Some(path)),
        LibrarySource::Downloaded => ("downloaded", None),
    };
    json!({
        "library": library.path,
        "version": library.version,
        "providers": runtime.providers(),
        "source": source,
        "python_environment": environment,
    })
}

fn show(library: &Library, runtime: &OnnxRuntime) -> Result<()> {
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
