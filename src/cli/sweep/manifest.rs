//! `peft-bench sweep manifest`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Which;
use crate::cli::output::print;
use crate::cli::progress::message;
use crate::sweep::launch::Tasks;
use crate::sweep::launch::kubernetes::{Pods, manifest};

/// `sweep manifest`
#[derive(Debug, Args)]
pub struct Manifest {
    #[command(flatten)]
    which: Which,

    /// Write an Indexed Job for Kubernetes 1.33 or later.
    #[arg(long, required = true)]
    kubernetes: bool,

    /// The Job's name.
    #[arg(long, value_name = "NAME", default_value = "peft-bench-sweep")]
    name: String,

    /// An image that has `peft-bench` in its `PATH`.
    #[arg(long, value_name = "IMAGE")]
    image: String,

    /// The claim of a volume that all pods can write to (ReadWriteMany).
    #[arg(long, value_name = "NAME")]
    claim: String,

    /// Where it's mounted, here and in pods: the sweep, and the folder where it was planned, are below it.
    #[arg(long, value_name = "DIR")]
    mount: PathBuf,

    /// The most pods at once [default: all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    at_once: Option<u32>,

    /// Whole cores of a pod [default: the plan's `--threads`, else 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cpus: Option<u32>,

    /// Memory of a pod, such as `16Gi` [default: what the largest job is expected to need].
    #[arg(long, value_name = "AMOUNT")]
    memory: Option<String>,

    /// GPUs of a pod [default: 1 if the plan needs one].
    #[arg(long, value_name = "N")]
    gpus: Option<usize>,

    /// Retries of a job.
    #[arg(long, value_name = "N", default_value_t = 1)]
    retries: usize,
}

impl Manifest {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        let folder = self.which.folder()?;
        let plan = folder.plan()?;
        let numbers: Vec<usize> = (0..plan.jobs.len()).collect();
        let run_options = ["--keep-going".to_owned()];
        let tasks = Tasks {
            sweep: folder.path(),
            plan: &plan,
            numbers: &numbers,
            at_once: self.at_once.map(|most| most as usize),
            cpus: self
                .cpus
                .map_or(plan.common.threads.unwrap_or(1), |cpus| cpus as usize),
            run_options: &run_options,
            engine_options: &[],
        };
        let largest = plan.jobs.iter().map(|job| job.estimate.memory_bytes).max();
        let memory = match &self.memory {
            Some(memory) => memory.clone(),
            None => format!("{}Mi", (largest.unwrap_or_default() >> 20).max(512) * 5 / 4),
        };
        let text = manifest(
            &tasks,
            &Pods {
                name: &self.name,
                image: &self.image,
                claim: &self.claim,
                mount: &std::path::absolute(&self.mount)?,
                memory: &memory,
                gpus: self.gpus.unwrap_or(usize::from(plan.common.gpu)),
                retries: self.retries,
            },
        )?;
        print(&text)?;
        message("next: `kubectl apply -f FILE`; then `peft-bench sweep status` on the same volume");
        Ok(())
    }
}
