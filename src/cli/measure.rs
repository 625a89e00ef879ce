//! `peft-bench measure`

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use super::options::{
    BatchOptions, CommonOptions, RESULTS, RestartOptions, TaskOptions, TokenizerOptions, distinct,
};
use super::output::print;
use super::progress::message;
use super::quiet::QuietOptions;
use super::serving::ServingOptions;
use super::terminal::Terminal;
use super::{Outcome, compare, interrupt};
use crate::advice::shell_word;
use crate::judge::{Judgement, Side, Source, pairs, text};
use crate::measure::session::PrecisionGoal;
use crate::study::{CaseResult, Study, StudyError};

/// `measure`
#[derive(Debug, Args)]
pub struct Measure {
    /// Experiments, which are measured together, in turn and against one base, where their
    /// parameters are the same (one process at once for each variant of each); or prepared folders,
    /// or folders of merged Hugging Face checkpoints. Adapters and checkpoints may be hub ids
    /// (`org/name[@revision]`), and `synthetic/<shape>` is a model of random weights. Folders that onnxruntime-genai's builder, Optimum or Transformers
    /// exported are measured as they are, beside the others, or against `--model`.
    #[arg(required = true)]
    pub(super) targets: Vec<PathBuf>,

    /// Prompts in place of `prompts/prompts.json`.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,

    /// Take the base's figures from an earlier `peft-bench base` of exactly this configuration. It
    /// saves time; overheads are then not paired, and so less certain.
    #[arg(long)]
    pub(super) cached_base: bool,

    /// Go on until every overall overhead is known to within so many percentage points (half of its
    /// 95 % interval); `num_inference_runs` is then the least. With `--restarts`, whole starts are
    /// added.
    #[arg(long, value_name = "PCT", value_parser = percentage, conflicts_with = "cached_base")]
    target_precision: Option<f64>,

    /// Begin no further round, or start, for `--target-precision` after so much time, such as `90s`
    /// or `10m`.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "5m",
        requires = "target_precision"
    )]
    max_time: Duration,

    /// Compare what was measured with an earlier result, or with those of a folder, as `compare`
    /// does, and exit as it does: with 1 if something is worse, with 3 if that can't be told.
    #[arg(long, value_name = "FILE|FOLDER", conflicts_with = "cached_base")]
    pub(super) baseline: Option<PathBuf>,

    /// By how many percent a variant's time over its base's may be more than in `--baseline`.
    #[arg(
        long,
        value_name = "PCT",
        value_parser = compare::margin,
        default_value = "3%",
        requires = "baseline"
    )]
    margin: f64,

    #[command(flatten)]
    restarts: RestartOptions,

    #[command(flatten)]
    batch: BatchOptions,

    #[command(flatten)]
    task: TaskOptions,

    #[command(flatten)]
    tokenizer: TokenizerOptions,

    /// Measure prompts of exactly so many tokens as well, such as `64,256,1024`, with every batch
    /// size: the result's `sweep`. They are made of the prompts' own tokens, and followed by
    /// `max_new_tokens` new ones.
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    sweep: Vec<u32>,

    /// Measure swapping as well: so many adapters in memory [default: 4] take turns in one open
    /// session, this one and others of its shape with drawn values.
    #[arg(
        long,
        value_name = "N",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "4",
        value_parser = clap::value_parser!(u16).range(2..=256)
    )]
    swap: Option<u16>,

    #[command(flatten)]
    serving: ServingOptions,

    /// Measure the base against itself as well: the smallest overhead that this machine can tell
    /// from none.
    #[arg(long, conflicts_with = "cached_base")]
    aa: bool,

    /// Measure the unmerged graph with an adapter of zeros as well: what the graph's shape alone
    /// costs.
    #[arg(long)]
    empty: bool,

    #[command(flatten)]
    quiet: QuietOptions,
}

/// `2%` or `2`.
fn percentage(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim_end();
    match number.parse() {
        Ok(value) if f64::is_finite(value) && value > 0.0 => Ok(value),
        _ => Err("expected a percentage above zero, such as `2%`".to_owned()),
    }
}

impl Measure {
    /// Runs the command.
    pub fn run(&self, common: &CommonOptions) -> Result<Outcome> {
        let study = self.study(common);
        let Some(baseline) = &self.baseline else {
            let outcome = run_study(study, common)?;
            if let Outcome::Done = outcome {
                message(&format!("next: `{}`", reporting(&common.output)));
            }
            return Ok(outcome);
        };
        // The measurement may take this file's place.
        let old = Side::read(baseline)?;
        if let Some(why) = old.nothing() {
            bail!("there's nothing to compare with: {why}");
        }
        let results = match results_of(study, common)? {
            Ok(results) => results,
            Err(outcome) => return Ok(outcome),
        };
        let new = results.into_iter().map(|result| Source {
            file: result.path,
            report: result.report,
        });
        let pairs = pairs(old, Side::just_measured(new.collect()));
        let judgement = Judgement::new(pairs, self.margin);
        print(&format!("\n{}", text::table(&judgement, common.verbose)))?;
        Ok(compare::outcome(&judgement))
    }

    /// What's asked for, as a study.
    pub(super) fn study(&self, common: &CommonOptions) -> Study {
        let goal = |half_width_pct| PrecisionGoal {
            half_width_pct,
            max_time: self.max_time,
        };
        Study {
            targets: self.targets.clone(),
            settings: common.settings(),
            prompts: self.prompts.clone(),
            tokenizer: self.tokenizer.choice(),
            batch_sizes: self.batch.sizes(),
            task_id: self.task.id(),
            contexts: distinct(self.sweep.iter().map(|count| *count as usize)),
            swap: self.swap.map(usize::from),
            serving: self.serving.choice(),
            aa: self.aa,
            empty: self.empty,
            cached_base: self.cached_base,
            restarts: self.restarts.count(),
            precision_goal: self.target_precision.map(goal),
            quiet_gate: self.quiet.gate(),
            output: common.output.clone(),
            ..Study::default()
        }
    }
}

/// The command that makes a page of all results in `folder`.
fn reporting(folder: &Path) -> String {
    let place = match folder == Path::new(RESULTS) {
        true => String::new(),
        false => format!(" {}", shell_word(folder)),
    };
    format!("peft-bench report{place} --output report.html")
}

/// Runs a study until it's done or interrupted, and prints what comes of it.
pub fn run_study(study: Study, common: &CommonOptions) -> Result<Outcome> {
    Ok(match results_of(study, common)? {
        Ok(_) => Outcome::Done,
        Err(outcome) => outcome,
    })
}

/// The results of a study, whose tables are printed; or how it ended before it was done.
fn results_of(
    mut study: Study,
    common: &CommonOptions,
) -> Result<Result<Vec<CaseResult>, Outcome>> {
    study.interrupt = interrupt::install()?;
    let mut terminal = Terminal::new(common.verbose);
    let outcome = study.run(&mut terminal);
    terminal.finish()?;
    match outcome {
        Ok(results) => Ok(Ok(results)),
        Err(StudyError::Interrupted) => Ok(Err(Outcome::Interrupted)),
        Err(error @ StudyError::Busy(_)) => {
            message(&format!("error: {error}"));
            Ok(Err(Outcome::Busy))
        }
        Err(error) => Err(error.into()),
    }
}
