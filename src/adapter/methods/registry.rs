//! All methods, by `peft_type`.

use std::path::{Path, PathBuf};

use super::{
    adalora, adamss, adaption_prompt, beft, boft, c3a, cartridge, cpt, deft, delora, fourierft,
    frod, glora, gralora, hira, hra, ia3, lily, ln_tuning, loha, lokr, lora, miss,
    multitask_prompt_tuning, oft, osf, p_tuning, peanut, poly, prefix_tuning, prompt_tuning, psoft,
    randlora, road, shadow, shira, supertuning, tinylora, trainable_tokens, unilora, vblora, vera,
    waveft, xlora,
};
use crate::adapter::toolbox::tuner::Loading;
use crate::adapter::{AdapterError, AdapterTensors, Effects};
use crate::json::{ConfigError, JsonObject};
use crate::model::BaseModel;

/// A method that is implemented.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// Its `peft_type`.
    pub peft_type: &'static str,
    /// How it changes the base.
    pub class: Class,
    /// Supported variants, for the documentation.
    pub variants: &'static str,
    /// Options and variants that are refused, and why, for the documentation.
    pub refused: &'static str,
    load: fn(Loading) -> Result<Effects, AdapterError>,
}

/// How a method changes the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Its change can be merged into the weights of the modules that it targets.
    Weight,
    /// It replaces other parameters: norms, biases, rows of the embedding.
    Parameter,
    /// It adds something that can't be merged into a weight.
    Unmergeable,
}

impl Class {
    /// Whether there's a merged variant.
    pub fn merges(self) -> bool {
        self != Self::Unmergeable
    }

    /// `A`, `B` or `C`.
    pub fn letter(self) -> char {
        match self {
            Self::Weight => 'A',
            Self::Parameter => 'B',
            Self::Unmergeable => 'C',
        }
    }
}

