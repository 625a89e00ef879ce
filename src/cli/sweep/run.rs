//! `peft-bench sweep run`

use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use clap::Args;

use super::plan::measured_with;
use super::report::tables;
use super::{Which, counted};
use crate::advice::shell_word;
use crate::cli::interrupt;
use crate::cli::progress::message;
use crate::cli::{Outcome, output};
use crate::sweep::lanes::{self, core_set, lanes, preparing_cores, share_memory};
use crate::sweep::{self, Event, Inputs, Job, Progress, Settings, Summary, engine_task, named};

/// `sweep run`
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    which: Which,

    /// GPUs, one job at a time on each; cores are divided among them.
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    devices: Vec<usize>,

    /// Sets of cores, one job at a time on each, such as `0-7,8-15`; `0-3+8-11` is one set [default: one of
    /// all cores].
    #[arg(long, value_name = "SET,…", value_delimiter = ',', value_parser = cores)]
    cores: Vec<Cores>,

    /// Cores on which what later jobs need is prepared meanwhile, at low priority [default: those of memory nodes
    /// where nothing is timed].
    #[arg(long, value_name = "SET", value_parser = cores)]
    prepare_cores: Option<Cores>,

    /// Try a job that failed so often again.
    #[arg(long, value_name = "N", default_value_t = 0)]
    retries: usize,

    /// End a job that takes longer, such as `30m`; it has failed then.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,

    /// Go on when a job has failed.
    #[arg(long)]
    keep_going: bool,

    /// Measure anew what another revision of this program or of ONNX Runtime measured.
    #[arg(long)]
    this_program: bool,

    /// How long to wait for cores or a GPU on which another sweep's job runs.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "24h")]
    wait: Duration,

    /// Only the job with this number; `auto` takes it from the engine's environment (SLURM_ARRAY_TASK_ID,
    /// JOB_COMPLETION_INDEX, HQ_TASK_ID, SKYPILOT_JOB_RANK).
    #[arg(long, value_name = "N|auto", value_parser = number, conflicts_with = "shard")]
    index: Option<Number>,

    /// Only every n-th job, from the i-th on, such as `0/4`; `auto/4` takes `i` from the engine's environment.
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<Shard>,

    /// Refuse any plan but the one with this hash.
    #[arg(long, value_name = "HASH")]
    plan: Option<String>,
}

/// A set of cores.
type Cores = std::sync::Arc<Vec<u32>>;

fn cores(text: &str) -> Result<Cores, lanes::LaneError> {
    core_set(text).map(Cores::new)
}

/// A number that's given, or the engine's.
#[derive(Debug, Clone, Copy)]
enum Number {
    Given(usize),
    OfEngine,
}

/// Every so many-th job.
#[derive(Debug, Clone, Copy)]
struct Shard {
    number: Number,
    of: NonZeroUsize,
}

fn number(text: &str) -> Result<Number, String> {
    match text {
        "auto" => Ok(Number::OfEngine),
        text => {
            let number = text.parse();
            let number = number.map_err(|_| "expected a number from 0 on, or `auto`".to_owned());
            number.map(Number::Given)
        }
    }
}

fn shard(text: &str) -> Result<Shard, String> {
    let wrong = || "expected such as `0/4`, from `0/n` to `(n-1)/n`, or `auto/4`".to_owned();
    let (index, of) = text.split_once('/').ok_or_else(wrong)?;
    let of: NonZeroUsize = of.parse().map_err(|_| wrong())?;
    match number(index).map_err(|_| wrong())? {
        Number::Given(index) if index >= of.get() => Err(wrong()),
        number => Ok(Shard { number, of }),
    }
}

impl Number {
    fn get(self) -> Result<usize> {
        match self {
            Self::Given(number) => Ok(number),
            Self::OfEngine => Ok(engine_task::number()?),
        }
    }
}

