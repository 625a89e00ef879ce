//! Whether what's measured together has room on a GPU. It's asked before a session is opened: the
//! error of an allocation in the middle of loading says neither size.

use super::error::StudyError;
use crate::measure::session::PlannedSubject;

/// Refuses subjects whose weights alone are more than the GPU's memory, in MiB. Each has a process
/// of its own with its own copy.
///
/// # Errors
/// That, with both sizes.
pub fn check_gpu(subjects: &[PlannedSubject], memory_mb: Option<u64>) -> Result<(), StudyError> {
    let weights = subjects.iter().map(|one| {
        let reads = &one.prepared.manifest.reads;
        reads.weight_bytes + reads.adapter_bytes
    });
    let needed: u64 = weights.sum();
    match memory_mb.map(|mebibytes| mebibytes << 20) {
        Some(has) if needed > has => Err(StudyError::GpuTooSmall {
            subjects: subjects.len(),
            needed_gib: gibibytes(needed),
            has_gib: gibibytes(has),
        }),
        _ => Ok(()),
    }
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::subject::Subject;
    use crate::prepared::{Variant, stand_in};

    #[test]
    fn weights_that_are_more_than_the_gpus_memory_are_refused_with_both_sizes() {
        let subject = |variant: Variant| {
            let mut prepared = stand_in(variant);
            prepared.manifest.reads.weight_bytes = 10 << 30;
            PlannedSubject {
                subject: Subject::from(variant),
                experiment: None,
                prepared,
            }
        };
        let subjects = [Variant::Base, Variant::Merged].map(subject);
        assert!(check_gpu(&subjects, Some(24 << 10)).is_ok());
        assert!(check_gpu(&subjects, None).is_ok());
        let error = check_gpu(&subjects, Some(16 << 10))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("20.0 GiB") && error.contains("16.0 GiB"),
            "{error}"
        );
    }
}