/// All methods, by name.
pub const METHODS: &[Method] = &[
    Method {
        peft_type: "ADALORA",
        class: Class::Weight,
        variants: "pruned ranks",
        refused: "",
        load: adalora::load,
    },
    Method {
        peft_type: "ADAMSS",
        class: Class::Weight,
        variants: "use_dynamic_rank",
        refused: "clusters that differ from PEFT's",
        load: adamss::load,
    },
    Method {
        peft_type: "ADAPTION_PROMPT",
        class: Class::Unmergeable,
        variants: "",
        refused: "bases other than llama, mistral and gpt2",
        load: adaption_prompt::load,
    },
    Method {
        peft_type: "BEFT",
        class: Class::Parameter,
        variants: "",
        refused: "",
        load: beft::load,
    },
    Method {
        peft_type: "BOFT",
        class: Class::Weight,
        variants: "",
        refused: "more than 8 levels (`boft_n_butterfly_factor`)",
        load: boft::load,
    },
    Method {
        peft_type: "C3A",
        class: Class::Weight,
        variants: "block_size_pattern",
        refused: "",
        load: c3a::load,
    },
    Method {
        peft_type: "CARTRIDGE",
        class: Class::Unmergeable,
        variants: "num_frozen_tokens",
        refused: "batches of more than one, except in float32 on a GPU; `--swap`",
        load: cartridge::load,
    },
    Method {
        peft_type: "CPT",
        class: Class::Unmergeable,
        variants: "",
        refused: "",
        load: cpt::load,
    },
    Method {
        peft_type: "DEFT",
        class: Class::Weight,
        variants: "relu, qr, para",
        refused: "",
        load: deft::load,
    },
    Method {
        peft_type: "DELORA",
        class: Class::Weight,
        variants: "",
        refused: "",
        load: delora::load,
    },
    Method {
        peft_type: "FOURIERFT",
        class: Class::Weight,
        variants: "",
        refused: "",
        load: fourierft::load,
    },
    Method {
        peft_type: "FROD",
        class: Class::Weight,
        variants: "",
        refused: "`save_projection` false for trained adapters, a basis that is stored in 16 bits, `init_weights` false for fresh ones",
        load: frod::load,
    },
    Method {
        peft_type: "GLORA",
        class: Class::Weight,
        variants: "lora, vector, constant, none",
        refused: "",
        load: glora::load,
    },
    Method {
        peft_type: "GRALORA",
        class: Class::Weight,
        variants: "hybrid_r",
        refused: "",
        load: gralora::load,
    },
    Method {
        peft_type: "HIRA",
        class: Class::Weight,
        variants: "embeddings",
        refused: "",
        load: hira::load,
    },
    Method {
        peft_type: "HRA",
        class: Class::Weight,
        variants: "apply_GS",
        refused: "`apply_GS` with an even `r` for fresh adapters",
        load: hra::load,
    },
    Method {
        peft_type: "IA3",
        class: Class::Weight,
        variants: "feedforward_modules",
        refused: "",
        load: ia3::load,
    },
    Method {
        peft_type: "LILY",
        class: Class::Unmergeable,
        variants: "stride_A",
        refused: "the head as a target",
        load: lily::load,
    },
    Method {
        peft_type: "LN_TUNING",
        class: Class::Parameter,
        variants: "",
        refused: "",
        load: ln_tuning::load,
    },
    Method {
        peft_type: "LOHA",
        class: Class::Weight,
        variants: "",
        refused: "",
        load: loha::load,
    },
    Method {
        peft_type: "LOKR",
        class: Class::Weight,
        variants: "decompose_both, decompose_factor",
        refused: "",
        load: lokr::load,
    },
    Method {
        peft_type: "LORA",
        class: Class::Weight,
        variants: "rsLoRA, DoRA, PiSSA, OLoRA, EVA, MiCA, KaSA, BD-LoRA, QALoRA, VeLoRA, MonteCLoRA, \
                   `lora_bias`, `target_parameters`, `trainable_token_indices`, `layer_replication`, LoRA-FA; aLoRA and Arrow, which aren't merged",
        refused: "`pissa_niter_k`, CorDA, LoRA-GA, LoftQ unless converted",
        load: lora::load,
    },
    Method {
        peft_type: "MISS",
        class: Class::Weight,
        variants: "mini, bat",
        refused: "",
        load: miss::load,
    },
    Method {
        peft_type: "MULTITASK_PROMPT_TUNING",
        class: Class::Unmergeable,
        variants: "one fixed task (`--task-id`)",
        refused: "initial values of another adapter, for fresh adapters",
        load: multitask_prompt_tuning::load,
    },
    Method {
        peft_type: "OFT",
        class: Class::Weight,
        variants: "exact and Cayley-Neumann, coft, block_share, embeddings",
        refused: "",
        load: oft::load,
    },
    Method {
        peft_type: "OSF",
        class: Class::Weight,
        variants: "effective_rank, rank_pattern",
        refused: "",
        load: osf::load,
    },
    Method {
        peft_type: "P_TUNING",
        class: Class::Unmergeable,
        variants: "MLP, LSTM",
        refused: "",
        load: p_tuning::load,
    },
    Method {
        peft_type: "PEANUT",
        class: Class::Weight,
        variants: "depth, act_fn",
        refused: "Transformers' rarer activations (`act_fn`)",
        load: peanut::load,
    },
    Method {
        peft_type: "POLY",
        class: Class::Weight,
        variants: "one fixed task (`--task-id`)",
        refused: "",
        load: poly::load,
    },
    Method {
        peft_type: "PREFIX_TUNING",
        class: Class::Unmergeable,
        variants: "prefix_projection",
        refused: "batches of more than one, except in float32 on a GPU; `--swap`",
        load: prefix_tuning::load,
    },
    Method {
        peft_type: "PROMPT_TUNING",
        class: Class::Unmergeable,
        variants: "",
        refused: "",
        load: prompt_tuning::load,
    },
    Method {
        peft_type: "PSOFT",
        class: Class::Weight,
        variants: "diagonal rotations, and fresh ones",
        refused: "rotations that mix singular vectors, whose signs aren't saved; `psoft_svd` lowrank, except for the identity",
        load: psoft::load,
    },
    Method {
        peft_type: "PVERA",
        class: Class::Weight,
        variants: "save_projection false",
        refused: "`sample_at_inference`, since every run would differ",
        load: vera::load_probabilistic,
    },
    Method {
        peft_type: "RANDLORA",
        class: Class::Weight,
        variants: "sparse, very_sparse, save_projection false",
        refused: "",
        load: randlora::load,
    },
    Method {
        peft_type: "ROAD",
        class: Class::Weight,
        variants: "road_1, road_2, road_4",
        refused: "",
        load: road::load,
    },
    Method {
        peft_type: "SHADOW",
        class: Class::Unmergeable,
        variants: "",
        refused: "shadow_model other than mirror; bases with experts; `shadow_hidden_size`, `shadow_intermediate_size` and \
                  `shadow_num_attention_heads` for bases other than llama and opt",
        load: shadow::load,
    },
    Method {
        peft_type: "SHIRA",
        class: Class::Weight,
        variants: "",
        refused: "`mask_type` other than random for fresh adapters",
        load: shira::load,
    },
    Method {
        peft_type: "SUPERTUNING",
        class: Class::Weight,
        variants: "r, save_precomputed_indices false",
        refused: "unsaved indices if elements have the same size",
        load: supertuning::load,
    },
    Method {
        peft_type: "TINYLORA",
        class: Class::Weight,
        variants: "weight_tying, save_projection false",
        refused: "`init_weights` false for fresh adapters",
        load: tinylora::load,
    },
    Method {
        peft_type: "TRAINABLE_TOKENS",
        class: Class::Parameter,
        variants: "",
        refused: "modules other than the token embedding and the head; a tied head that is also changed",
        load: trainable_tokens::load,
    },
    Method {
        peft_type: "UNILORA",
        class: Class::Weight,
        variants: "save_indices",
        refused: "",
        load: unilora::load,
    },
    Method {
        peft_type: "VBLORA",
        class: Class::Weight,
        variants: "save_only_topk_weights",
        refused: "equal logits between which `topk` has to decide",
        load: vblora::load,
    },
    Method {
        peft_type: "VERA",
        class: Class::Weight,
        variants: "save_projection false",
        refused: "",
        load: vera::load,
    },
    Method {
        peft_type: "WAVEFT",
        class: Class::Weight,
        variants: "",
        refused: "wavelets without coefficients in PEFT",
        load: waveft::load,
    },
    Method {
        peft_type: "XLORA",
        class: Class::Unmergeable,
        variants: "layerwise_scalings, top_k_lora, enable_softmax_topk, scaling_pass_value",
        refused: "experts with variants of LoRA; scaling_pass_value together with top_k_lora",
        load: xlora::load,
    },
];

