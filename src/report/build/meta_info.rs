//! `meta_info`, from the manifests of what was measured.

use super::{MB, ReportInput};
use crate::prepared::{Manifest, Variant};
use crate::quantize::Format;
use crate::report::model::{
    AdapterInfo, AdapterWeights, BaseQuantizationInfo, BaseWeights, Maybe, MetaInfo, ModelSize,
    PackageInfo, Parameters, QuantizationInfo,
};

pub(super) fn meta_info(input: &ReportInput) -> MetaInfo {
    let Some(manifest) = input.manifests.values().next() else {
        return nothing_prepared(input);
    };
    let mut manifests = input.manifests.values();
    let adapter = manifests.find_map(|manifest| manifest.adapter.as_ref());
    // Only there the adapter has nodes.
    let unmerged = input.manifests.get(&Variant::Unmerged);
    let base_params = manifest.base_params;
    let trainable_params = adapter.map_or(0, |adapter| adapter.trainable_params);
    let total_params = adapter.map_or(base_params, |adapter| adapter.total_params);
    MetaInfo {
        model_id: Some(manifest.model_id.clone()),
        weights: Some(match manifest.synthetic {
            true => BaseWeights::Synthetic,
            false => BaseWeights::Trained,
        }),
        adapter: adapter
            .map(|adapter| AdapterInfo::Object {
                weights: match adapter.fresh {
                    true => AdapterWeights::Fresh,
                    false => AdapterWeights::Trained,
                },
            })
            .into(),
        adapter_form: unmerged
            .and_then(|manifest| Some(manifest.adapter.as_ref()?.adapter_form))
            .into(),
        task: adapter.and_then(|adapter| adapter.task).into(),
        adapter_bytes_per_token: unmerged.map(|manifest| manifest.reads.adapter_bytes).into(),
        dtype: Some(manifest.dtype),
        compute_dtype: Some(manifest.compute),
        mla: manifest
            .mla
            .map_or(Maybe::Absent, |cache| Some(cache).into()),
        quantization: quantization(manifest, unmerged).into(),
        base_quantization: base_quantization(input, manifest)
            .map_or(Maybe::Absent, |found| Some(found).into()),
        parameters: Some(Parameters {
            base_params,
            trainable_params,
            total_params,
            param_ratio: trainable_params as f64 / total_params as f64,
        }),
        model_size: Some(ModelSize {
            base_model_size_mb: manifest.base_bytes as f64 / MB,
            adapter_size_mb: adapter.map_or(0.0, |adapter| adapter.stored_bytes as f64 / MB),
        }),
        package_info: Some(PackageInfo {
            peft_bench_version: env!("CARGO_PKG_VERSION").to_owned(),
            peft_bench_git_revision: option_env!("PEFT_BENCH_GIT_REVISION")
                .map(str::to_owned)
                .into(),
            onnxruntime_version: input.library.map(|library| library.version.clone()),
            onnxruntime_path: input.library.map(|library| library.path.clone()).into(),
        }),
        system_info: input.system.clone(),
    }
}

fn nothing_prepared(input: &ReportInput) -> MetaInfo {
    MetaInfo {
        model_id: None,
        weights: None,
        adapter: Maybe::Absent,
        adapter_form: Maybe::Absent,
        task: Maybe::Absent,
        adapter_bytes_per_token: Maybe::Absent,
        dtype: None,
        compute_dtype: None,
        mla: Maybe::Absent,
        quantization: Maybe::Absent,
        base_quantization: Maybe::Absent,
        parameters: None,
        model_size: None,
        package_info: None,
        system_info: input.system.clone(),
    }
}

/// The base's own quantization, by the first manifest; what of its codes merged and unmerged
/// variants don't have.
fn base_quantization(input: &ReportInput, manifest: &Manifest) -> Option<BaseQuantizationInfo> {
    let first = manifest.base_quantization.as_ref()?;
    let of = |variant| input.manifests.get(&variant)?.base_quantization.as_ref();
    let changed = |variant| of(variant).map(|found| found.changed_weights);
    Some(BaseQuantizationInfo {
        method: first.method.clone(),
        scheme: first.scheme.clone(),
        kept_weights: first.kept_weights + first.changed_weights,
        kept_size_mb: first.kept_bytes as f64 / MB,
        dequantized_weights: first.dequantized_weights,
        dequantized_size_mb: first.dequantized_bytes as f64 / MB,
        dequantized_because: first.dequantized_because.clone(),
        accuracy_level: first.accuracy_level,
        changed_by_merge: changed(Variant::Merged),
        replaced_by_unmerged: changed(Variant::Unmerged),
        requantized: of(Variant::Merged).is_some_and(|found| found.requantized),
    })
}

/// What is quantized and how, by the first manifest and that of the `unmerged` variant.
fn quantization(manifest: &Manifest, unmerged: Option<&Manifest>) -> Option<QuantizationInfo> {
    let found = manifest.quantization.as_ref()?;
    let of_unmerged = unmerged.and_then(|manifest| manifest.quantization.as_ref());
    let name = |format: Option<Format>| format.map_or("float", Format::name).to_owned();
    Some(QuantizationInfo {
        scheme: found.scheme.clone(),
        bits: found.bits,
        block_size: found.block_size,
        symmetric: found.symmetric,
        accuracy_level: found.accuracy_level,
        head: name(found.head),
        kv_proj: found.kv_proj.map(|format| format.name().to_owned()),
        embedding: Some(name(found.embedding)),
        float: found.float.clone(),
        quantized_weights: found.quantized_weights,
        quantized_size_mb: found.quantized_bytes as f64 / MB,
        replaced_by_unmerged: of_unmerged.map(|found| found.replaced_weights).into(),
    })
}
