//! `peft-bench sweep plan`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser};

use super::{SWEEPS, counted, refuse_output, size};
use crate::advice::shell_word;
use crate::cli::measure::Measure;
use crate::cli::options::CommonOptions;
use crate::cli::output::print;
use crate::cli::progress::message;
use crate::cli::{Cli, Outcome};
use crate::lowering::WeightsMode;
use crate::study::{ProviderChoice, Study};
use crate::sweep::{self, Common, Exclusion, Job, Node, Refusal, Spec, SweepFolder, There};
use crate::system::{Hardware, SystemInfo};
use crate::weights::Dtype;

/// Reasons for refusals, and jobs with notes, of which so many are told.
const MOST_TOLD: usize = 12;

/// `sweep plan`
#[derive(Debug, Args)]
pub struct Plan {
    /// The specification, a `.toml` or `.json` file with the lists below. Options add to its lists.
    #[arg(value_name = "SPEC")]
    spec: Option<PathBuf>,

    /// Experiments, as `measure` takes them; `*` stands for any name (`'lora/*'`).
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    experiments: Vec<String>,

    /// Base models [default: each experiment's own].
    #[arg(long, value_name = "MODEL,…", value_delimiter = ',')]
    models: Vec<String>,

    /// Dtypes: float32, float16, bfloat16 [default: that of the parameters].
    #[arg(long, value_name = "DTYPE,…", value_delimiter = ',')]
    dtypes: Vec<String>,

    /// Formats of quantized weights, `none` for none [default: that of the parameters].
    #[arg(long, value_name = "FORMAT,…", value_delimiter = ',')]
    quantizations: Vec<String>,

    /// Batch sizes, each a job of its own [default: that of the parameters].
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    batch_sizes: Vec<usize>,

    /// Leave out combinations, such as `model=org/large,dtype=float32`. May be given several times.
    #[arg(long, value_name = "KEY=VALUE,…")]
    exclude: Vec<String>,

    /// The sweep's folder [default: `sweeps/` and the specification's name].
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,

    /// Say what there is to do, and write nothing.
    #[arg(long)]
    dry_run: bool,

    /// RAM of the machines that jobs run on, such as `64G` [default: this machine's].
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    ram: Option<u64>,

    /// Memory of one GPU of these machines, such as `80G` [default: this machine's].
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    gpu_memory: Option<u64>,

    /// Options of every `peft-bench measure`, after `--`.
    #[arg(
        last = true,
        value_name = "MEASURE OPTIONS",
        allow_hyphen_values = true
    )]
    measure: Vec<String>,
}

impl Plan {
    /// Runs the command.
    pub fn run(&self, common: &CommonOptions) -> Result<Outcome> {
        refuse_output(common)?;
        let (spec, options) = self.spec(common)?;
        let (study, prepare_options) = measured_with(&options)?;
        let node = self.node();
        let folder = SweepFolder::new(&self.folder());
        let (jobs, refusals, program) = sweep::jobs(&spec, &study, node)?;
        let before = folder.plan().ok();
        let threads = study.settings.threads;
        let common = Common {
            sweep: 0,
            folder: std::env::current_dir().context("cannot find the working folder")?,
            options,
            prepare_options,
            threads,
            gpu: needs_gpu(&spec, &study, node),
            program,
            jobs: 0,
            refused: 0,
        };
        let plan = sweep::Plan::new(common, jobs, refusals);
        print(&summary(&plan, &folder, &study.settings.export_dir))?;
        let word = shell_word(&self.folder());
        if self.dry_run {
            message("nothing was written, since `--dry-run` was given");
        } else if plan.jobs.is_empty() {
            bail!("there's nothing to measure, so no plan was written");
        } else {
            if let Some(before) = before.filter(|before| before.hash != plan.hash) {
                message(&format!(
                    "note: the plan in `{word}` was {}, and is replaced; tasks that were submitted for it end with an error",
                    before.hash
                ));
            }
            plan.write(&folder.plan_file())?;
            message(&format!(
                "wrote {} (plan {}); next: `peft-bench sweep run {word}`",
                folder.plan_file().display(),
                plan.hash
            ));
        }
        Ok(Outcome::Done)
    }

