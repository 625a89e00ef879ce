//! Nemotron-H (`model_type: "nemotron_h"`): each layer is a single block, Mamba-2's mixer, attention,
//! an MLP or experts.
//!
//! - `layers_block_type` or `layer_types` says `linear_attention` (`mamba`), `full_attention`
//!   (`attention`), `mlp` or `moe` for each layer; older configurations have the letters `M`, `*`,
//!   `-` and `E` in `hybrid_override_pattern`. Their number is that of the layers.
//! - Attention has no positions. MLPs have no gate and the activation `relu2`.
//! - With `moe_latent_size`, experts have that width, and a projection before and after them.
//! - In prompts, steps are at least `time_step_min`.
//! - Checkpoints have `backbone` where the model has `model`.
//!
//! Source: `modeling_nemotron_h.py`, Hugging Face Transformers.

use super::{DefaultTargets, Family, Shape};
use crate::arch::experts::describe::{
    CorrectedDefaults, ExpertForm, Experts, Routing, Shared, SharedProjections, sizes,
};
use crate::arch::heads::Heads;
use crate::arch::mamba::{GateOrder, MambaSizes};
use crate::arch::{
    Activation, Arrangement, Attention, DecoderSpec, Embedding, Layer, Linear, MOST_LAYERS, Mlp,
    Norm, NormKind, Projections, Recurrence, layer_kinds, read,
};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "nemotron_h",
    name: "Nemotron-H, Nemotron 3",
    special: "a block for each layer: Mamba-2's mixer, attention without positions, an MLP or experts",
    refused: "LoRA and its relatives on the mixers' `out_proj`, as in PEFT",
    targets: DefaultTargets {
        query_value: &["q_proj", "k_proj", "v_proj", "o_proj"],
        ..DefaultTargets::NONE
    },
    nested_defaults: None,
    shapes: &[Shape {
        name: "nemotron-h-8b",
        copies: Some("nvidia/Nemotron-H-8B-Base-8K"),
        parameters: 8_100_852_736,
        config: r#"{"architectures": ["NemotronHForCausalLM"], "attention_bias": false, "chunk_size": 128,
            "conv_kernel": 4, "head_dim": 128, "hidden_size": 4096,
            "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
            "intermediate_size": 21504, "layer_norm_epsilon": 1e-05, "mamba_head_dim": 64,
            "mamba_hidden_act": "silu", "mamba_num_heads": 128, "mamba_proj_bias": false,
            "max_position_embeddings": 8192, "mlp_bias": false, "mlp_hidden_act": "relu2",
            "model_type": "nemotron_h", "n_groups": 8, "num_attention_heads": 32,
            "num_hidden_layers": 52, "num_key_value_heads": 8, "ssm_state_size": 128,
            "tie_word_embeddings": false, "time_step_min": 0.001, "use_bias": false,
            "use_conv_bias": true, "vocab_size": 131072}"#,
    }],
    read: spec,
};

/// Transformers' defaults of the sizes.
const DEFAULTS: &str = r#"{"vocab_size": 131072, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 21504}"#;

/// What a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mamba,
    Attention,
    Mlp,
    Experts,
}

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let config = &read::with_defaults(config.clone(), DEFAULTS);
    let hidden_size = config.size("hidden_size")?;
    let epsilon = read::epsilon(config, "layer_norm_epsilon", 1e-5)?;
    let norm = |path: String| Norm::new(path, hidden_size, NormKind::Rms, epsilon);
    if config.get("sliding_window").is_some() {
        let reason = "Transformers' Nemotron-H has no windows";
        return Err(config.refused("sliding_window", reason));
    }
    let blocks = Blocks {
        config,
        hidden_size,
        activation: read::activation(config, "mlp_hidden_act", Activation::Relu2)?,
        mamba: mamba(config, epsilon),
        least_step: config.optional_number("time_step_min")?.unwrap_or(0.001),
    };
    let layers = kinds(config)?.into_iter().enumerate().map(|(index, kind)| {
        let path = format!("model.layers.{index}");
        blocks.layer(kind, path.clone(), norm(format!("{path}.norm")))
    });
    let layers = layers.collect::<Result<Vec<Layer>, ConfigError>>()?;
    let vocab_size = config.size("vocab_size")?;
    let positions = config.optional_size("max_position_embeddings")?;
    let embedding = Embedding::new("model.embeddings", vocab_size, hidden_size);
    let lm_head = read::head(config, false, &embedding, "lm_head", false)?;
    let mut spec = DecoderSpec {
        base_prefix: "model.",
        final_norm: Some(norm("model.norm_f".to_owned())),
        ..DecoderSpec::plain(
            config,
            positions.unwrap_or(4096),
            embedding,
            layers,
            lm_head,
        )?
    };
    for (_, source) in spec.names_mut() {
        if let Some(rest) = source.strip_prefix("model.") {
            *source = format!("backbone.{rest}");
        }
    }
    spec.other_names = &[("backbone.", "model.")];
    Ok(spec)
}

