//! `peft-bench convert`

use std::cell::OnceCell;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::check::{measuring, name_of};
use super::init::folder_name;
use super::options::{CommonOptions, TaskOptions};
use super::output::{line, print_json};
use super::progress::message;
use super::terminal::Terminal;
use super::text_comparison::{Compared, TextComparison};
use super::verify::{PromptOptions, nats};
use crate::adapter::folder::CONFIG;
use crate::adapter::{Adapter, ValuesFrom};
use crate::config::BenchmarkConfig;
use crate::convert::{Conversion, ConvertedModule, Rank, to_lora};
use crate::experiment::{EXPERIMENTS, Experiment};
use crate::files::{temporary_folder, write_file};
use crate::model::BaseModel;
use crate::prepared::Variant;
use crate::study::{Setup, Target};

/// The report's name in the folder of the conversion.
const REPORT: &str = "conversion.json";

/// Modules that are listed, those that lose most.
const LISTED: usize = 5;

/// `convert`
#[derive(Debug, Args)]
pub struct Convert {
    /// Experiment.
    experiment: PathBuf,

    /// The method to convert to.
    #[arg(long, value_name = "METHOD")]
    to: Method,

    /// Rank of every module's pair, such as `16`; or, with a decimal point, the share of the energy
    /// (the squared singular values) of each module's change to keep, such as `0.95`.
    #[arg(long, value_name = "R")]
    rank: Rank,

    /// Name of the new experiment's folder below `experiments/lora/` [default: from the original's
    /// name and the rank].
    #[arg(long, value_parser = folder_name)]
    name: Option<String>,

    /// The new folder, in place of one below `experiments/lora/`.
    #[arg(long, value_name = "DIR", conflicts_with = "name")]
    into: Option<PathBuf>,

    /// Print the report as JSON; it's kept as `conversion.json` in the new folder anyway.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    prompt: PromptOptions,

    /// Tokens that follow the text, at which predictions are compared as well.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    max_new_tokens: u16,

    #[command(flatten)]
    task: TaskOptions,
}

/// A method that adapters are converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Plain LoRA, which every engine serves.
    Lora,
}

impl Convert {
    /// Runs the command.
    pub fn run(&self, common: &CommonOptions) -> Result<()> {
        let Method::Lora = self.to;
        let settings = common.settings();
        let mut terminal = Terminal::new(common.verbose);
        let setup = Setup::new(&settings, &mut terminal);
        let original = Target::find(&setup, &self.experiment)?.into_experiment(&self.experiment)?;
        setup.note_fresh(&original);
        let mut config = setup.parameters(Some(&original))?;
        config.task_id = self.task.id().or(config.task_id);
        if config.quantization()?.is_some() {
            bail!("the change is that of weights that aren't quantized: leave `--quantize` out");
        }
        let base = setup.base_model(&config)?;
        let (seed, values) = (config.seed, original.values);
        let adapter =
            Adapter::load_for_task(&original.folder, &base, seed, values, config.task_id)?;
        setup.note_adapter(adapter.notes());
        let folder = self.folder(&original);
        if let Some(lock) = interrupted(&folder, &self.experiment) {
            message(&format!(
                "note: `{}` is of a conversion that was interrupted; it's made anew",
                folder.display()
            ));
            make_way(&folder).with_context(|| format!("cannot remove `{}`", folder.display()))?;
            drop(lock);
        }
        // Until the texts are compared, it says that this isn't an interrupted conversion.
        let lock = OnceCell::new();
        let add = |made: &Conversion, folder: &Path| {
            let _ = lock.set(locked(folder));
            write_report(folder, &self.report(made, &base))
        };
        let tokenizer = &original.folder;
        let made = to_lora(
            &adapter,
            &base,
            self.rank,
            tokenizer,
            &folder,
            &config.model_id,
            &add,
        )?;
        let mut report = self.report(&made, &base);
        if !self.json {
            print_modules(&made)?;
        }
        let text = self.compare_text(&setup, &config, &base, &original, &folder);
        let text = text.with_context(|| {
            format!(
                "`{}` is made, but can't be compared with the original on text",
                folder.display()
            )
        })?;
        report["text"] = json!(text);
        write_report(&folder, &report)
            .with_context(|| format!("cannot write `{}`", folder.join(REPORT).display()))?;
        if self.json {
            print_json(&report)?;
        } else {
            line(&format!("prompt     {}", text.prompt))?;
            line(&format!("text       {}", text.in_words()))?;
            let without = text.without_adapter;
            line(&format!(
                "           without any adapter it would be {} on average, and {} positions",
                nats(without.mean_kl),
                without.same_top
            ))?;
            line(&format!("written    {}", folder.display()))?;
        }
        let names = [self.experiment.clone(), PathBuf::from(name_of(&folder))];
        let next = measuring(&names, common.model.as_deref());
        message(&format!("next: `{next}`"));
        Ok(())
    }