    /// The specification with the command line's lists, and the options of every measurement.
    fn spec(&self, common: &CommonOptions) -> Result<(Spec, Vec<String>)> {
        let mut spec = match &self.spec {
            Some(path) => Spec::read(path)?,
            None => Spec::default(),
        };
        spec.experiments.extend(self.experiments.iter().cloned());
        spec.models.extend(self.models.iter().cloned());
        spec.dtypes.extend(self.dtypes.iter().cloned());
        spec.quantizations
            .extend(self.quantizations.iter().cloned());
        spec.batch_sizes.extend(self.batch_sizes.iter().copied());
        for text in &self.exclude {
            spec.exclude.push(Exclusion::parse(text)?);
        }
        // What all commands have, for what's a list here.
        let mut common = common.clone();
        spec.models.extend(common.model.take());
        spec.dtypes
            .extend(common.dtype.take().map(|dtype| dtype.to_string()));
        if let Some(part) = common.quantize.take() {
            let name = part.format().map_or("none", |format| format.name());
            spec.quantizations.push(name.to_owned());
        }
        let mut options = common.arguments();
        options.append(&mut spec.options);
        options.extend(self.measure.iter().cloned());
        Ok((spec, options))
    }

    fn folder(&self) -> PathBuf {
        if let Some(folder) = &self.to {
            return folder.clone();
        }
        let name = self.spec.as_deref().and_then(Path::file_stem);
        Path::new(SWEEPS).join(name.unwrap_or("sweep".as_ref()))
    }

    fn node(&self) -> Node {
        let system = SystemInfo::collect();
        let limits = [system.total_ram_bytes, system.cgroup_memory_limit_bytes];
        let gpu = Hardware::collect(0).accelerator_memory_mb;
        Node {
            ram_bytes: self.ram.or(limits.into_iter().flatten().min()),
            gpu_bytes: self.gpu_memory.or(gpu.map(|mebibytes| mebibytes << 20)),
        }
    }
}

/// How jobs are measured with `options`, and those options that `prepare` takes too.
pub(super) fn measured_with(options: &[String]) -> Result<(Study, Vec<String>)> {
    let words = ["peft-bench", "measure", "EXPERIMENT"].map(str::to_owned);
    let all = words.iter().chain(options);
    let parsed = Cli::try_parse_from(all).map_err(|error| {
        let text = error.render().to_string();
        let first = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ");
        anyhow::anyhow!("options of every `peft-bench measure`: {first}")
    })?;
    let super::super::Command::Measure(measure) = parsed.command else {
        bail!("the options name another command than `measure`");
    };
    let common = parsed.common;
    refuse_own(&measure, &common)?;
    let study = measure.study(&common);
    let mut preparing = common.arguments();
    if common.weights.is_none() {
        // What `measure` uses, and `prepare` makes only if asked for it.
        preparing.extend(["--weights".to_owned(), WeightsMode::Mapped.to_string()]);
    }
    if let Some(task) = study.task_id {
        preparing.extend(["--task-id".to_owned(), task.to_string()]);
    }
    if let Some(tokenizer) = study.tokenizer.written() {
        preparing.extend(["--tokenizer".to_owned(), tokenizer]);
    }
    Ok((study, preparing))
}

/// Refuses options that a sweep sets itself.
fn refuse_own(measure: &Measure, common: &CommonOptions) -> Result<()> {
    let refused = [
        (
            "--model",
            common.model.is_some(),
            "it's `models` in a sweep (`--models`)",
        ),
        (
            "--dtype",
            common.dtype.is_some(),
            "it's `dtypes` in a sweep (`--dtypes`)",
        ),
        (
            "--quantize",
            common.quantize.is_some(),
            "it's `quantizations` in a sweep (`--quantizations`)",
        ),
        (
            "--device",
            common.device > 0,
            "`peft-bench sweep run --devices` chooses GPUs",
        ),
        (
            "--cached-base",
            measure.cached_base,
            "every job measures its own base",
        ),
        (
            "--baseline",
            measure.baseline.is_some(),
            "`peft-bench compare` compares results of two sweeps",
        ),
    ];
    if let Some((option, _, why)) = refused.iter().find(|(_, is_given, _)| *is_given) {
        bail!("`{option}` can't be an option of every job: {why}");
    }
    if measure.targets.len() > 1 {
        bail!("the options of every job name a target: experiments are `experiments` in a sweep");
    }
    refuse_output(common)
}

fn needs_gpu(spec: &Spec, study: &Study, node: Node) -> bool {
    let dtypes = spec
        .dtypes
        .iter()
        .filter_map(|name| name.parse::<Dtype>().ok());
    let dtypes: Vec<Dtype> = dtypes.collect();
    let provider = study.settings.provider;
    match dtypes.as_slice() {
        [] => provider == ProviderChoice::Cuda,
        dtypes => dtypes
            .iter()
            .any(|&dtype| sweep::is_on_gpu(provider, dtype, node)),
    }
}

