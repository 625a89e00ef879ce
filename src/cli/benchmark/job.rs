//! What has a result of its own, and which records are its.

use std::collections::BTreeMap;

use crate::measure::record::SubjectRecord;
use crate::prepared::{Manifest, PreparedVariant, Variant};

/// What has a result of its own: an experiment, mostly.
pub struct Job {
    /// What it's called: `<method>--<name>`.
    pub stem: String,
    /// What it's called in the result's name, where others that are called the same are told apart.
    pub target: String,
    /// What it's called in the table, where several are measured together.
    pub label: String,
    /// The base among them.
    pub variants: Vec<PreparedVariant>,
    /// Variants that don't exist, with the reason.
    pub absent: BTreeMap<Variant, String>,
}

impl Job {
    /// The manifests of its variants.
    pub(super) fn manifests(&self) -> BTreeMap<Variant, Manifest> {
        let variants = self.variants.iter().map(|one| &one.manifest);
        variants.map(|m| (m.variant, m.clone())).collect()
    }
}

/// The records of a job, the base's among them.
pub(super) fn records_of(records: &[SubjectRecord], job: &Job) -> Vec<SubjectRecord> {
    let own = |record: &&SubjectRecord| {
        let experiment = record.experiment.as_ref();
        experiment.is_none_or(|experiment| *experiment == job.label)
    };
    records.iter().filter(own).cloned().collect()
}
