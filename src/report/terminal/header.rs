//! The line above the table.

use crate::report::measured::Labelled;
use crate::report::model::{AdapterInfo, AdapterWeights, QuantizationInfo};

/// What was measured, and on what.
pub(super) fn header(results: &[Labelled]) -> String {
    let Some(Labelled { name, report, .. }) = results.first() else {
        return String::new();
    };
    let (run, meta) = (&report.run_info, &report.meta_info);
    let session = &run.session;
    let place = match (session.provider.as_str(), &run.hardware.accelerator_type) {
        ("cpu", _) => format!(
            "cpu, {} threads, {} weights",
            session.threads, session.weights
        ),
        (cuda, Some(name)) => format!("{cuda} ({name})"),
        (cuda, None) => cuda.to_owned(),
    };
    let compute = match (meta.compute_dtype, meta.dtype) {
        (Some(compute), Some(dtype)) if compute != dtype => format!(" (computed in {compute})"),
        _ => String::new(),
    };
    let quantization = meta.quantization.value().and_then(QuantizationInfo::label);
    let quantized = quantization.map_or(String::new(), |label| format!(", {label} weights"));
    let base = meta.base_quantization.value().map(|base| {
        let arithmetic = match base.accuracy_level {
            Some(4) => ", inputs in 8 bits",
            _ => "",
        };
        let again = if base.requantized {
            ", merged into it again"
        } else {
            ""
        };
        format!(", quantized base ({}{arithmetic}{again})", base.scheme)
    });
    let quantized = quantized + &base.unwrap_or_default();
    let batch = match session.batch_size {
        None | Some(1) => String::new(),
        Some(size) => format!(", batches of {size}"),
    };
    let is_fresh = |result: &&Labelled| {
        let adapter = result.report.meta_info.adapter.value().copied();
        adapter.map(AdapterInfo::weights) == Some(AdapterWeights::Fresh)
    };
    let is_exported = |result: &&Labelled| {
        let info = &result.report.generation_info;
        info.all_measured().any(|(_, found)| found.graph.is_some())
    };
    let exported = results.iter().filter(is_exported).count();
    let name = match (results.len(), results.iter().filter(is_fresh).count()) {
        (several @ 2.., _) if exported > 0 => {
            format!("{several} targets, {exported} run as exported,")
        }
        (1, 0) => (*name).to_owned(),
        (1, _) => format!("{name} (drawn fresh)"),
        (several, 0) => format!("{several} experiments"),
        (several, fresh) => format!("{several} experiments ({fresh} drawn fresh)"),
    };
    let parameter = |key: &str| run.benchmark_config[key].as_str().unwrap_or("?");
    let packages = meta.package_info.as_ref();
    let version = packages.and_then(|packages| packages.onnxruntime_version.as_deref());
    format!(
        "{name} on {}, {}{compute}{quantized}, {place}{batch}, ONNX Runtime {}",
        parameter("model_id"),
        parameter("dtype"),
        version.unwrap_or("?")
    )
}
