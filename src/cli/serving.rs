//! Options that measure what serving costs.

use clap::{Args, ValueEnum};

use super::options::distinct;
use crate::measure::serving::mixed::MixedForm;
use crate::study::{MixedChoice, ServingChoice};

/// What of serving is measured as well.
#[derive(Debug, Clone, Args)]
pub struct ServingOptions {
    /// Measure batches with several adapters as well: 1, 2, 4, … and so many different ones over the rows of a
    /// batch, which has at least as many rows. They're those of the experiments that fit together, then copies of
    /// the first with other values.
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(2..=256)
    )]
    mixed: Option<u16>,

    /// How rows with different adapters are run; both where both are named.
    #[arg(
        long,
        value_name = "FORM,…",
        value_delimiter = ',',
        default_value = "grouped",
        requires = "mixed"
    )]
    mixed_form: Vec<Form>,

    /// Measure a cold adapter as well: from its file on disk, or in the page cache, to its first token, against one
    /// that's in memory.
    #[arg(long)]
    cold_start: bool,

    /// Measure prompts as well that have a prefix of so many tokens in common: its cache is computed once and
    /// copied for each of them, against computing whole prompts. An aLoRA takes the base's cache, any other adapter
    /// its own [lengths where none are given: 16, 64, 256, 1024].
    #[arg(
        long,
        value_name = "N,…",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "16,64,256,1024",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    shared_prefix: Vec<u32>,
}

/// `--mixed-form`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Form {
    /// Rows with the same adapter are a run of their own. Every method whose tensors are inputs of its graph.
    Grouped,
    /// All rows are one run, in which each picks its adapter's tensors: LoRA and other methods whose tensors are
    /// factors of products or scales.
    Gathered,
}

impl From<Form> for MixedForm {
    fn from(form: Form) -> Self {
        match form {
            Form::Grouped => Self::Grouped,
            Form::Gathered => Self::Gathered,
        }
    }
}

impl ServingOptions {
    /// What was asked for.
    pub fn choice(&self) -> ServingChoice {
        let mut forms = self.mixed_form.clone();
        forms.sort_unstable();
        forms.dedup();
        ServingChoice {
            mixed: self.mixed.map(|adapters| MixedChoice {
                adapters: usize::from(adapters),
                forms: forms.into_iter().map(MixedForm::from).collect(),
            }),
            cold: self.cold_start,
            prefixes: distinct(self.shared_prefix.iter().map(|count| *count as usize)),
        }
    }
}
