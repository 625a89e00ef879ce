//! Gemma 4's text models (`model_type: "gemma4_text"`): Gemma 3 with these changes.
//!
//! - Norms multiply by their weight, without adding 1.
//! - Values have a norm, too, one without a weight. Scores aren't scaled.
//! - Layers with full attention have heads of another width, and may have another number of key
//!   heads: `per_layer_config`, or `global_head_dim` and `num_global_key_value_heads`. With
//!   `attention_k_eq_v`, their values are the key projection's outputs, before norm and rotation.
//! - The rotation of full layers is `proportional`: only the fastest pairs turn.
//! - The last `num_kv_shared_layers` layers attend to keys and values of an earlier layer; with
//!   `use_double_wide_mlp` their MLPs are twice as wide.
//! - Per-layer embeddings, unless `hidden_size_per_layer_input` is 0.
//! - With `enable_moe_block`, experts beside the MLP; both and the router have inputs and norms of
//!   their own ([`Apart`]).
//! - A layer's output is multiplied by its `layer_scalar`.
//!
//! Source: `modeling_gemma4.py`, `configuration_gemma4.py`, Hugging Face Transformers.

use serde_json::Value;

use super::llama::Differences;
use super::{DefaultTargets, Family, Shape};
use super::{gemma, gemma2, gemma3n};
use crate::arch::experts::describe::{self, Experts, Routing};
use crate::arch::heads::Heads;
use crate::arch::rope::{self, RopeDefaults};
use crate::arch::{
    Activation, Apart, Attention, DecoderSpec, Linear, Mlp, Norm, NormKind, NormOver,
    PerLayerEmbeddings, PlainParameter, Position, Projections, RotarySpec, RouterModule,
    SharedExpert, read, shared_keys, windows,
};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "gemma4_text",
    name: "Gemma 4, text only",
    special: "two kinds of heads, per-layer embeddings, keys of other layers",
    refused: "`use_bidirectional_attention: all`; prompt learning in front of per-layer embeddings",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 262144, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30,
            "num_attention_heads": 8, "tie_word_embeddings": true}"#,
    ),
    shapes: &[Shape {
        name: "gemma-4-e2b",
        copies: Some("google/gemma-4-E2B"),
        parameters: 4_628_569_379,
        config: r#"{"architectures": ["Gemma4ForCausalLM"], "attention_bias": false,
            "attention_k_eq_v": false, "enable_moe_block": false, "final_logit_softcapping": 30.0,
            "global_head_dim": 512, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 1536, "hidden_size_per_layer_input": 256, "intermediate_size": 6144,
            "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention",
            "sliding_attention", "full_attention", "sliding_attention", "sliding_attention",
            "sliding_attention", "sliding_attention", "full_attention", "sliding_attention",
            "sliding_attention", "sliding_attention", "sliding_attention", "full_attention",
            "sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention",
            "full_attention", "sliding_attention", "sliding_attention", "sliding_attention",
            "sliding_attention", "full_attention", "sliding_attention", "sliding_attention",
            "sliding_attention", "sliding_attention", "full_attention", "sliding_attention",
            "sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "max_position_embeddings": 131072, "model_type": "gemma4_text",
            "num_attention_heads": 8, "num_hidden_layers": 35, "num_key_value_heads": 1,
            "num_kv_shared_layers": 20, "rms_norm_eps": 1e-06, "rope_parameters": {
            "full_attention": { "partial_rotary_factor": 0.25, "rope_theta": 1000000.0,
            "rope_type": "proportional" }, "sliding_attention": { "rope_theta": 10000.0,
            "rope_type": "default" } }, "sliding_window": 512, "tie_word_embeddings": true,
            "use_double_wide_mlp": true, "vocab_size": 262144,
            "vocab_size_per_layer_input": 262144}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    const BOTH_WAYS: &str = "use_bidirectional_attention";
    let reason = "only causal attention generates text";
    let config = &match config.get(BOTH_WAYS).and_then(Value::as_str) {
        Some("all") => return Err(config.refused(BOTH_WAYS, reason)),
        // Prompts of text alone are causal.
        Some("vision") => config.clone().with(BOTH_WAYS, false.into()),
        _ => config.clone(),
    };
    let differences = Differences {
        norm: NormKind::Rms,
        activation: ("hidden_activation", Activation::GeluTanh),
        key_value_heads: Some(4),
        positions: 131_072,
        ..gemma::differences()
    };
    // Rotations are read below, by type of layer; older keys for all layers don't count.
    let without = |config: JsonObject, key: &str| config.with(key, Value::Null);
    let older = ["rope_parameters", "rope_scaling", "partial_rotary_factor"];
    let unturned = older.into_iter().fold(config.clone(), without);
    let mut spec = gemma::decoder(&unturned, &differences)?;
    gemma2::put_norms_around(&mut spec);
    spec.logit_softcap = gemma2::cap(config, "final_logit_softcapping", None)?;

    let layers = spec.layers.len();
    let window = windows::size(config, Some(512))?;
    let mut sliding = windows::sliding(config, layers, |layer| !(layer + 1).is_multiple_of(6))?;
    // Transformers makes the last layer a full one, whatever the key says.
    sliding[layers - 1] = false;
    windows::set(&mut spec, &sliding, window);
    set_heads(config, &mut spec, &sliding)?;
    spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Head, NormKind::Rms);
    shared_keys::norm_values(&mut spec);
    set_rotations(config, &mut spec, &sliding)?;
    for attention in spec.attentions_mut() {
        attention.scale = 1.0;
    }
    shared_keys::share(config, &mut spec, &sliding, 0)?;
    widen(config, &mut spec)?;
    if read::count(config, "hidden_size_per_layer_input", 256)? > 0 {
        let per_layer = gemma3n::per_layer(config, &spec)?;
        if per_layer.table.num_embeddings < spec.vocab_size {
            let expected = format!("at least `vocab_size` ({})", spec.vocab_size);
            return Err(config.wrong("vocab_size_per_layer_input", &expected));
        }
        spec.per_layer = Some(PerLayerEmbeddings {
            takes_virtual_tokens: false,
            ..per_layer
        });
    }
    if config.flag("enable_moe_block", false)? {
        add_experts(config, &mut spec)?;
    }
    let scale = |path: &str| PlainParameter::new(path.to_owned(), "layer_scalar", vec![1]);
    spec.layer_scales = spec.layers.iter().map(|layer| scale(&layer.path)).collect();
    Ok(spec)
}

