//! `peft-bench generate`

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde_json::json;

use super::options::{CommonOptions, TaskOptions, TokenizerOptions};
use super::output;
use super::prepare::VariantChoice;
use super::progress::message;
use super::terminal::Terminal;
use crate::engine::{Engine, EngineError, Provider, WeightsMode};
use crate::model::TokenizerError;
use crate::prepared::{Manifest, PreparedVariant, Variant, task_of};
use crate::quantize::FormatChoice;
use crate::study::{Settings, Setup, Target, check_prepared, check_provider, check_variants};
use crate::weights::{Dtype, SafetensorsWriter, TensorPlan};

/// `generate`
#[derive(Debug, Args)]
pub struct Generate {
    /// Experiment, prepared folder, folder of a Hugging Face checkpoint, a hub id of an adapter or a
    /// checkpoint, or `synthetic/<shape>`.
    target: PathBuf,

    /// Variant to run [default: unmerged for an experiment, base for a checkpoint].
    #[arg(long, value_name = "VARIANT")]
    variant: Option<VariantChoice>,

    /// Text to go on from.
    #[arg(
        long,
        required_unless_present = "prompt_ids",
        conflicts_with = "prompt_ids"
    )]
    prompt: Option<String>,

    /// Token ids to go on from, such as `1,2,3`.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    prompt_ids: Option<Vec<u32>>,

    /// Tokens to generate. End-of-text doesn't stop it.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = positive)]
    max_new_tokens: usize,

    /// Print `{"prompt_ids", "token_ids", "text", "tokenizer"}` alone on stdout.
    #[arg(long)]
    json: bool,

    /// Write the logits that each token was picked from, `logits` f32 `[N, vocab_size]`.
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,

    /// Write ONNX Runtime's profiles of what ran, in a folder for each session.
    #[arg(long, value_name = "FOLDER")]
    profile: Option<PathBuf>,

    #[command(flatten)]
    task: TaskOptions,

    #[command(flatten)]
    tokenizer: TokenizerOptions,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err("expected a number of at least 1".to_owned()),
    }
}

/// Why text can't be a prompt, and what can.
fn without_tokenizer(error: &TokenizerError) -> anyhow::Error {
    let cause = error.source().map(|cause| format!(": {cause}"));
    anyhow!(
        "{error}{}; or give token ids (`--prompt-ids`)",
        cause.unwrap_or_default()
    )
}

impl Generate {
    /// Runs the command.
    pub fn run(&self, common: &CommonOptions) -> Result<()> {
        let settings = common.settings();
        let mut terminal = Terminal::new(common.verbose);
        let setup = Setup::new(&settings, &mut terminal);
        let Ready {
            variant,
            provider,
            adapter,
        } = self.prepared(&setup, common.verbose)?;
        let manifest = &variant.manifest;
        let choice = self.tokenizer.choice();
        let place = choice.place(&manifest.model_folder, adapter.as_deref())?;
        let tokenizer = place.open();
        let prompt_ids = match (&self.prompt, &self.prompt_ids) {
            (Some(text), _) => {
                let tokenizer = tokenizer.as_ref().map_err(without_tokenizer)?;
                place.note(&setup, tokenizer);
                let ids = tokenizer.encode(text)?;
                place.check_vocabulary(&ids, manifest)?;
                ids
            }
            (None, Some(ids)) => ids.clone(),
            (None, None) => unreachable!("clap asks for one of them"),
        };
        // Ids need no tokenizer, unless one was asked for to see their text.
        let tokenizer = match tokenizer {
            Ok(tokenizer) => Some(tokenizer),
            Err(error) if place.chosen => return Err(error.into()),
            Err(_) => None,
        };
        let given = manifest.num_virtual_tokens() + prompt_ids.len();
        let needed = given.saturating_add(self.max_new_tokens);
        if needed > manifest.max_position_embeddings {
            return Err(EngineError::Positions {
                needed,
                max_position_embeddings: manifest.max_position_embeddings,
                end: manifest.positions_end.clone(),
            }
            .into());
        }
        let mut options = setup.engine_options(provider, needed, WeightsMode::InPlace);
        options.logits_on_host = true;
        if let Some(folder) = &self.profile {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create `{}`", folder.display()))?;
            options.profile = Some(folder.clone());
        }
        let runtime = setup.onnx_runtime(provider)?;
        let mut engine = setup.open_engine(&runtime, &variant, &options)?;

        let mut token_ids = Vec::with_capacity(self.max_new_tokens);
        let mut logits = Vec::new();
        let mut token = engine.prefill(&prompt_ids)?;
        loop {
            token_ids.push(token);
            let row = engine.logits();
            if !row.iter().all(|logit| logit.is_finite()) {
                bail!(
                    "the logits of `{}` are not finite: a weight is a NaN or an infinity, or sums \
                     overflow in {}",
                    variant.folder.display(),
                    manifest.dtype
                );
            }
            if self.logits.is_some() {
                logits.extend(row);
            }
            if token_ids.len() == self.max_new_tokens {
                break;
            }
            token = engine.decode(token)?;
        }
        if let Some(path) = &self.logits {
            write_logits(path, &logits, manifest.vocab_size)?;
        }
        let text = match &tokenizer {
            Some(tokenizer) => Some(tokenizer.decode(&token_ids)?),
            None => None,
        };
        let line = if self.json {
            json!({
                "prompt_ids": prompt_ids,
                "token_ids": token_ids,
                "text": text,
                "tokenizer": tokenizer.map(|_| place.in_result()),
            })
            .to_string()
        } else {
            text.unwrap_or_else(|| format!("{token_ids:?}"))
        };
        output::line(&line)
    }

