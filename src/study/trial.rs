//! A trial: cases that are measured together, in turn and against one base.

use std::collections::BTreeSet;

use super::case::Case;

/// Cases that are measured together.
pub struct Trial {
    /// At least one.
    pub cases: Vec<Case>,
}

impl Trial {
    /// Adds `case` to the first of `trials` that can take it, else begins another one.
    pub fn add(trials: &mut Vec<Self>, case: Case) {
        let takes = |trial: &&mut Self| trial.cases.iter().all(|one| one.goes_with(&case));
        match trials.iter_mut().find(takes) {
            Some(trial) => trial.cases.push(case),
            None => trials.push(Self { cases: vec![case] }),
        }
    }

    /// What its cases are called in the table: the experiments' own names where these differ, else
    /// with their methods.
    pub fn labels(&self) -> Vec<String> {
        let stems: Vec<&str> = self.cases.iter().map(|one| one.stem.as_str()).collect();
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
