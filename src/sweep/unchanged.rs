//! Whether what a job is measured from is still what was planned: its key would be another's
//! otherwise.

use std::sync::{Mutex, PoisonError};

use super::inputs;
use super::job::Job;
use super::plan::Plan;
use super::planner::{Node, Planner};
use crate::study::Study;

const AGAIN: &str =
    "plan the sweep anew (`peft-bench sweep plan`), and what's unchanged stays done";

/// What jobs are measured from, on this machine.
pub struct Inputs<'a>(Mutex<Planner<'a>>);

impl<'a> Inputs<'a> {
    /// The inputs of `plan`, whose jobs are measured as `study` says, in this process' working
    /// folder.
    ///
    /// # Errors
    /// If this program, or its ONNX Runtime, isn't the one of the plan.
    pub fn of(plan: &Plan, study: &'a Study) -> Result<Self, String> {
        let here = inputs::program(study.settings.provider)
            .map_err(|error| format!("cannot find this program's revision: {error}"))?;
        let planned = &plan.common.program;
        if here != *planned {
            let keys = here.as_object().into_iter().flatten();
            let other = keys.filter(|(key, value)| planned[key.as_str()] != **value);
            let other = other
                .map(|(key, value)| format!("{key} {value} and not {}", planned[key.as_str()]));
            let other: Vec<String> = other.collect();
            return Err(format!(
                "this isn't the program that the sweep was planned for: it has {}; {AGAIN}",
                other.join(", ")
            ));
        }
        Ok(Self(Mutex::new(Planner::new(study, Node::default(), here))))
    }

    /// Checks that `job` would be planned as it was.
    ///
    /// # Errors
    /// If its adapter, its base or its parameters have changed, or it can't be measured any more.
    pub fn check(&self, job: &Job) -> Result<(), String> {
        let mut planner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = planner.job(&job.combination, job.job)?.parts;
        let then = &job.parts;
        let changed = [
            ("its adapter", now.experiment == then.experiment),
            // Of a base that wasn't here, only the name was known.
            ("its base", now.base == then.base || !job.base_is_here),
            ("its parameters", now.parameters == then.parameters),
        ];
        match changed.iter().find(|(_, is_same)| !is_same) {
            Some((what, _)) => Err(format!("{what} changed since it was planned; {AGAIN}")),
            None => Ok(()),
        }
    }
}