    /// Where the conversion goes.
    fn folder(&self, original: &Experiment) -> PathBuf {
        let lora = Path::new(EXPERIMENTS).join("lora");
        match (&self.into, &self.name) {
            (Some(folder), _) => folder.clone(),
            (None, Some(name)) => lora.join(name),
            (None, None) => lora.join(format!("{}-as-lora-{}", original.name, self.rank)),
        }
    }

    fn report(&self, made: &Conversion, base: &BaseModel) -> Value {
        json!({
            "original": self.experiment,
            "base": base.id.to_string(),
            "rank": match self.rank {
                Rank::Count(count) => json!(count),
                Rank::Share(share) => json!(share),
            },
            "method": made.method,
            "modules": made.modules,
            "carried": made.carried,
            "text": null,
        })
    }

    /// Compares the original with its conversion in `folder` on text; both are unmerged, as engines
    /// serve them.
    fn compare_text(
        &self,
        setup: &Setup,
        config: &BenchmarkConfig,
        base: &BaseModel,
        original: &Experiment,
        folder: &Path,
    ) -> Result<TextComparison> {
        let provider = setup.provider(config.dtype)?;
        let preparation = setup.preparation(config, provider, base)?;
        let both = [Variant::Unmerged, Variant::Base];
        let mut variants = preparation.prepare(Some(original), &both)?;
        let converted = Experiment::at(folder, ValuesFrom::Trained)?;
        variants.extend(preparation.prepare(Some(&converted), &[Variant::Unmerged])?);
        let compared = Compared {
            variants: &variants,
            prompt: &self.prompt,
            new_tokens: usize::from(self.max_new_tokens),
        };
        TextComparison::of(setup, provider, &compared)
    }
}

fn write_report(folder: &Path, report: &Value) -> io::Result<()> {
    write_file(&folder.join(REPORT), format!("{report:#}\n").as_bytes())
}

/// The lock of a conversion's folder, until it's dropped or its process ends. `None` if another
/// process has it, or the file system has no locks.
fn locked(folder: &Path) -> Option<File> {
    let file = File::open(folder.join(CONFIG)).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

/// The lock of a conversion of `original` to `folder` that ended before the texts were compared.
fn interrupted(folder: &Path, original: &Path) -> Option<File> {
    let lock = locked(folder)?;
    // Another process may have put another folder there before this one had the lock.
    let now = fs::metadata(folder.join(CONFIG)).ok()?.ino();
    let report = fs::read(folder.join(REPORT)).ok()?;
    let report: Value = serde_json::from_slice(&report).ok()?;
    let is_unfinished = report["text"].is_null() && report["original"] == json!(original);
    let is_same = lock.metadata().ok()?.ino() == now;
    (is_unfinished && is_same).then_some(lock)
}

/// Removes `folder`, which vanishes as a whole.
fn make_way(folder: &Path) -> io::Result<()> {
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let aside = temporary_folder::create(parent.unwrap_or(Path::new(".")))?;
    fs::rename(folder, aside.path().join("interrupted"))
}

fn print_modules(made: &Conversion) -> Result<()> {
    let mut all: Vec<&ConvertedModule> = made.modules.iter().collect();
    all.sort_by(|a, b| a.energy_kept.total_cmp(&b.energy_kept));
    let ranks = all.iter().map(|module| module.rank);
    let (low, high) = (ranks.clone().min().unwrap_or(0), ranks.max().unwrap_or(0));
    let rank = match low == high {
        true => format!("rank {low}"),
        false => format!("ranks {low} to {high}"),
    };
    let median = all[all.len() / 2];
    line(&format!(
        "converted  {} modules of {} to LoRA, {rank}",
        all.len(),
        made.method
    ))?;
    line(&format!(
        "kept       {} of the change's energy in the median module, {} in the worst; relative error {:.1e} and {:.1e}",
        percent(median.energy_kept),
        percent(all[0].energy_kept),
        median.relative_error,
        all[0].relative_error
    ))?;
    for module in all
        .iter()
        .take(LISTED)
        .filter(|module| module.relative_error > 1e-3)
    {
        line(&format!(
            "           {}: {} kept, relative error {:.1e}",
            module.module,
            percent(module.energy_kept),
            module.relative_error
        ))?;
    }
    if !made.carried.is_empty() {
        line(&format!(
            "carried    {} other tensors, unchanged",
            made.carried.len()
        ))?;
    }
    Ok(())
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}
