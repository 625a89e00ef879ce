//! Whether what's measured together has room on a GPU, and how many layers have. It's asked before a
//! session is opened: the error of an allocation in the middle of loading says neither size.

use std::fmt;

use super::error::StudyError;
use super::settings::GpuLayers;
use crate::engine::EngineError;
use crate::lowering::layers_on_cpu::{self, WeightSizes};
use crate::lowering::model_file;
use crate::measure::session::PlannedSubject;
use crate::prepared::Manifest;

/// What a process needs on a GPU beside weights and cache: CUDA's context, kernels and workspaces,
/// activations. It's only used to choose how many layers are put there, and chosen amply.
const PROCESS_BYTES: u64 = 1 << 30;

/// How many layers have room where not all have.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuRoom {
    /// The first so many are on the GPU.
    pub layers: usize,
    /// So many there are.
    of: usize,
    /// Bytes of the weights of all variants that are measured together.
    needed: u64,
    /// The GPU's memory.
    has: u64,
}

/// What a subject needs on a GPU.
struct Needs {
    weights: WeightSizes,
    /// Whatever layers are there.
    always: u64,
}

impl fmt::Display for GpuRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the weights of all variants take {} GiB and the GPU has {} GiB, so the first {} of {} layers are on the GPU, \
             and the others are computed on the CPU",
            gibibytes(self.needed),
            gibibytes(self.has),
            self.layers,
            self.of
        )
    }
}

/// How many layers of `subjects` are on a GPU with so many MiB of memory; `None` for all. Each
/// subject has a process of its own with its own copy of the weights, and a cache for `rows` tokens
/// of all sequences.
///
/// # Errors
/// If not all have room, and that's asked for or nothing else is possible; with both sizes.
pub fn layers_on_gpu(
    subjects: &[PlannedSubject],
    rows: usize,
    memory_mb: Option<u64>,
    asked: GpuLayers,
) -> Result<Option<GpuRoom>, StudyError> {
    let weights = |one: &PlannedSubject| {
        let reads = &one.prepared.manifest.reads;
        reads.weight_bytes + reads.adapter_bytes
    };
    let needed: u64 = subjects.iter().map(weights).sum();
    let Some(has) = memory_mb.map(|mebibytes| mebibytes << 20) else {
        return Ok(None);
    };
    let too_small = |why: &str| StudyError::GpuTooSmall {
        subjects: subjects.len(),
        needed_gib: gibibytes(needed),
        has_gib: gibibytes(has),
        why: why.to_owned(),
    };
    match asked {
        // Whoever says how many knows better.
        GpuLayers::First(_) => return Ok(None),
        _ if needed <= has => return Ok(None),
        GpuLayers::All => return Err(too_small("")),
        GpuLayers::Auto => {}
    }
    let mut needs = Vec::new();
    for subject in subjects {
        let manifest = &subject.prepared.manifest;
        if let Some(why) = whole_only(manifest) {
            return Err(too_small(why));
        }
        let model = model_file::read(&subject.prepared.folder, 1).map_err(EngineError::from)?;
        let reads = &manifest.reads;
        needs.push(Needs {
            weights: WeightSizes::of(&model, manifest.compute),
            always: reads.adapter_bytes
                + reads.cache_bytes_per_position * rows as u64
                + PROCESS_BYTES,
        });
    }
    let room = most_layers(&needs, has).map(|(layers, of)| GpuRoom {
        layers,
        of,
        needed,
        has,
    });
    room.map(Some)
        .ok_or_else(|| too_small(", even without any layer"))
}

/// Why layers of a variant can't be divided, if they can't.
fn whole_only(manifest: &Manifest) -> Option<&'static str> {
    if manifest.foreign.is_some() {
        return Some(", and another program's graph doesn't say which layer a node is in");
    }
    (!layers_on_cpu::takes(manifest.compute)).then_some(
        ", and in bfloat16 ONNX Runtime can't compute layers on the CPU, as it can in float16",
    )
}

/// The most layers that have room in `has` bytes, and how many there are.
fn most_layers(needs: &[Needs], has: u64) -> Option<(usize, usize)> {
    let of = needs.iter().map(|one| one.weights.layers.len()).min()?;
    let on_gpu = |layers: usize| -> u64 {
        let each = needs
            .iter()
            .map(|one| one.weights.on_gpu(layers) + one.always);
        each.sum()
    };
    let most = (0..of).rev().find(|layers| on_gpu(*layers) <= has)?;
    Some((most, of))
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::subject::Subject;
    use crate::prepared::{Variant, stand_in};
    use crate::weights::Dtype;

    const GIB: u64 = 1 << 30;

    fn subjects(compute: Dtype) -> [PlannedSubject; 2] {
        [Variant::Base, Variant::Merged].map(|variant| {
            let mut prepared = stand_in(variant);
            prepared.manifest.reads.weight_bytes = 10 * GIB;
            prepared.manifest.compute = compute;
            PlannedSubject {
                subject: Subject::from(variant),
                experiment: None,
                prepared,
            }
        })
    }

    #[test]
    fn weights_that_are_more_than_the_gpus_memory_are_refused_with_both_sizes() {
        let room = |memory, asked| {
            layers_on_gpu(&subjects(Dtype::BFloat16), 100, memory, asked)
                .map_err(|error| error.to_string())
        };
        for asked in [GpuLayers::All, GpuLayers::Auto] {
            assert_eq!(room(Some(24 << 10), asked), Ok(None));
            assert_eq!(room(None, asked), Ok(None));
            let error = room(Some(16 << 10), asked).unwrap_err();
            assert!(
                error.contains("20.0 GiB") && error.contains("16.0 GiB"),
                "{error}"
            );
            assert_eq!(error.contains("float16"), asked == GpuLayers::Auto);
        }
        assert_eq!(room(Some(16 << 10), GpuLayers::First(3)), Ok(None));
    }

    #[test]
    fn as_many_layers_as_have_room_are_on_the_gpu() {
        let needs = |rest| Needs {
            weights: WeightSizes {
                layers: vec![2 * GIB; 4],
                rest,
            },
            always: GIB,
        };
        let two = [needs(GIB), needs(GIB)];
        assert_eq!(most_layers(&two, 19 * GIB), Some((3, 4)));
        assert_eq!(most_layers(&two, 16 * GIB), Some((3, 4)));
        assert_eq!(most_layers(&two, 15 * GIB), Some((2, 4)));
        assert_eq!(most_layers(&two, 4 * GIB), Some((0, 4)));
        assert_eq!(most_layers(&two, 3 * GIB), None);
    }
}
