//! Many results, one row for each.

use std::path::Path;

use super::model::{Metrics, Overhead, Report};
use super::peft;
use super::table::Value;
use crate::adapter::AdapterForm;
use crate::file_names;
use crate::model::ModelId;

/// A result, and what it's called.
#[derive(Debug)]
pub(super) struct OverviewRow<'a> {
    /// `<method>/<name>`
    pub name: String,
    /// The result.
    pub report: &'a Report,
}

impl OverviewRow<'_> {
    /// The nodes of the unmerged adapter.
    pub(super) fn adapter_form(&self) -> Option<&'static str> {
        let form = self.report.meta_info.adapter_form.value()?;
        Some(match form {
            AdapterForm::Reduced => "reduced",
            AdapterForm::Native => "native",
        })
    }

    /// What a variant costs over the base, over all prompts.
    fn overhead(&self, variant: &str) -> Option<&Overhead> {
        let variant = self.report.generation_info.measured(variant)?;
        variant.overall_overhead()
    }

    /// The same as one of many.
    pub(super) fn estimate(&self, variant: &str) -> Value {
        let found = self.report.generation_info.measured(variant);
        let categories = found.map_or(0, |found| found.by_category.values().count());
        Value::one_of_many(self.overhead(variant), categories)
    }

    /// The figures of the unmerged variant over all prompts; without one, those of the merged one,
    /// or of the base.
    pub(super) fn metrics(&self) -> Option<&Metrics> {
        peft::shown(&self.report.generation_info)?.overall.as_ref()
    }

    /// What the variants compute, in words.
    pub(super) fn parity(&self) -> Option<String> {
        let info = &self.report.generation_info;
        let parity = info.parity.value()?;
        if !parity.passed {
            return Some(parity.failures.join("; "));
        }
        match parity.merged_vs_unmerged {
            Some(difference) => Some(format!("ok, {difference:.0e}")),
            None if info.variants.get("merged")?.absent().is_some() => {
                Some("not mergeable".to_owned())
            }
            None => None,
        }
    }
}

/// What the target of a result is called, by the name of its file: `<method>--<name>`, without the
/// hash that tells folders of the same name apart. A result doesn't say it itself.
pub fn target_name(path: &Path, report: &Report) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    // Results of earlier versions were named by their target alone.
    let target = before_model(&stem, report).unwrap_or(&stem);
    match target.rsplit_once('-') {
        Some((name, hash)) if is_hash(hash) => name.to_owned(),
        _ => target.to_owned(),
    }
}

/// What comes before the model in a [`ResultName`](super::ResultName).
fn before_model<'a>(stem: &'a str, report: &Report) -> Option<&'a str> {
    let config = &report.run_info.benchmark_config;
    let (id, dtype) = (config["model_id"].as_str()?, config["dtype"].as_str()?);
    let with_model = &stem[..stem.find(&format!("--{dtype}"))?];
    // That of a folder has a hash of its place, as it was seen from where it was measured; that of
    // a hub id may have `--`.
    let id = ModelId::parse(id).map(|id| file_names::of_model(&id)).ok();
    let target = id.and_then(|model| with_model.strip_suffix(&model)?.strip_suffix("--"));
    target.or_else(|| Some(with_model.rsplit_once("--")?.0))
}

fn is_hash(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