/// What there is to do.
fn summary(plan: &sweep::Plan, folder: &SweepFolder, export_dir: &Path) -> String {
    let published = folder.published();
    let mut counts = [0; 2];
    let mut open = Vec::new();
    for job in &plan.jobs {
        match published.of(job) {
            There::Yes(_) => counts[0] += 1,
            There::OtherProgram(_) => counts[1] += 1,
            There::No => open.push(job),
        }
    }
    let combinations = plan.jobs.len() + plan.refusals.len();
    let mut lines = vec![format!(
        "{}: {}, {} can't be measured",
        counted(combinations, "combination"),
        counted(plan.jobs.len(), "job"),
        plan.refusals.len()
    )];
    lines.push(format!("there already      {}", counts[0] + counts[1]));
    if counts[1] > 0 {
        lines.push(format!(
            "                   {} of them by another revision of this program or of ONNX Runtime (`sweep run --this-program` \
             measures them anew)",
            counts[1]
        ));
    }
    lines.push(format!(
        "to be measured     {}{}",
        open.len(),
        expected(&open)
    ));
    if !open.is_empty() {
        lines.push(disk(&open, export_dir));
    }
    lines.extend(notes(&open));
    lines.extend(refusals(&plan.refusals));
    lines.join("\n") + "\n"
}

fn expected(open: &[&Job]) -> String {
    let seconds: f64 = open.iter().map(|job| job.estimate.seconds).sum();
    let memory = open.iter().map(|job| job.estimate.memory_bytes).max();
    match memory {
        None => String::new(),
        Some(memory) => format!(
            ": roughly {} on one device, up to {} of memory",
            humantime::format_duration(Duration::from_secs(seconds.ceil() as u64)),
            size::shown(memory)
        ),
    }
}

/// What's written, and what room there is.
fn disk(open: &[&Job], export_dir: &Path) -> String {
    let own: u64 = open.iter().map(|job| job.estimate.disk_bytes).sum();
    let shared = open.iter().map(|job| {
        let of = (
            &job.base,
            &job.combination.dtype,
            &job.combination.quantization,
        );
        (of, job.estimate.shared_disk_bytes)
    });
    let shared: BTreeMap<_, _> = shared.collect();
    let needed = own + shared.values().sum::<u64>();
    let existing = export_dir.ancestors().find(|path| path.exists());
    let existing = existing.filter(|path| !path.as_os_str().is_empty());
    let stat = rustix::fs::statvfs(existing.unwrap_or(Path::new("."))).ok();
    let free = stat.map(|stat| stat.f_bavail * stat.f_frsize);
    let free = match free {
        Some(free) if free < needed => format!(", and only {} are free there", size::shown(free)),
        _ => String::new(),
    };
    format!(
        "                   up to {} in `{}`{free}",
        size::shown(needed),
        export_dir.display()
    )
}

/// Notes of jobs, each once.
fn notes(open: &[&Job]) -> Vec<String> {
    let mut found: BTreeMap<&str, (usize, &Job)> = BTreeMap::new();
    for job in open {
        for note in &job.notes {
            found.entry(note).or_insert((0, job)).0 += 1;
        }
    }
    told(
        "notes:",
        found
            .into_iter()
            .map(|(note, (count, job))| format!("  {count} × {note}, such as {}", job.combination)),
    )
}

/// Reasons why something can't be measured, each once.
fn refusals(refusals: &[Refusal]) -> Vec<String> {
    let mut found: BTreeMap<&str, (usize, &Refusal)> = BTreeMap::new();
    for refusal in refusals {
        found.entry(&refusal.refused).or_insert((0, refusal)).0 += 1;
    }
    told(
        "can't be measured:",
        found.into_iter().map(|(why, (count, one))| match count {
            1 => format!("  {}: {why}", one.combination),
            count => format!("  {count} combinations, such as {}: {why}", one.combination),
        }),
    )
}

fn told(heading: &str, lines: impl ExactSizeIterator<Item = String>) -> Vec<String> {
    let count = lines.len();
    if count == 0 {
        return Vec::new();
    }
    let mut all = vec![heading.to_owned()];
    all.extend(lines.take(MOST_TOLD));
    if count > MOST_TOLD {
        all.push(format!(
            "  and {} more kinds; the plan has them all",
            count - MOST_TOLD
        ));
    }
    all
}
