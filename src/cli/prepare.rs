//! `peft-bench prepare`

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::options::{CommonOptions, TaskOptions, TokenizerOptions};
use super::progress::message;
use super::terminal::Terminal;
use crate::adapter::Adapter;
use crate::advice::shell_word;
use crate::config::BenchmarkConfig;
use crate::engine::WeightsMode;
use crate::portable::AdapterLayout;
use crate::prepare::{CheckpointForm, PackedLayout, write_checkpoint};
use crate::prepared::{PreparedVariant, Variant, task_of};
use crate::quantize::FormatChoice;
use crate::study::{Setup, Target, TokenizerChoice, check_variants};

/// `prepare`
#[derive(Debug, Args)]
pub struct Prepare {
    /// Experiment: a folder with an `adapter_config.json`, `<method>/<name>` below `experiments/`,
    /// or an adapter's hub id. With `--portable`, a checkpoint's folder or hub id as well, or nothing but `--model`.
    #[arg(required_unless_present = "portable")]
    pub(super) experiment: Option<PathBuf>,

    /// Variants to prepare [default: all that the method has; merged with `--portable`].
    #[arg(long = "variant", value_name = "VARIANT")]
    pub(super) variants: Vec<VariantChoice>,

    /// What to write: ONNX graphs, a complete merged Hugging Face checkpoint (in the base's own
    /// dtype unless `--dtype` says otherwise; with `--quantize`, packed), or both.
    #[arg(long = "format", value_name = "FORMAT", default_value = "onnx")]
    formats: Vec<Format>,

    /// How `--format hf --quantize 4bit` stores quantized weights: in the layout of compressed-tensors or of GPTQ.
    #[arg(
        long,
        value_name = "LAYOUT",
        default_value = "compressed-tensors",
        conflicts_with = "portable"
    )]
    packing: PackingChoice,

    /// Write one folder that stands alone and can be moved: graph, weights, tokenizer, the configuration for
    /// onnxruntime-genai, a model card, hashes. It's run and compared before it's there.
    #[arg(long, value_name = "DIR", conflicts_with = "formats")]
    portable: Option<PathBuf>,

    /// Adapters to keep beside one portable graph, each in a file of its own that a caller activates.
    #[arg(
        long,
        value_name = "EXPERIMENT",
        num_args = 1..,
        requires = "portable",
        conflicts_with_all = ["experiment", "variants"]
    )]
    pub(super) adapters: Vec<PathBuf>,

    /// Names and layout of the tensors in the adapters' files: PEFT's, or those of Olive's converter.
    #[arg(
        long,
        value_name = "LAYOUT",
        requires = "adapters",
        default_value = "peft"
    )]
    pub(super) adapter_layout: LayoutChoice,

    /// Link the files of the weights into the portable folder instead of copying what the graph uses.
    #[arg(long, requires = "portable")]
    pub(super) links: bool,

    /// Write the portable folder without running it.
    #[arg(long, requires = "portable")]
    pub(super) no_check: bool,

    #[command(flatten)]
    pub(super) task: TaskOptions,

    #[command(flatten)]
    pub(super) tokenizer: TokenizerOptions,
}

/// `--format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Graphs whose weights are references into safetensors files.
    Onnx,
    /// A merged checkpoint that `transformers` loads.
    Hf,
}

/// `--packing`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PackingChoice {
    /// `pack-quantized`, which Transformers and vLLM read.
    CompressedTensors,
    /// `qweight`, `qzeros`, `scales` and `g_idx`, which GPTQModel, Transformers and vLLM read.
    Gptq,
}

impl From<PackingChoice> for PackedLayout {
    fn from(choice: PackingChoice) -> Self {
        match choice {
            PackingChoice::CompressedTensors => Self::CompressedTensors,
            PackingChoice::Gptq => Self::Gptq,
        }
    }
}

/// `--adapter-layout`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LayoutChoice {
    /// PEFT's names; `A` is `[r, in]` and `B` is `[out, r]`.
    Peft,
    /// Without `base_model.model.`; `A` is `[in, r]` and `B` is `[r, out]`.
    Olive,
}

impl From<LayoutChoice> for AdapterLayout {
    fn from(choice: LayoutChoice) -> Self {
        match choice {
            LayoutChoice::Peft => Self::Peft,
            LayoutChoice::Olive => Self::Olive,
        }
    }
}

/// `--variant`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VariantChoice {
    /// The plain decoder.
    Base,
    /// The adapter folded into the weights.
    Merged,
    /// The adapter beside the weights.
    Unmerged,
}

impl From<VariantChoice> for Variant {
    fn from(choice: VariantChoice) -> Self {
        match choice {
            VariantChoice::Base => Self::Base,
            VariantChoice::Merged => Self::Merged,
            VariantChoice::Unmerged => Self::Unmerged,
        }
    }
}

