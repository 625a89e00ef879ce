//! The words of notes and warnings.

use crate::adapter::folder::CONFIG;
use crate::prepared::Variant;
use crate::study::{Note, TokenizerDifference};

/// What `note` says, in a line.
pub fn note_text(note: &Note) -> String {
    match note {
        Note::Prompts(caveat) => format!("warning: {caveat}"),
        other => format!("note: {}", text(other)),
    }
}

/// A size in MB with as many digits as matter.
fn megabytes(bytes: u64) -> String {
    const MB: f64 = 1024.0 * 1024.0;
    let size = bytes as f64 / MB;
    match size >= 10.0 {
        true => format!("{size:.0} MB"),
        false => format!("{size:.2} MB"),
    }
}

fn text(note: &Note) -> String {
    match note {
        Note::AdapterConfigIgnored { folder } => format!(
            "`{}` is a checkpoint, and no adapter's weights lie beside its `{CONFIG}`, which is passed over",
            folder.display()
        ),
        Note::AdapterAndModel { folder } => format!(
            "`{}` holds an adapter and a whole model, and it's taken for the adapter; without its `{CONFIG}` it's the model",
            folder.display()
        ),
        Note::OtherBase { named, used } => {
            format!("the adapter was made for `{named}` and is used with `{used}`")
        }
        Note::OtherTask { named, used } => format!(
            "the adapter's `task_type` is `{named}`, and it's used as `{used}`, as far as its tensors fit"
        ),
        Note::FreshValues { folder } => {
            format!("the values of `{}` are drawn fresh", folder.display())
        }
        Note::SurplusRows { name, rows, used } => format!(
            "`{name}` has {rows} rows, and `vocab_size` in `config.json` is {used}: the first {used} are used, unless an \
             adapter is for more"
        ),
        Note::Float32OnCpu => {
            "there is a GPU, but float32 runs on the CPU unless `--ep cuda` asks for the GPU; `--dtype float16` or `bfloat16` \
             runs there by itself"
                .to_owned()
        }
        Note::LayersOnCpu(room) => format!("{room}; `--gpu-layers all` refuses that"),
        Note::NoCudaLibrary => {
            "there is a GPU, but no CUDA build of ONNX Runtime, so this runs on the CPU; `peft-bench runtime install --cuda` \
             fetches one"
                .to_owned()
        }
        Note::TaskTaken { id, count } => {
            format!("the adapter has {count} tasks, and this is task {id}; `--task-id` takes another one")
        }
        Note::ParameterIgnored(text) | Note::Adapter(text) => (*text).to_owned(),
        Note::FloatWeights {
            peft_type,
            dtype,
            replaced,
            of,
        } => format!(
            "unmerged, {peft_type} has weights in {dtype} in the place of {replaced} of {of} that are quantized"
        ),
        Note::DequantizedBase { base, dtype } => format!(
            "of the base's quantized weights ({}), {} of {} are dequantized once, to {} in {dtype}: {}",
            base.scheme,
            base.dequantized_weights,
            base.dequantized_weights + base.kept_weights + base.changed_weights,
            megabytes(base.dequantized_bytes),
            base.dequantized_because.join("; ")
        ),
        Note::ChangedCodes { variant, base, .. } if base.requantized => format!(
            "{variant}, weights are rounded to the checkpoint's scheme again ({}), which loses changes smaller than half a \
             step of its codes; `peft-bench verify --requantize` tells how much",
            base.scheme
        ),
        Note::ChangedCodes {
            variant,
            base,
            dtype,
        } => format!(
            "{variant}, {} of {} weights in codes ({}) are dequantized, changed and stay in {dtype}, {}{}",
            base.changed_weights,
            base.changed_weights + base.kept_weights,
            base.scheme,
            megabytes(base.changed_bytes),
            match variant {
                Variant::Merged => "; `--requantize` rounds them to the checkpoint's scheme again",
                _ => "",
            }
        ),
        Note::NoCudaGraph { variant, reason } => {
            format!("the decode steps of {variant} are no CUDA graph: {reason}")
        }
        Note::OtherTokenizer { place, difference } => {
            let rest = match difference {
                TokenizerDifference::OfAdapter => {
                    "which differs from the base's; `--tokenizer base` takes that"
                }
                TokenizerDifference::OfChoice => "which differs from the base's",
                TokenizerDifference::BaseHasNone => "and the base has none that can be used",
            };
            let folder = place.folder.display();
            format!("texts go through {place} (`{folder}`), {rest}")
        }
        Note::CheckpointTokenizer(place) => {
            let folder = place.folder.display();
            format!("the checkpoint gets {place} (`{folder}`)")
        }
        Note::VocabularySizes {
            merged,
            merged_size,
            base_size,
        } => format!(
            "`{merged}` has a vocabulary of {merged_size}, the base model one of {base_size}: they're compared by the tokens \
             that both have"
        ),
        Note::Prompts(caveat) => caveat.to_string(),
        Note::NoEmptyVariant => "there is no `unmerged-empty` of this adapter".to_owned(),
        Note::NoCachedBase => {
            "no earlier measurement of this base fits; it is measured now".to_owned()
        }
        Note::BaseNotKept(why) => format!(
            "the base's measurement can't be kept for `--cached-base`: {why}"
        ),
        Note::BaseIsCached => {
            "this base was measured before, with everything the same".to_owned()
        }
    }
}