/// Doubles the width of the MLPs of layers with keys of another layer, with `use_double_wide_mlp`.
fn widen(config: &JsonObject, spec: &mut DecoderSpec) -> Result<(), ConfigError> {
    if !config.flag("use_double_wide_mlp", false)? {
        return Ok(());
    }
    for layer in &mut spec.layers {
        let attention = layer.attention.as_ref();
        if attention.is_some_and(|attention| attention.keys_of_layer().is_some())
            && let Mlp::Gated { gate_proj, .. } = &layer.mlp
        {
            let width = 2 * gate_proj.out_features;
            gemma3n::set_width(&mut layer.mlp, width);
        }
    }
    Ok(())
}

/// Puts experts beside the MLP of every layer.
fn add_experts(config: &JsonObject, spec: &mut DecoderSpec) -> Result<(), ConfigError> {
    let keys = [("num_experts", None), ("top_k_experts", None)];
    let sizes = describe::sizes(config, keys)?;
    let size = config.size("moe_intermediate_size")?;
    let hidden = spec.hidden_size;
    for layer in &mut spec.layers {
        let model = layer.arrangement.first_norm();
        let at = |name: &str| format!("{}.{name}", layer.path);
        let norm = |name: &str| Norm::new(at(name), hidden, model.kind, model.epsilon);
        let Mlp::Gated { activation, .. } = layer.mlp else {
            continue;
        };
        let dense = std::mem::replace(&mut layer.mlp, Mlp::Absent);
        let routing = Routing {
            held_as: RouterModule::Linear,
            ..Routing::softmax(true)
        };
        let experts = Experts::new(sizes, size, routing);
        let mut mixture = experts.mixture(&layer.path, hidden, activation);
        mixture.path = at("experts");
        mixture.source.clone_from(&mixture.path);
        mixture.router.linear.rename(&layer.path, "router.proj");
        mixture.router.expert_scale = Some(PlainParameter::new(
            at("router"),
            "per_expert_scale",
            vec![sizes[0]],
        ));
        mixture.shared = Some(SharedExpert {
            mlp: Box::new(dense),
            gate: None,
        });
        mixture.apart = Some(Apart {
            dense_after: norm("post_feedforward_layernorm_1"),
            experts_before: norm("pre_feedforward_layernorm_2"),
            experts_after: norm("post_feedforward_layernorm_2"),
            router_norm: Norm {
                kind: NormKind::RmsWithoutParameters,
                ..norm("router.norm")
            },
            router_scale: PlainParameter::new(at("router"), "scale", vec![hidden]),
        });
        layer.mlp = Mlp::Experts(Box::new(mixture));
    }
    Ok(())
}

