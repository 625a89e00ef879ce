//! What an engine tells a task of itself, in the environment.

use std::env;

use thiserror::Error;

/// Variables with a task's number, which begins at 0, and the engines that set them.
const NUMBERS: [(&str, &str); 4] = [
    ("SLURM_ARRAY_TASK_ID", "Slurm"),
    ("JOB_COMPLETION_INDEX", "Kubernetes"),
    ("HQ_TASK_ID", "HyperQueue"),
    ("SKYPILOT_JOB_RANK", "SkyPilot"),
];

/// A task's number that can't be told.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum TaskError {
    #[error(
        "`auto` stands for the number that an engine gives a task, and none of {} is set; outside of an engine, give \
         the number itself",
        NUMBERS.map(|(name, _)| format!("`{name}`")).join(", ")
    )]
    None,
    #[error("`{name}` is `{found}`, expected a number")]
    NoNumber { name: &'static str, found: String },
    #[error(
        "`{one}` and `{other}` are both set and differ: give the number itself in place of `auto`"
    )]
    Two {
        one: &'static str,
        other: &'static str,
    },
}

/// The number that the engine gave to this task.
///
/// # Errors
/// If none did, or two gave different ones.
pub fn number() -> Result<usize, TaskError> {
    number_in(&|name| env::var(name).ok())
}

fn number_in(get: &dyn Fn(&str) -> Option<String>) -> Result<usize, TaskError> {
    let mut found: Option<(&'static str, usize)> = None;
    for (name, _) in NUMBERS {
        let Some(text) = get(name) else {
            continue;
        };
        let number = text.trim().parse();
        let number = number.map_err(|_| TaskError::NoNumber { name, found: text })?;
        match found {
            Some((one, other)) if other != number => {
                return Err(TaskError::Two { one, other: name });
            }
            _ => found = Some((name, number)),
        }
    }
    found.map(|(_, number)| number).ok_or(TaskError::None)
}

/// The name of this task with its engine, the same when the engine starts it again.
pub fn name() -> Option<String> {
    let get = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    if let (Some(array), Some(task)) = (get("SLURM_ARRAY_JOB_ID"), get("SLURM_ARRAY_TASK_ID")) {
        return Some(format!("slurm {array}_{task}"));
    }
    if let Some(job) = get("SLURM_JOB_ID") {
        return Some(format!("slurm {job}"));
    }
    match (get("HQ_JOB_ID"), get("HQ_TASK_ID")) {
        (Some(job), Some(task)) => Some(format!("hq {job}_{task}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<usize, TaskError> {
        number_in(&|name| {
            let mut pairs = pairs.iter();
            let found = pairs.find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_number_is_that_of_the_engine_and_two_that_differ_are_refused() {
        assert_eq!(of(&[("JOB_COMPLETION_INDEX", "7")]).unwrap(), 7);
        assert_eq!(
            of(&[("SLURM_ARRAY_TASK_ID", "3"), ("HQ_TASK_ID", "3")]).unwrap(),
            3
        );
        let two = of(&[("SLURM_ARRAY_TASK_ID", "3"), ("HQ_TASK_ID", "4")]);
        assert!(matches!(two, Err(TaskError::Two { .. })));
        assert!(matches!(of(&[]), Err(TaskError::None)));
        assert!(matches!(
            of(&[("HQ_TASK_ID", "x")]),
            Err(TaskError::NoNumber { .. })
        ));
    }
}
