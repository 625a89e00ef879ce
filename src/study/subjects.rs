//! What takes part in a trial.

use super::StudyError;
use super::observer::Note;
use super::trial_run::TrialRun;
use crate::measure::session::PlannedSubject;
use crate::measure::subject::Subject;
use crate::prepare::empty_variant;
use crate::prepared::{PreparedVariant, Variant};

impl TrialRun<'_> {
    /// What takes part: one base, and what each case has besides.
    pub(super) fn subjects(&self) -> Result<Vec<PlannedSubject>, StudyError> {
        let study = self.files.study;
        let mut subjects = Vec::new();
        let mut bases = self.variants();
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
        for case in &self.cases {
            let experiment = || (self.cases.len() > 1).then(|| case.label.clone());
            for prepared in &case.variants {
                if prepared.manifest.variant != Variant::Base {
                    add(prepared.manifest.variant.into(), experiment(), prepared);
                }
            }
            if study.empty {
                let empty = case.unmerged().map(empty_variant).transpose()?;
                match empty.flatten() {
                    Some(empty) => add(Subject::UnmergedEmpty, experiment(), &empty),
                    None => self.files.setup.note(Note::NoEmptyVariant),
                }
            }
        }
        if study.aa
            && let Some(base) = base
        {
            add(Subject::BaseAgain, None, base);
        }
        Ok(subjects)
    }
}