impl Prepare {
    /// Runs the command.
    pub fn run(&self, common: &CommonOptions) -> Result<()> {
        let settings = common.settings();
        let mut terminal = Terminal::new(common.verbose);
        let setup = Setup::new(&settings, &mut terminal);
        if let Some(folder) = &self.portable {
            return self.run_portable(&setup, folder);
        }
        let tokenizer = self.tokenizer.choice();
        let named = self
            .experiment
            .as_ref()
            .context("clap asks for an experiment")?;
        let experiment = Target::find(&setup, named)?.into_experiment(named)?;
        if tokenizer != TokenizerChoice::Usual && !self.formats.contains(&Format::Hf) {
            bail!("`--tokenizer` goes with `--format hf`, which writes one; graphs take token ids");
        }
        let variants: Vec<Variant> = self.variants.iter().map(|&choice| choice.into()).collect();
        if !variants.is_empty() && !self.formats.contains(&Format::Hf) {
            check_variants(self.task.id(), &variants)?;
        }
        setup.note_fresh(&experiment);
        let mut config = setup.parameters(Some(&experiment))?;
        config.task_id = self.task.id().or(config.task_id);
        let provider = setup.provider(config.dtype)?;
        let base = setup.base_model(&config)?;
        let form = self.checkpoint_form(common, &config)?;
        if !self.formats.contains(&Format::Onnx) {
            // Weights are quantized while the checkpoint is written.
            config.quantization_keys.set(None);
        }
        let preparation = setup.preparation(&config, provider, &base)?;
        if self.formats.contains(&Format::Hf) {
            let (folder, values) = (&experiment.folder, experiment.values);
            let adapter =
                Adapter::load_for_task(folder, &base, config.seed, values, config.task_id)?;
            setup.note_task(&config, adapter.task());
            setup.note_adapter(adapter.notes());
            let folder = preparation.checkpoint_folder(&experiment, form);
            let place = tokenizer.place(&base.folder, Some(&experiment.folder))?;
            let written = write_checkpoint(&base, Some(&adapter), form, &place.folder, &folder)?;
            place.note_copied(&setup);
            let quantized = match written.quantized {
                0 => String::new(),
                count => format!(", {count} quantized"),
            };
            message(&format!(
                "checkpoint {} ({} of {} tensors merged{quantized})",
                written.folder.display(),
                written.merged,
                written.tensors
            ));
        }
        if !self.formats.contains(&Format::Onnx) {
            // A packed checkpoint is for other programs.
            if form.quantization.is_none() {
                let folder = preparation.checkpoint_folder(&experiment, form);
                message(&format!(
                    "next: `peft-bench generate {} --prompt Hello`",
                    shell_word(&folder)
                ));
            }
            return Ok(());
        }
        let (mut prepared, refusal) = if variants.is_empty() {
            preparation.prepare_all(&experiment)?
        } else {
            (preparation.prepare(Some(&experiment), &variants)?, None)
        };
        if !self.formats.contains(&Format::Hf) {
            setup.note_task(&config, task_of(&prepared));
            setup.note_adapter_of(&prepared);
        }
        setup.note_replaced(&prepared);
        report(&prepared);
        if let Some(reason) = refusal {
            message(&format!("merged    not available: {reason}"));
        }
        // Unless it's asked for, nothing of the weights' size is written before something is
        // measured.
        let options = setup.engine_options(provider, 1, WeightsMode::InPlace);
        for variant in &mut prepared {
            setup.lay_out(variant, &options)?;
        }
        let adapted = prepared
            .iter()
            .rfind(|one| one.manifest.variant != Variant::Base);
        if variants.is_empty()
            && let Some(folder) = adapted.and_then(|one| one.folder.parent())
        {
            message(&format!(
                "next: `peft-bench measure {}`",
                shell_word(folder)
            ));
        }
        Ok(())
    }
}

impl Prepare {
    /// How a checkpoint stores its weights.
    ///
    /// # Errors
    /// If a checkpoint is to be written, and an option contradicts that.
    fn checkpoint_form(
        &self,
        common: &CommonOptions,
        config: &BenchmarkConfig,
    ) -> Result<CheckpointForm> {
        let form = CheckpointForm {
            dtype: common.dtype,
            quantization: config.quantization()?,
            packing: self.packing.into(),
        };
        let is_packed = self.formats.contains(&Format::Hf) && form.quantization.is_some();
        if !is_packed && form.packing != PackedLayout::default() {
            bail!(
                "`--packing` goes with `--format hf --quantize 4bit` or `8bit`, which packs weights"
            );
        }
        if !self.formats.contains(&Format::Hf) {
            return Ok(form);
        }
        if common.requantize {
            bail!(
                "`--requantize` is about graphs; a checkpoint of `--format hf` has floats, which `--quantize 4bit` packs"
            );
        }
        let keys = &config.quantization_keys;
        let is_quantized =
            |part: Option<FormatChoice>| part.and_then(FormatChoice::format).is_some();
        for (option, asked, part) in [
            ("--quantize-head", keys.head, "the head"),
            ("--quantize-embedding", keys.embedding, "the embedding"),
        ] {
            if is_quantized(asked) {
                bail!("`{option}`: a checkpoint of `--format hf` has {part} in full precision");
            }
        }
        if keys.kv_proj.is_some() && !self.formats.contains(&Format::Onnx) {
            bail!(
                "`--quantize-kv-proj`: a checkpoint of `--format hf` has one number of bits for all layers"
            );
        }
        if keys.accuracy.is_some() && !self.formats.contains(&Format::Onnx) {
            bail!("`--quantize-accuracy` is about graphs; a checkpoint of `--format hf` has none");
        }
        Ok(form)
    }
}

fn report(prepared: &[PreparedVariant]) {
    for variant in prepared {
        let state = if variant.up_to_date {
            " (up to date)"
        } else {
            ""
        };
        let (name, folder) = (variant.manifest.variant, variant.folder.display());
        message(&format!("{name:<9} {folder}{state}"));
    }
}
