//! Who takes part in a measurement.

use anyhow::Result;

use super::{Benchmark, Job};
use crate::cli::progress::message;
use crate::measure::session::PlannedSubject;
use crate::measure::subject::Subject;
use crate::prepare::empty_variant;
use crate::prepared::{PreparedVariant, Variant};

impl Benchmark<'_> {
    /// Who takes part: one base, and what each job has beside it.
    pub(super) fn subjects(&self, jobs: &[Job]) -> Result<Vec<PlannedSubject>> {
        let mut subjects = Vec::new();
        let mut bases = jobs.iter().flat_map(|job| &job.variants);
        let base = bases.find(|prepared| prepared.manifest.variant == Variant::Base);
        let mut add = |subject, experiment, prepared: &PreparedVariant| {
            subjects.push(PlannedSubject {
                subject,
                experiment,
                prepared: prepared.clone(),
            });
        };
        if let Some(base) = base {
            add(Subject::Base, None, base);
        }
        for job in jobs {
            let experiment = || (jobs.len() > 1).then(|| job.label.clone());
            for prepared in &job.variants {
                if prepared.manifest.variant != Variant::Base {
                    add(prepared.manifest.variant.into(), experiment(), prepared);
                }
            }
            let mut all = job.variants.iter();
            let unmerged = all.find(|one| one.manifest.variant == Variant::Unmerged);
            if self.empty {
                let empty = unmerged.map(empty_variant).transpose()?;
                match empty.flatten() {
                    Some(empty) => add(Subject::UnmergedEmpty, experiment(), &empty),
                    None => message("note: there is no `unmerged-empty` of this adapter"),
                }
            }
        }
        if self.aa
            && let Some(base) = base
        {
            add(Subject::BaseAgain, None, base);
        }
        Ok(subjects)
    }
}