/// The `peft_type` of each of [`METHODS`].
pub const PEFT_TYPES: [&str; METHODS.len()] = {
    let mut names = [""; METHODS.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = METHODS[index].peft_type;
        index += 1;
    }
    names
};

/// The method of an `adapter_config.json`.
///
/// # Errors
/// If its `peft_type` is missing or not supported.
pub fn method(config: &JsonObject) -> Result<&'static Method, ConfigError> {
    let supported = || PEFT_TYPES.join(", ");
    let found = config
        .optional_text("peft_type")?
        .ok_or_else(|| config.missing("peft_type", &format!("one of {}", supported())))?;
    let known = METHODS.iter().find(|method| method.peft_type == found);
    known.ok_or_else(|| ConfigError::Unsupported {
        path: config.path().to_owned(),
        key: "peft_type",
        found: found.to_owned(),
        supported: supported(),
    })
}

/// The `peft_type` of an `adapter_config.json`.
///
/// # Errors
/// If it's missing or not supported.
pub fn peft_type(config: &JsonObject) -> Result<&'static str, ConfigError> {
    Ok(method(config)?.peft_type)
}

/// Loads an adapter with its method's loader.
pub fn load(
    config: &JsonObject,
    base: &BaseModel,
    tensors: &mut AdapterTensors,
    task_id: Option<usize>,
) -> Result<Effects, AdapterError> {
    // `task_type` may have any value: only the adapter's tensors matter.
    config.optional_text("task_type")?;
    // For prompt learning, an encoder-decoder model would have 2.
    let submodules = config.optional_size("num_transformer_submodules")?;
    if submodules.unwrap_or(1) != 1 {
        let expected = "1, for a decoder";
        return Err(config.wrong("num_transformer_submodules", expected).into());
    }
    let effects = (method(config)?.load)(Loading {
        config,
        base,
        tensors,
        task_id,
    })?;
    match (effects.task, task_id) {
        (None, Some(id)) => Err(AdapterError::NoTasks {
            id,
            peft_type: peft_type(config)?,
            path: config.path().to_owned(),
        }),
        _ => Ok(effects),
    }
}

/// The folders of the experts of the adapter in `folder`. None if its configuration can't be read;
/// loading it reports that error.
pub fn expert_folders(folder: &Path) -> Vec<PathBuf> {
    let config = JsonObject::read(&folder.join("adapter_config.json"));
    let folders = config.and_then(|config| match config.optional_text("peft_type")? {
        Some("XLORA") => xlora::folders(&config),
        _ => lora::arrow_folders(&config),
    });
    folders.unwrap_or_default()
}

/// Whether the configuration at `path` names experts.
pub fn names_experts(path: &Path) -> bool {
    let config = JsonObject::read(path);
    config.is_ok_and(|config| {
        let mixes = |key: &str| config.get(key).is_some();
        mixes("arrow_config") || config.get("peft_type").is_some_and(|name| name == "XLORA")
    })
}
