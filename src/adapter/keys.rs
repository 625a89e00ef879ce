//! The keys of an adapter's file, and what else the tensors may be called.
//!
//! Which names stand around a decoder depends on what was trained: the model with its head, the one without (`AutoModel`), a
//! multimodal wrapper, of which Transformers 4.52 changed the names, or its text tower alone. Compilers and frameworks for
//! several devices wrap modules once more, and PEFT's own name of the adapter stays in keys that something else has saved.
//! A tensor that a method asks for is looked for under its own name first, and under others only if that isn't there.

use std::collections::{BTreeMap, BTreeSet};

use super::tensors::PREFIX;
use crate::arch::{DecoderSpec, bare};

/// Parts of a key that say nothing about where in the model it belongs.
const LEFT_OUT: [&str; 6] = [
    // `torch.compile`
    "_orig_mod",
    // `DistributedDataParallel`, DeepSpeed
    "module",
    // Fully sharded data parallel, and activation checkpoints
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    // PEFT's own, which its files don't have
    "default",
    MODULES_TO_SAVE,
];

const MODULES_TO_SAVE: &str = "modules_to_save";

/// The parts of multimodal models that text doesn't reach. Adapters whose targets are names have tensors there too.
const OTHER_TOWERS: [&str; 17] = [
    "vision_tower",
    "vision_model",
    "vision_encoder",
    "vision_embed_tokens",
    "vision_projection",
    "visual",
    "image_tower",
    "image_newline",
    "video_tower",
    "audio_tower",
    "audio_encoder",
    "multi_modal_projector",
    "mm_projector",
    "connector",
    "perceiver_resampler",
    "embed_vision",
    "embed_audio",
];

/// Whether the tensor `key` belongs to a part of a multimodal model that text doesn't reach.
pub fn is_of_other_tower(key: &str) -> bool {
    key.split('.').any(|part| OTHER_TOWERS.contains(&part))
}

/// The keys of a file by what is common to all their names.
#[derive(Debug, Default)]
pub struct Keys {
    common: BTreeMap<String, Vec<String>>,
    /// Those that were taken for others, by the names that they'd have.
    renamed: BTreeMap<String, String>,
}

/// What the tensor that's asked for is called in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Other<'a> {
    /// This.
    Key(&'a str),
    /// It could be any of these.
    Several(&'a [String]),
    /// It isn't there.
    None,
}

impl Keys {
    /// Those of a file that has `names`.
    pub fn new(names: Vec<String>) -> Self {
        let mut common: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in names {
            common.entry(common_name(&name)).or_default().push(name);
        }
        Self {
            common,
            renamed: BTreeMap::new(),
        }
    }

    /// What else the file calls the tensor `key`.
    pub fn other(&self, key: &str) -> Other<'_> {
        let Some(found) = self.common.get(&common_name(key)) else {
            return Other::None;
        };
        // The same weight may be there a second time, below this.
        let inside = |key: &str| key.split('.').any(|part| part == MODULES_TO_SAVE);
        match &found[..] {
            [one] if inside(key) && !inside(one) => Other::None,
            [one] => Other::Key(one),
            several => Other::Several(several),
        }
    }

    /// Notes that the file's `other` was taken for `key`.
    pub fn note(&mut self, key: String, other: String) {
        self.renamed.insert(key, other);
    }

    /// What was taken for what, in a sentence; `None` where nothing was.
    pub fn renamed(&self) -> Option<String> {
        let (key, other) = self.renamed.first_key_value()?;
        let count = self.renamed.len();
        Some(match count {
            1 => format!("the adapter's tensor `{other}` is taken for `{key}`"),
            _ => format!(
                "{count} of the adapter's tensors are taken for those of this model with other names, such as `{other}` for \
                 `{key}`"
            ),
        })
    }

    /// How the file begins the paths of the modules of `spec`, and how it calls the head, each behind what the model has in
    /// that place; `None` where they are the same.
    pub fn spelling(&self, spec: &DecoderSpec) -> Option<Vec<[String; 2]>> {
        let first = spec.layers.first()?;
        let layers = bare(&first.path).split('.').next()?;
        let own = around(&first.path);
        let of_layers = |common: &&String| common.split('.').next() == Some(layers);
        let keys = self.common.iter().filter(|(common, _)| of_layers(common));
        let paths = keys.flat_map(|(_, keys)| keys).map(|key| {
            let parts = key.split('.').filter(|part| !LEFT_OUT.contains(part));
            let path = parts.collect::<Vec<&str>>().join(".");
            around(path.strip_prefix(PREFIX).unwrap_or(&path)).to_owned()
        });
        let mut found = paths.collect::<BTreeSet<String>>().into_iter();
        let (Some(other), None) = (found.next(), found.next()) else {
            return None;
        };
        if other == own {
            return None;
        }
        let head = spec.lm_head.path.clone();
        let head_around = match other.strip_suffix("model.") {
            Some(around) if !around.is_empty() && around.ends_with("language_model.") => around,
            _ => "",
        };
        let other_head = format!("{head_around}{head}");
        Some(vec![[own.to_owned(), other], [head, other_head]])
    }
}

/// `key` without what differs with whoever saved it.
pub fn common_name(key: &str) -> String {
    let parts = key.split('.').filter(|part| !LEFT_OUT.contains(part));
    let key = parts.collect::<Vec<&str>>().join(".");
    bare(&key).to_owned()
}

/// What stands around the decoder in `path`.
fn around(path: &str) -> &str {
    &path[..path.len() - bare(path).len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

    fn other(names: &[&str], key: &str) -> Option<String> {
        let keys = Keys::new(names.iter().map(|&name| name.to_owned()).collect());
        match keys.other(key) {
            Other::Key(found) => Some(found.to_owned()),
            _ => None,
        }
    }

    #[test]
    fn a_tensor_is_found_under_its_other_names() {
        for name in [
            "base_model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.text_model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model._orig_mod.model.layers.0.self_attn.q_proj.lora_A.weight",
            "_orig_mod.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "module.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
            "model.layers.0.self_attn.q_proj.lora_A.default.weight",
        ] {
            assert_eq!(other(&[name], WANTED).as_deref(), Some(name), "{name}");
        }
        let head = "base_model.model.language_model.lm_head.weight";
        assert!(other(&[head], "base_model.model.lm_head.weight").is_some());
        let ending = "base_model.model.model.layers.0.mlp.up_proj.ia3_l.default";
        assert!(
            other(
                &[ending],
                "base_model.model.model.layers.0.mlp.up_proj.ia3_l"
            )
            .is_some()
        );
    }

    #[test]
    fn another_place_is_no_other_name() {
        for name in [
            "base_model.model.layers.1.self_attn.q_proj.lora_A.weight",
            "base_model.model.vision_tower.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
        ] {
            assert_eq!(other(&[name], WANTED), None, "{name}");
        }
    }

    #[test]
    fn of_two_candidates_none_is_taken() {
        let names = [
            "base_model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight",
        ];
        let keys = Keys::new(names.map(str::to_owned).to_vec());
        assert!(matches!(keys.other(WANTED), Other::Several(found) if found.len() == 2));
    }

    #[test]
    fn a_copy_of_a_whole_module_is_no_second_one() {
        let plain = "base_model.model.lm_head.weight";
        let again = "base_model.model.lm_head.modules_to_save.weight";
        assert_eq!(other(&[plain], again), None);
        let raw = "base_model.model.lm_head.modules_to_save.default.weight";
        assert_eq!(other(&[raw], plain).as_deref(), Some(raw));
    }
}