/// Sets number and width of every layer's heads.
fn set_heads(
    config: &JsonObject,
    spec: &mut DecoderSpec,
    sliding: &[bool],
) -> Result<(), ConfigError> {
    let same = config.flag("attention_k_eq_v", false)?;
    let hidden = spec.hidden_size;
    let of_layers = per_layer_heads(config, spec.layers.len())?;
    let global_width = config.optional_size("global_head_dim")?.unwrap_or(512);
    let global_keys = config.optional_size("num_global_key_value_heads")?;
    for (index, (layer, &sliding)) in spec.layers.iter_mut().zip(sliding).enumerate() {
        let Some(attention) = &mut layer.attention else {
            continue;
        };
        let (mut keys, mut width) = (attention.num_key_value_heads, attention.head_dim);
        match &of_layers {
            Some(own) => {
                keys = own[index].0.unwrap_or(keys);
                width = own[index].1.unwrap_or(width);
            }
            None if !sliding => {
                keys = global_keys.filter(|_| same).unwrap_or(keys);
                width = global_width;
            }
            None => {}
        }
        let queries = attention.num_attention_heads;
        if !queries.is_multiple_of(keys) || width % 2 != 0 || width > 1 << 16 {
            let key = match &of_layers {
                Some(_) => "per_layer_config",
                None => "num_global_key_value_heads",
            };
            let expected = format!(
                "for layer {index}, a number of key heads that divides {queries}, and an even width"
            );
            return Err(config.wrong(key, &expected));
        }
        let heads = Heads {
            queries,
            keys,
            width,
        };
        let Projections::Separate { query, key, value } = &attention.projections else {
            continue;
        };
        let sized = |linear: &Linear, heads: usize| Linear {
            out_features: heads * width,
            ..linear.clone()
        };
        let (query, key) = (sized(query, queries), sized(key, keys));
        let projections = match same && !sliding {
            true => Projections::KeyIsValue { query, key },
            false => Projections::Separate {
                value: sized(value, keys),
                query,
                key,
            },
        };
        let output = Linear {
            in_features: queries * width,
            out_features: hidden,
            ..attention.o_proj.clone()
        };
        *attention = Attention {
            window: attention.window,
            ..Attention::new(heads, projections, output)
        };
    }
    Ok(())
}

/// Number of a layer's key heads, and their width, if `per_layer_config` has them.
type OwnHeads = (Option<usize>, Option<usize>);

/// Reads `per_layer_config`: for each layer, its number of key heads and their width, if the key
/// says so. `None` without the key.
fn per_layer_heads(
    config: &JsonObject,
    layers: usize,
) -> Result<Option<Vec<OwnHeads>>, ConfigError> {
    const KEY: &str = "per_layer_config";
    let Some(own) = config.optional_object(KEY)? else {
        return Ok(None);
    };
    let mut heads = vec![(None, None); layers];
    let entries = own.json().as_object().into_iter().flatten();
    for (name, _) in entries {
        let place = name.parse().ok().filter(|&index: &usize| index < layers);
        let (Some(index), Some(layer)) = (place, own.optional_object(name)?) else {
            let expected = format!("an object by layer, whose keys are numbers below {layers}");
            return Err(config.wrong(KEY, &expected));
        };
        let keys = layer.json().as_object().into_iter().flatten();
        for (key, _) in keys {
            if !["head_dim", "num_key_value_heads"].contains(&key.as_str()) {
                return Err(config.wrong(KEY, "`head_dim` and `num_key_value_heads` by layer"));
            }
        }
        heads[index] = (
            layer.optional_size("num_key_value_heads")?,
            layer.optional_size("head_dim")?,
        );
    }
    Ok(Some(heads))
}

/// Sets the rotary embedding of every layer.
fn set_rotations(
    config: &JsonObject,
    spec: &mut DecoderSpec,
    sliding: &[bool],
) -> Result<(), ConfigError> {
    let parameters = config.optional_object("rope_parameters")?;
    let entry = |name: &str, default: &str| match &parameters {
        None => {
            let default = serde_json::from_str(default).unwrap_or_default();
            Ok(JsonObject::of(config.path(), default))
        }
        Some(parameters) => match parameters.optional_object(name)? {
            Some(entry) => Ok(entry),
            None => Err(parameters.missing(name, "the rotary embedding of these layers")),
        },
    };
    let local = entry(
        "sliding_attention",
        r#"{"rope_type": "default", "rope_theta": 1e4}"#,
    )?;
    let full = entry(
        "full_attention",
        r#"{"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}"#,
    )?;
    let mut made: Vec<(bool, usize, RotarySpec)> = Vec::new();
    let (mut positions, mut end) = (spec.max_position_embeddings, spec.positions_end);
    for (attention, &sliding) in spec.attentions_mut().zip(sliding) {
        let width = attention.head_dim;
        let known = made
            .iter()
            .find(|(kind, of, _)| (*kind, *of) == (sliding, width));
        let rotary = match known {
            Some((_, _, rotary)) => rotary.clone(),
            None => {
                let parameters = if sliding { &local } else { &full };
                let rotary = rotation(config, parameters, width)?;
                made.push((sliding, width, rotary.clone()));
                rotary
            }
        };
        let (most, reason) = rotary.most_positions(positions);
        (positions, end) = (most, end.or(reason));
        attention.position = Position::Rotary(rotary);
    }
    (spec.max_position_embeddings, spec.positions_end) = (positions, end);
    Ok(())
}

