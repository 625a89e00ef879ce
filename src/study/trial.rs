//! A trial: cases that are measured together, in turn and against one base.

use std::collections::BTreeSet;
use std::path::Path;

use super::case::Case;
use crate::prepared::Variant;

/// Cases that are measured together.
pub struct Trial {
    /// At least one.
    pub cases: Vec<Case>,
}

impl Trial {
    /// The trials of all `cases`: experiments with the same parameters share one. Where there are
    /// graphs that are run as they are, they share one with whatever is in a folder.
    pub fn of(cases: Vec<Case>) -> Vec<Self> {
        let (foreign, own): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(Case::is_foreign);
        let mut trials = Vec::new();
        for case in own {
            Self::add(&mut trials, case);
        }
        if foreign.is_empty() {
            return trials;
        }
        let mut rest = trials.into_iter();
        let mut main = rest.next().unwrap_or(Self { cases: Vec::new() });
        let mut trials = Vec::new();
        for trial in rest {
            match trial.cases[0].is_experiment() {
                true => trials.push(trial),
                false => main.cases.extend(trial.cases),
            }
        }
        main.cases.extend(foreign);
        trials.insert(0, main);
        trials
    }

    /// Adds `case` to the first of `trials` that can take it, else begins another one.
    fn add(trials: &mut Vec<Self>, case: Case) {
        let takes = |trial: &&mut Self| trial.cases.iter().all(|one| one.goes_with(&case));
        match trials.iter_mut().find(takes) {
            Some(trial) => trial.cases.push(case),
            None => trials.push(Self { cases: vec![case] }),
        }
    }

    /// What its cases are called in the table: the experiments' own names where these differ, else
    /// with their methods.
    pub fn labels(&self) -> Vec<String> {
        let stem = |case: &Case| match case.stem.split_once("--") {
            // Beside others, the folder of a variant is called by the folder above it.
            Some((kind, name)) if Variant::ALL.iter().any(|variant| variant.name() == name) => {
                let above = Path::new(&case.name).parent().and_then(Path::file_name);
                let above = above.filter(|_| self.cases.len() > 1);
                let above = above.map(|above| format!("{kind}--{}", above.to_string_lossy()));
                above.unwrap_or_else(|| case.stem.clone())
            }
            _ => case.stem.clone(),
        };
        let stems: Vec<String> = self.cases.iter().map(stem).collect();
        let mut stems: Vec<&str> = stems.iter().map(String::as_str).collect();
        if stems.iter().collect::<BTreeSet<_>>().len() < stems.len() {
            stems = self
                .cases
                .iter()
                .map(|one| one.result_stem.as_str())
                .collect();
        }
        let short = |stem: &&str| {
            stem.split_once("--")
                .map_or(*stem, |(_, name)| name)
                .to_owned()
        };
        let names: Vec<String> = stems.iter().map(short).collect();
        let distinct: BTreeSet<&String> = names.iter().collect();
        match distinct.len() == names.len() {
            true => names,
            false => stems.into_iter().map(str::to_owned).collect(),
        }
    }
}