    /// Finds or prepares the variant; says where to run it.
    fn prepared(&self, setup: &Setup, verbose: bool) -> Result<Ready> {
        let asked: Option<Variant> = self.variant.map(Into::into);
        let target = Target::find(setup, &self.target)?;
        let (experiment, variant, model) = match target {
            Target::Foreign(_) => bail!(
                "`{}` is exported already, and runs in the program that it was exported for; `peft-bench measure` measures it",
                self.target.display()
            ),
            Target::Prepared(folder) => {
                let (variant, adapter) = folder.take(asked)?;
                check_settled(setup.settings, &variant.manifest)?;
                check_prepared(self.task.id(), &variant.manifest)?;
                let provider = setup.provider(variant.manifest.dtype)?;
                if let Provider::Cuda(_) = provider {
                    // A CPU runs what was made for a GPU too.
                    check_provider(&self.target, &variant.manifest, provider)?;
                }
                return Ok(Ready {
                    variant,
                    provider,
                    adapter,
                });
            }
            Target::Experiment(experiment) => {
                (Some(experiment), asked.unwrap_or(Variant::Unmerged), None)
            }
            Target::Checkpoint(id) => {
                if asked.is_some_and(|variant| variant != Variant::Base) {
                    bail!(
                        "`{}` is a checkpoint without an adapter; it has only the variant `base`",
                        self.target.display()
                    );
                }
                if setup.settings.model.is_some() {
                    bail!("`--model` goes with an experiment, and `{id}` is a model itself");
                }
                (None, Variant::Base, Some(id))
            }
        };
        check_variants(self.task.id(), &[variant])?;
        if let Some(experiment) = experiment.as_ref().filter(|_| variant != Variant::Base) {
            setup.note_fresh(experiment);
        }
        let mut config = setup.parameters(experiment.as_ref())?;
        config.task_id = self.task.id().or(config.task_id);
        if let Some(id) = &model {
            config.model_id = id.to_string();
        }
        let provider = setup.provider(config.dtype)?;
        let base = setup.base_model(&config)?;
        let preparation = setup.preparation(&config, provider, &base)?;
        let mut prepared = preparation.prepare(experiment.as_ref(), &[variant])?;
        setup.note_task(&config, task_of(&prepared));
        setup.note_adapter_of(&prepared);
        setup.note_replaced(&prepared);
        let variant = prepared.remove(0);
        if verbose && !variant.up_to_date {
            message(&format!("prepared {}", variant.folder.display()));
        }
        Ok(Ready {
            variant,
            provider,
            adapter: experiment.map(|experiment| experiment.folder),
        })
    }
}

/// What's ready to run.
struct Ready {
    variant: PreparedVariant,
    provider: Provider,
    /// The folder of the adapter that belongs to it; of a base too that stands beside one.
    adapter: Option<PathBuf>,
}

/// Refuses options that a prepared folder has settled otherwise.
fn check_settled(settings: &Settings, manifest: &Manifest) -> Result<()> {
    if settings.model.is_some() {
        bail!(
            "`--model` goes with an experiment; this folder was prepared for `{}`",
            manifest.model_id
        );
    }
    if let Some(dtype) = settings.dtype
        && dtype != manifest.dtype
    {
        bail!(
            "`--dtype {dtype}` can't be had: this folder was prepared in {}",
            manifest.dtype
        );
    }
    let asked = settings.quantize.map(FormatChoice::format);
    let found = manifest.quantization();
    let others = settings.quantize_algorithm.is_some()
        || settings.quantize_block.is_some()
        || settings.quantize_head.is_some()
        || settings.quantize_kv_proj.is_some()
        || settings.quantize_embedding.is_some()
        || settings.quantize_accuracy.is_some();
    if others || asked.is_some_and(|asked| asked != found.map(|found| found.weights)) {
        let found = found.map_or("unquantized".to_owned(), |found| found.label());
        bail!("options on quantization go with an experiment; this folder was prepared {found}");
    }
    Ok(())
}

fn write_logits(path: &Path, logits: &[f32], vocab_size: usize) -> Result<()> {
    let plan = TensorPlan {
        name: "logits".to_owned(),
        dtype: Dtype::Float32,
        shape: vec![logits.len() / vocab_size, vocab_size],
    };
    let writer = SafetensorsWriter::create(path, &[plan])?;
    writer.write("logits", logits)?;
    writer.finish()?;
    Ok(())
}
