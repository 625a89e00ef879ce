//! What's printed of a trial when it's over.

use super::table;
use crate::engine::Provider;
use crate::measure::break_even::break_even;
use crate::measure::subject::Subject;
use crate::prepared::Manifest;
use crate::study::MeasuredTrial;

/// Everything that's printed: a table, and a line for whatever else there is to say.
pub fn text(trial: &MeasuredTrial, verbose: bool) -> String {
    let MeasuredTrial {
        cases,
        config,
        measured,
        results,
        ..
    } = trial;
    let tokens = table::prompt_tokens(&measured.records);
    let mut text = format!("{}\n{tokens}\n", header(trial));
    let paired = !measured.base_is_cached;
    text.push_str(&table::render(&measured.records, paired, config.seed));
    if !measured.sweep.is_empty() {
        text.push_str(&table::sweep(&measured.sweep, config.seed));
    }
    for (index, case) in cases.iter().enumerate() {
        let parity = &measured.comparisons[index].parity;
        let title = if cases.len() > 1 { &case.label } else { "" };
        text.push_str(&table::absent(title, &case.absent));
        let records = case.records(&measured.records);
        let find = |subject| records.iter().find(|one| one.variant == subject);
        if let Some((unmerged, merged)) = find(Subject::Unmerged).zip(find(Subject::Merged)) {
            let found = break_even(unmerged, merged, config.seed);
            text.push_str(&found.map_or(String::new(), |found| table::break_even(title, &found)));
        }
        text.push_str(&table::executed(title, &measured.comparisons[index].graphs));
        if verbose {
            let found = &measured.comparisons[index].not_lowered;
            text.push_str(&table::not_lowered(title, found));
        }
        text.push_str(&table::step_graphs(title, &records));
        if let Some(swap) = &measured.swaps[index] {
            text.push_str(&table::swap(title, swap, config.seed));
        }
        text.push_str(&table::parity(title, parity.as_ref()));
    }
    let precision = measured.precision.as_ref();
    text.push_str(&precision.map_or(String::new(), table::precision));
    text.push_str(&table::doubts(
        &measured.records,
        measured.interference.as_ref(),
    ));
    text.push('\n');
    for path in results {
        text.push_str(&format!("result  {}\n", path.display()));
    }
    text
}

/// What was measured, and on what.
fn header(trial: &MeasuredTrial) -> String {
    let MeasuredTrial {
        cases,
        config,
        options,
        ..
    } = trial;
    let place = match (options.provider, &trial.hardware.accelerator_type) {
        (Provider::Cuda(_), Some(name)) => format!("{} ({name})", options.provider),
        (Provider::Cuda(_), None) => options.provider.to_string(),
        (Provider::Cpu, _) => format!(
            "cpu, {} threads, {} weights",
            options.threads, options.weights
        ),
    };
    let variants = cases.iter().flat_map(|case| &case.variants);
    let manifest = variants.map(|variant| &variant.manifest).next();
    let compute = match manifest {
        Some(m) if m.compute != m.dtype => format!(" (computed in {})", m.compute),
        _ => String::new(),
    };
    let quantization = manifest.and_then(Manifest::quantization);
    let quantized = quantization.map_or(String::new(), |q| format!(", {} weights", q.label()));
    let batch = match config.batch_sizes[0] {
        1 => String::new(),
        size => format!(", batches of {size}"),
    };
    let fresh = cases.iter().filter(|case| case.is_fresh()).count();
    let name = match (cases.as_slice(), fresh) {
        ([case], 0) => case.stem.clone(),
        ([case], _) => format!("{} (drawn fresh)", case.stem),
        (several, 0) => format!("{} experiments", several.len()),
        (several, _) => format!("{} experiments ({fresh} drawn fresh)", several.len()),
    };
    format!(
        "{name} on {}, {}{compute}{quantized}, {place}{batch}, ONNX Runtime {}",
        config.model_id, config.dtype, trial.measured.library.version
    )
}