impl Run {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let folder = self.which.folder()?;
        let choose = |jobs| self.numbers(jobs);
        let (plan, numbers) = folder.plan_of(self.plan.as_deref(), choose)?;
        if !plan.common.folder.is_dir() {
            bail!(
                "the plan was made in `{}`, which isn't there: paths of the plan are meant in it, so make it anew here, or \
                 mount it",
                plan.common.folder.display()
            );
        }
        // Names in the plan are meant there; the sweep's own folder is known in full.
        std::env::set_current_dir(&plan.common.folder)
            .with_context(|| format!("cannot enter `{}`", plan.common.folder.display()))?;
        let (study, _) = measured_with(&plan.common.options)?;
        let inputs = Inputs::of(&plan, &study).map_err(Error::msg)?;
        let core_sets: Vec<Vec<u32>> = self.cores.iter().map(|set| set.to_vec()).collect();
        let lanes = lanes(&self.devices, &core_sets, plan.common.gpu)?;
        let asked = self.prepare_cores.as_deref();
        let preparing = preparing_cores(&lanes, asked.map(Vec::as_slice))?;
        note_shared(&lanes, asked.is_some().then_some(&preparing));
        let settings = Settings {
            lanes,
            preparing_cores: preparing,
            retries: self.retries,
            timeout: self.timeout,
            keep_going: self.keep_going,
            only_this_program: self.this_program,
            patience: self.wait,
        };
        let interrupt = interrupt::install()?;
        let summary = sweep::run(
            &folder, &plan, &inputs, &numbers, &settings, &interrupt, &tell,
        )?;
        message(&in_words(&summary));
        let is_all = self.index.is_none() && self.shard.is_none();
        if is_all && summary.there > 0 && !summary.stopped {
            output::print(&tables(&folder)?)?;
        }
        let word = shell_word(self.which.folder.as_deref().unwrap_or(folder.path()));
        Ok(ended(&summary, &word))
    }

    /// The numbers of those that are chosen of so many jobs.
    fn numbers(&self, jobs: usize) -> Result<Vec<usize>> {
        if let Some(index) = self.index {
            let index = index.get()?;
            if index >= jobs {
                bail!(
                    "there's no job {index}: the plan has {}, numbered from 0",
                    counted(jobs, "job")
                );
            }
            return Ok(vec![index]);
        }
        let Some(Shard { number, of }) = self.shard else {
            return Ok((0..jobs).collect());
        };
        let number = number.get()?;
        if number >= of.get() {
            bail!("the engine's number is {number}, and there are {of} shards, numbered from 0");
        }
        Ok((number..jobs).step_by(of.get()).collect())
    }
}

/// Says where one timing slows another although they share no core.
fn note_shared(lanes: &[lanes::Lane], preparing: Option<&Vec<u32>>) {
    let mut sets: Vec<&[u32]> = lanes.iter().map(|lane| lane.cores.as_slice()).collect();
    let on_gpus = lanes.iter().all(|lane| lane.gpu.is_some());
    if sets.len() > 1 && !on_gpus && share_memory(&sets) {
        message(
            "note: sets of cores share a memory node, so jobs that are timed at once slow each other where they wait for \
             memory; ratios to the base hold, absolute times don't",
        );
    } else if let Some(preparing) = preparing {
        sets.push(preparing);
        if share_memory(&sets) {
            message(
                "note: `--prepare-cores` share a memory node with cores on which jobs are timed, and may slow them",
            );
        }
    }
}

/// What happens, in lines.
fn tell(event: Event) {
    let of = |job: &Job| format!("job {} ({})", job.job, job.combination);
    let text = match event {
        Event::Began { job, lane } => format!("{} on {lane}", of(job)),
        Event::Done {
            job,
            seconds,
            progress:
                Progress {
                    there,
                    of: all,
                    left,
                },
        } => {
            let left = match there == all {
                true => String::new(),
                false => format!(", about {} left", rounded(left)),
            };
            let took = rounded(Duration::from_secs_f64(seconds));
            format!("[{there}/{all}] {} took {took}{left}", of(job))
        }
        Event::Adopted { job } => {
            format!("{}: an earlier attempt had measured it to the end", of(job))
        }
        Event::Failed {
            job,
            error,
            log,
            again,
        } => {
            let next = if again { "; it's tried again" } else { "" };
            format!("error: {}: {error} (see {log}){next}", of(job))
        }
        Event::Elsewhere { job, owner } => {
            format!("note: {} is being measured by {}", of(job), named(owner))
        }
        Event::Waiting { lane, lock } => {
            format!("waiting for {lane}: another job is timed there ({lock})")
        }
        Event::Preparing { job } => format!("preparing {}", of(job)),
    };
    message(&text);
}

fn rounded(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(time.as_secs_f64().ceil() as u64))
}

fn in_words(summary: &Summary) -> String {
    let mut parts = vec![format!(
        "{} of {} there, {} measured now",
        summary.there,
        counted(summary.jobs, "job"),
        summary.measured
    )];
    if !summary.failed.is_empty() {
        parts.push(format!("{} failed", summary.failed.len()));
    }
    if summary.elsewhere > 0 {
        parts.push(format!(
            "{} left to others, or because something was busy",
            summary.elsewhere
        ));
    }
    let open = summary.jobs - summary.there - summary.failed.len() - summary.elsewhere;
    if open > 0 {
        parts.push(format!("{open} not begun or not ended"));
    }
    parts.join(", ")
}

/// How the run ended, and what to do next.
fn ended(summary: &Summary, word: &str) -> Outcome {
    if summary.stopped {
        message(&format!(
            "interrupted; `peft-bench sweep run {word}` goes on"
        ));
        return Outcome::Interrupted;
    }
    if !summary.failed.is_empty() {
        message(&format!("next: `peft-bench sweep status {word}`"));
        return Outcome::Worse;
    }
    match summary.elsewhere {
        0 => Outcome::Done,
        _ => Outcome::Busy,
    }
}