/// The kind of each layer.
fn kinds(config: &JsonObject) -> Result<Vec<Kind>, ConfigError> {
    const NAMES: &[(&str, Kind)] = &[
        ("linear_attention", Kind::Mamba),
        ("full_attention", Kind::Attention),
        ("mlp", Kind::Mlp),
        ("moe", Kind::Experts),
        ("mamba", Kind::Mamba),
        ("attention", Kind::Attention),
    ];
    let key = read::either(config, ["layers_block_type", "layer_types"]);
    if let Some(names) = config.optional_texts(key)? {
        let found = layer_kinds::read(config, key, names.len(), NAMES)?;
        return Ok(found.unwrap_or_default());
    }
    let key = "hybrid_override_pattern";
    let Some(pattern) = config.optional_text(key)? else {
        return Ok(vec![Kind::Mamba, Kind::Experts, Kind::Attention, Kind::Mlp]);
    };
    let kind = |letter: char| match letter {
        'M' => Some(Kind::Mamba),
        '*' => Some(Kind::Attention),
        '-' => Some(Kind::Mlp),
        'E' => Some(Kind::Experts),
        _ => None,
    };
    let found: Option<Vec<Kind>> = pattern.chars().map(kind).collect();
    let found = found.filter(|found| (1..=MOST_LAYERS).contains(&found.len()));
    found.ok_or_else(|| config.wrong(key, "a letter `M`, `*`, `-` or `E` for each layer"))
}

/// The keys of the mixers, which older configurations name differently.
fn mamba(config: &JsonObject, epsilon: f64) -> MambaSizes {
    let key = |own, older| read::either(config, [older, own]);
    MambaSizes {
        heads: ("mamba_num_heads", 128),
        head_width: ("mamba_head_dim", Some(64)),
        groups: (key("n_groups", "mamba_n_groups"), 8),
        state: ("ssm_state_size", 128),
        kernel: (key("conv_kernel", "mamba_d_conv"), 4),
        inner: None,
        conv_bias: (key("use_conv_bias", "mamba_conv_bias"), true),
        bias: [("use_bias", false); 2],
        activation: "mamba_hidden_act",
        gate: GateOrder::First,
        epsilon,
        // Transformers ignores this key, and limits steps by `time_step_min`.
        limit: "",
    }
}

/// What all layers are made from.
struct Blocks<'a> {
    config: &'a JsonObject,
    hidden_size: usize,
    activation: Activation,
    mamba: MambaSizes,
    least_step: f64,
}

impl Blocks<'_> {
    fn layer(&self, kind: Kind, path: String, norm: Norm) -> Result<Layer, ConfigError> {
        let mixer = format!("{path}.mixer");
        let arrangement = match kind {
            Kind::Mamba | Kind::Attention => Arrangement::mixer_alone(norm),
            Kind::Mlp | Kind::Experts => Arrangement::mlp_alone(norm),
        };
        let mut layer = Layer {
            attention: None,
            recurrence: None,
            mlp: Mlp::Absent,
            arrangement,
            residual_scale: None,
            path: path.clone(),
        };
        match kind {
            Kind::Mamba => {
                let mut own = self.mamba.read(self.config, &mixer, self.hidden_size)?;
                own.step_limit =
                    (self.least_step > 0.0).then_some([self.least_step, f64::INFINITY]);
                layer.recurrence = Some(Recurrence::Mamba2(Box::new(own)));
            }
            Kind::Attention => layer.attention = Some(self.attention(&mixer)?),
            Kind::Mlp => layer.mlp = self.mlp(&mixer)?,
            Kind::Experts => layer.mlp = self.experts(&path)?,
        }
        Ok(layer)
    }

    fn attention(&self, path: &str) -> Result<Attention, ConfigError> {
        let heads = Heads::grouped(self.config, self.hidden_size, None, None)?;
        let (queries, keys) = (heads.queries * heads.width, heads.keys * heads.width);
        let linear =
            |name: &str, out, input| Linear::new(format!("{path}.{name}"), out, input, false);
        let projections = Projections::Separate {
            query: linear("q_proj", queries, self.hidden_size),
            key: linear("k_proj", keys, self.hidden_size),
            value: linear("v_proj", keys, self.hidden_size),
        };
        let output = linear("o_proj", self.hidden_size, queries);
        Ok(Attention::new(heads, projections, output))
    }

    fn mlp(&self, path: &str) -> Result<Mlp, ConfigError> {
        let size = self.config.size("intermediate_size")?;
        let bias = self.config.flag("mlp_bias", false)?;
        let linear = |name: &str, out, input| {
            Linear::new(format!("{path}.{name}"), out, input, bias).with_bias_key("mlp_bias")
        };
        Ok(Mlp::Plain {
            fc1: linear("up_proj", size, self.hidden_size),
            fc2: linear("down_proj", self.hidden_size, size),
            activation: self.activation,
        })
    }

    fn experts(&self, layer: &str) -> Result<Mlp, ConfigError> {
        let config = self.config;
        read::must_be_off(config, "mlp_bias", "experts have none here")?;
        let count = read::either(config, ["n_routed_experts", "num_local_experts"]);
        let found = sizes(config, [(count, Some(8)), ("num_experts_per_tok", Some(2))])?;
        let defaults = CorrectedDefaults {
            groups: [1, 1],
            normalised: true,
            scale: 1.0,
        };
        let size = |key| Ok::<_, ConfigError>(config.optional_size(key)?.unwrap_or(7688));
        let shared = size("moe_shared_expert_intermediate_size")?;
        let experts = Experts {
            block: ["mixer", "mixer"],
            form: ExpertForm::Plain,
            around: config
                .optional_size("moe_latent_size")?
                .map(|width| (width, ["fc1_latent_proj", "fc2_latent_proj"])),
            shared: Some(Shared {
                projections: SharedProjections::Plain,
                ..Shared::gated("shared_experts", shared)
            }),
            ..Experts::new(
                found,
                size("moe_intermediate_size")?,
                Routing::sigmoid_with_correction(config, found, defaults)?,
            )
        };
        Ok(experts.of_layer(layer, self.hidden_size, self.activation))
    }
}
