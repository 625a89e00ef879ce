//! The keys of an adapter's file, and the other names that a tensor may have there.
//!
//! Which modules enclose the decoder in a key depends on what was trained: the model with its head,
//! the one without (`AutoModel`), a multimodal wrapper (Transformers 4.52 renamed its modules), or
//! its text tower alone. Compilers and frameworks for several devices add a wrapper, and programs
//! other than PEFT leave PEFT's name of the adapter in the keys. A tensor is looked up under its
//! own name first, and under others only if that isn't there.

use std::collections::{BTreeMap, BTreeSet};

use super::tensors::PREFIX;
use crate::arch::{DecoderSpec, bare};

/// Segments of a key that don't tell where in the model the tensor belongs.
const LEFT_OUT: [&str; 6] = [
    // `torch.compile`
    "_orig_mod",
    // `DistributedDataParallel`, DeepSpeed
    "module",
    // Fully sharded data parallel, and activation checkpoints
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    // The adapter's name, which PEFT leaves out of its files.
    "default",
    MODULES_TO_SAVE,
];

const MODULES_TO_SAVE: &str = "modules_to_save";

/// Modules of multimodal models that text doesn't pass through. Adapters that name their targets
/// have tensors there, too.
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

/// Whether the tensor `key` belongs to a module that text doesn't pass through.
pub fn is_of_other_tower(key: &str) -> bool {
    key.split('.').any(|part| OTHER_TOWERS.contains(&part))
}

/// The keys of a file, by their common name: see [`common_name`].
#[derive(Debug, Default)]
pub struct Keys {
    common: BTreeMap<String, Vec<String>>,
    /// Tensors found under another name: the expected key, and the file's.
    renamed: BTreeMap<String, String>,
}

/// The result of looking for a tensor's other names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// The file has it under this key.
    Found(&'a str),
    /// The file has several keys that may mean it.
    Ambiguous(&'a [String]),
    /// The file doesn't have it.
    Absent,
}

impl Keys {
    /// The keys `names` of a file.
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

    /// Looks the tensor `key` up under its other names.
    pub fn other(&self, key: &str) -> Lookup<'_> {
        let Some(found) = self.common.get(&common_name(key)) else {
            return Lookup::Absent;
        };
        // `modules_to_save` may hold a second copy of the same weight.
        let inside = |key: &str| key.split('.').any(|part| part == MODULES_TO_SAVE);
        match &found[..] {
            [one] if inside(key) && !inside(one) => Lookup::Absent,
            [one] => Lookup::Found(one),
            several => Lookup::Ambiguous(several),
        }
    }

    /// Records that the file's `other` is used as `key`.
    pub fn note(&mut self, key: String, other: String) {
        self.renamed.insert(key, other);
    }

    /// A sentence about the tensors found under other names; `None` if there are none.
    pub fn renamed(&self) -> Option<String> {
        let (key, other) = self.renamed.first_key_value()?;
        let count = self.renamed.len();
        Some(match count {
            1 => format!("the adapter's tensor `{other}` is used as `{key}`"),
            _ => format!(
                "{count} of the adapter's tensors have other names than this model's modules, such as `{other}` for \
                 `{key}`"
            ),
        })
    }

    /// How paths in the file differ from those of `spec`: the model's prefix of module paths and
    /// the file's, then the model's path of the head and the file's. `None` if they don't differ.
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

/// `key` without the segments that depend on the program that saved it.
pub fn common_name(key: &str) -> String {
    let parts = key.split('.').filter(|part| !LEFT_OUT.contains(part));
    let key = parts.collect::<Vec<&str>>().join(".");
    bare(&key).to_owned()
}

/// The part of `path` in front of the decoder's own.
fn around(path: &str) -> &str {
    &path[..path.len() - bare(path).len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

    fn other(names: &[&str], key: &str) -> Option<String> {
        let keys = Keys::new(names.iter().map(|&name| name.to_owned()).collect());
        match keys.other(key) {
            Lookup::Found(found) => Some(found.to_owned()),
            _ => None,
        }
    }

    #[test]
    fn a_tensor_is_found_under_other_names() {
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
            assert_eq!(other(&[name], KEY).as_deref(), Some(name), "{name}");
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
    fn a_tensor_of_another_module_is_not_found() {
        for name in [
            "base_model.model.layers.1.self_attn.q_proj.lora_A.weight",
            "base_model.model.vision_tower.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
        ] {
            assert_eq!(other(&[name], KEY), None, "{name}");
        }
    }

    #[test]
    fn two_candidates_are_ambiguous() {
        let names = [
            "base_model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight",
        ];
        let keys = Keys::new(names.map(str::to_owned).to_vec());
        assert!(matches!(keys.other(KEY), Lookup::Ambiguous(found) if found.len() == 2));
    }

    #[test]
    fn a_copy_of_a_whole_module_is_not_a_second_candidate() {
        let plain = "base_model.model.lm_head.weight";
        let again = "base_model.model.lm_head.modules_to_save.weight";
        assert_eq!(other(&[plain], again), None);
        let raw = "base_model.model.lm_head.modules_to_save.default.weight";
        assert_eq!(other(&[raw], plain).as_deref(), Some(raw));
    }
}
