//! Builds the manifest of a variant: what it contains and what it was made from.

use std::fs;
use std::path::{Path, PathBuf};

use super::base_codes::BaseCodes;
use super::decode_reads::decode_reads;
use super::repacked::Repacked;
use super::states::states;
use super::{Preparation, PrepareError};
use crate::adapter::{Adapter, GraphInput, Prompt};
use crate::arch::Module;
use crate::experiment::Experiment;
use crate::graph::{Adaptation, cache_size};
use crate::prepared::QuantizationSummary;
use crate::prepared::{AdapterSummary, Manifest, PromptKind, Variant};

/// Describes `variant`. `bound` lists the adapter tensors that are inputs of an unmerged graph.
///
/// # Errors
/// If a tensor of the base is missing.
pub fn describe(
    preparation: &Preparation,
    experiment: Option<&Experiment>,
    adapter: Option<&Adapter>,
    variant: Variant,
    bound: &[GraphInput],
    repacked: Option<&Repacked>,
    fingerprint: String,
) -> Result<Manifest, PrepareError> {
    let base = preparation.base;
    let spec = adapter.map_or(&base.spec, |adapter| &adapter.spec);
    let size = base.size()?;
    let codes = BaseCodes::new(preparation, adapter, variant, repacked)?;
    let kept = |module: &Module| codes.bytes(module);
    let unmerged = adapter.filter(|_| variant == Variant::Unmerged);
    let more_layers = unmerged.map_or(&[][..], Adapter::more_layers);
    let summary = match (experiment, adapter) {
        (Some(experiment), Some(adapter)) => Some(AdapterSummary {
            experiment: experiment.file_stem(),
            folder: absolute_path(&experiment.folder),
            peft_type: adapter.peft_type.clone(),
            config: adapter.config.json().clone(),
            fresh: adapter.is_fresh(),
            trainable_params: adapter.trainable_params(),
            total_params: base.size_as(spec)?.parameters + adapter.added_params(),
            stored_bytes: adapter.stored_bytes(),
            inputs: bound.iter().map(|tensor| tensor.name.clone()).collect(),
            file: None,
            adapter_form: adapter.adapter_form,
            neutral: bound
                .iter()
                .filter_map(|tensor| Some((tensor.name.clone(), tensor.role.neutral()?)))
                .collect(),
            prompt: adapter.prompt().map(|prompt| match prompt {
                Prompt::Virtual(_) => PromptKind::VirtualTokens(prompt.num_virtual_tokens()),
                Prompt::Prefix(_) => PromptKind::Prefix(prompt.num_virtual_tokens()),
            }),
            whole_calls: adapter.takes_whole_calls(),
            invocation: adapter.invocation().map(<[u32]>::to_vec),
            task: adapter.task(),
            notes: adapter.notes().to_vec(),
        }),
        _ => None,
    };
    Ok(Manifest {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fingerprint,
        prepare_seconds: 0.0,
        lay_out_seconds: None,
        variant,
        model_id: base.id.to_string(),
        model_folder: absolute_path(&base.folder),
        synthetic: base.id.is_synthetic(),
        dtype: preparation.precision.dtype,
        compute: preparation.precision.compute,
        attention: preparation.precision.attention,
        mla: spec.latent_cache(),
        vocab_size: spec.vocab_size,
        max_position_embeddings: spec.max_position_embeddings,
        positions_end: spec.positions_end.map(str::to_owned),
        whole_prompts: spec.takes_whole_prompts(),
        frequencies_change_beyond: spec.frequencies_change_beyond(),
        embedding_dim: spec.embed_tokens.embedding_dim,
        cache: spec
            .layers
            .iter()
            .chain(more_layers)
            .map(|layer| {
                let attention = layer.attention.as_ref()?;
                if attention.keys_of_layer().is_some() {
                    return None;
                }
                Some(cache_size(attention))
            })
            .collect(),
        states: states(
            spec.layers.iter().chain(more_layers),
            preparation.precision.compute,
        ),
        head_dim: spec.widest_attention().map_or(0, |widest| widest.head_dim),
        base_params: size.parameters,
        base_bytes: size.stored_bytes,
        routed: spec.has_experts(),
        has_residuals: false,
        reads: decode_reads(spec, unmerged, bound, preparation.precision, &kept),
        quantization: preparation.precision.quantization.map(|quantization| {
            QuantizationSummary::new(spec, quantization, preparation.precision, unmerged)
        }),
        base_quantization: codes.summary(spec),
        adapter: summary,
        foreign: None,
        portable: None,
    })
}

fn absolute_path(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