/// The rotary embedding with `parameters`, for heads of `width`.
fn rotation(
    config: &JsonObject,
    parameters: &JsonObject,
    width: usize,
) -> Result<RotarySpec, ConfigError> {
    let theta = read::positive(parameters, "rope_theta")?
        .ok_or_else(|| parameters.missing("rope_theta", "a positive number"))?;
    match parameters.optional_text("rope_type")? {
        Some("proportional") => rope::proportional(parameters, theta, width),
        // Whole heads turn, whatever the fraction.
        None | Some("default") => {
            let defaults = RopeDefaults::default();
            let whole = parameters.clone().with("partial_rotary_factor", 1.into());
            rope::with_parameters(config, Some(whole), width, &defaults)
        }
        Some(_) => {
            let defaults = RopeDefaults::default();
            rope::with_parameters(config, Some(parameters.clone()), width, &defaults)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn read(more: Value) -> Result<DecoderSpec, ConfigError> {
        let mut config = json!({
            "model_type": "gemma4_text", "hidden_size": 32, "intermediate_size": 40, "vocab_size": 96,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        spec(&JsonObject::of(Path::new("config.json"), config))
    }

    fn heads(spec: &DecoderSpec) -> Vec<(usize, usize)> {
        let own = |attention: &Attention| (attention.num_key_value_heads, attention.head_dim);
        let layers = spec.layers.iter();
        layers
            .flat_map(|layer| layer.attention.as_ref().map(own))
            .collect()
    }

    #[test]
    fn full_layers_have_heads_of_their_own_in_the_new_and_the_old_form() {
        let old = read(
            json!({"global_head_dim": 16, "num_global_key_value_heads": 1, "attention_k_eq_v": true}),
        );
        let of_layer = json!({"head_dim": 16, "num_key_value_heads": 1});
        let new = read(
            json!({"per_layer_config": {"1": of_layer, "3": of_layer}, "attention_k_eq_v": true}),
        );
        let expected = [(2, 8), (1, 16), (2, 8), (1, 16)];
        assert_eq!(heads(&old.unwrap()), expected);
        assert_eq!(heads(&new.unwrap()), expected);
        // Another number of key heads belongs to `attention_k_eq_v`.
        let wide = read(json!({"num_global_key_value_heads": 1})).unwrap();
        assert_eq!(heads(&wide)[1], (2, 512));
    }

    #[test]
    fn the_last_layers_take_keys_of_the_last_earlier_layer_of_their_type() {
        let spec = read(json!({"num_kv_shared_layers": 2, "use_double_wide_mlp": true})).unwrap();
        let of: Vec<Option<usize>> = spec
            .layers
            .iter()
            .map(|layer| layer.attention.as_ref().unwrap().keys_of_layer())
            .collect();
        assert_eq!(of, [None, None, Some(0), Some(1)]);
        let width = |layer: usize| match &spec.layers[layer].mlp {
            Mlp::Gated { gate_proj, .. } => gate_proj.out_features,
            _ => 0,
        };
        assert_eq!((width(1), width(2)), (40, 80));
        for wrong in [3, 5] {
            assert!(
                read(json!({"num_kv_shared_layers": wrong})).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn only_the_fastest_pairs_of_full_layers_turn() {
        let spec = read(json!({"global_head_dim": 16})).unwrap();
        let Position::Rotary(rotary) = &spec.layers[1].attention.as_ref().unwrap().position else {
            panic!("no rotary positions");
        };
        assert_eq!(rotary.inv_freq.len(), 8);
        assert_eq!(rotary.inv_freq[2..], [0.0; 6]);
        assert!(rotary.inv_freq[1] > 0.0);
    }

    #[test]
    fn other_options_are_refused() {
        for wrong in [
            json!({"use_bidirectional_attention": "all"}),
            json!({"enable_moe_block": true}),
            json!({"enable_moe_block": true, "num_experts": 2, "top_k_experts": 3, "moe_intermediate_size": 8}),
            json!({"per_layer_config": {"1": {"sliding_window": 4}}}),
            json!({"per_layer_config": {"7": {"head_dim": 4}}}),
            json!({"rope_parameters": {"rope_theta": 1e4}}),
            json!({"vocab_size_per_layer_input": 90}),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
        assert!(read(json!({"use_bidirectional_attention": "vision"})).is_ok());
    }
}
