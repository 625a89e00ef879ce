//! `peft-bench init`

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::check::{Bases, Report, measuring};
use super::options::CommonOptions;
use super::output::line;
use super::progress::message;
use super::terminal::Terminal;
use crate::experiment::EXPERIMENTS;
use crate::experiment::draft::Draft;
use crate::files::temporary_folder;
use crate::study::Setup;

/// `init`
#[derive(Debug, Args)]
pub struct Init {
    /// Method, such as `lora`; `peft-bench methods` lists all.
    method: String,

    /// Rank.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    rank: Option<u32>,

    /// Numerator of the scaling factor.
    #[arg(long, value_name = "X")]
    alpha: Option<f64>,

    /// Modules to adapt: names such as `q_proj,v_proj`, `all-linear`, or a regular expression for
    /// whole paths [default: PEFT's for the base's family].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    targets: Vec<String>,

    /// Virtual tokens, or tokens with rows of their own.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    tokens: Option<u32>,

    /// An option of PEFT's configuration, with a value in JSON or a plain word. Several may be
    /// given. Others have PEFT's defaults.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    options: Vec<(String, Value)>,

    /// A parameter of the benchmark for this experiment alone, such as `max_new_tokens=50`;
    /// `--model` and `--dtype` are kept as well.
    #[arg(long = "param", value_name = "KEY=VALUE", value_parser = pair)]
    params: Vec<(String, Value)>,

    /// Name of the experiment's folder below `experiments/<method>/` [default: from its rank or
    /// number of tokens].
    #[arg(long, value_parser = folder_name)]
    name: Option<String>,
}

/// `key=value`, where a value that isn't JSON is a string.
fn pair(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text
        .split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or("expected KEY=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
    Ok((key.to_owned(), value))
}

/// A name without folders above or below it.
pub fn folder_name(text: &str) -> Result<String, String> {
    let is_plain = !text.is_empty() && !text.starts_with('.') && !text.contains(['/', '\\']);
    match is_plain {
        true => Ok(text.to_owned()),
        false => Err("expected the name of a folder, without `/`".to_owned()),
    }
}

impl Init {
    /// Runs the command.
    pub fn run(&self, common: &CommonOptions) -> Result<()> {
        let draft = self.draft(common)?;
        let name = self.name.clone().unwrap_or_else(|| draft.name());
        let folder = draft.folder(Path::new(EXPERIMENTS), &name);
        let other_base = self.rehearse(common, &draft, &name)?;
        draft.write(&folder)?;
        line(&folder.display().to_string())?;
        let short = format!("{}/{name}", draft.peft_type().to_lowercase());
        message(&format!(
            "next: `{}`",
            measuring(&[&short], other_base.as_deref())
        ));
        Ok(())
    }

    fn draft(&self, common: &CommonOptions) -> Result<Draft> {
        if common.quantize.is_some() {
            bail!(
                "`--quantize` isn't kept in an experiment; `--param use_4bit=true` or `--param use_8bit=true` is"
            );
        }
        let mut draft = Draft::of(&self.method)?;
        if let Some(rank) = self.rank {
            draft.set_rank(rank as usize)?;
        }
        if let Some(alpha) = self.alpha {
            draft.set_alpha(alpha)?;
        }
        if !self.targets.is_empty() {
            draft.set_targets(&self.targets)?;
        }
        if let Some(tokens) = self.tokens {
            draft.set_tokens(tokens as usize)?;
        }
        for (key, value) in &self.options {
            draft.set(key, value.clone())?;
        }
        if let Some(model) = &common.model {
            draft.set_param("model_id", json!(model));
        }
        if let Some(dtype) = common.dtype {
            draft.set_param("dtype", json!(dtype.to_string()));
        }
        for (key, value) in &self.params {
            draft.set_param(key, value.clone());
        }
        Ok(draft)
    }

    /// Checks the experiment in another place, so that nothing is written that can't be used.
    /// Returns the base that it fits, if that isn't its own.
    fn rehearse(
        &self,
        common: &CommonOptions,
        draft: &Draft,
        name: &str,
    ) -> Result<Option<String>> {
        let root = temporary_folder::scratch()
            .context("cannot create a folder to try the experiment in")?;
        let folder = draft.folder(&root.path().join(EXPERIMENTS), name);
        draft.write(&folder)?;
        let settings = common.settings();
        let mut terminal = Terminal::new(common.verbose);
        let setup = Setup::new(&settings, &mut terminal);
        let report = Report::of(&setup, &mut Bases::default(), &folder);
        for note in &report.notes {
            message(&format!("note: {note}"));
        }
        if report.faults.is_empty() {
            return Ok(report.other_base);
        }
        let place = format!("{}/", root.path().display());
        let faults = report.faults.join("; ").replace(&place, "");
        bail!("{faults}; nothing was written")
    }
}
