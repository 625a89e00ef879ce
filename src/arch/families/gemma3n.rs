//! Gemma 3n's text models (`model_type: "gemma3n_text"`): Gemma 3 with these changes.
//!
//! - Norms multiply by their weight, without adding 1.
//! - Values have a norm, too, one without a weight. Scores aren't scaled.
//! - The last `num_kv_shared_layers` layers attend to keys and values of an earlier layer.
//! - Per-layer embeddings ([`PerLayerEmbeddings`]).
//! - Several residual streams ([`Streams`]).
//! - `activation_sparsity_pattern`: how large a part of a layer's gates is set to zero.
//!
//! Source: `modeling_gemma3n.py`, `configuration_gemma3n.py`, Hugging Face Transformers.

use serde_json::Value;

use super::llama::Differences;
use super::{DefaultTargets, Family, Shape};
use super::{gemma, gemma2, gemma3};
use crate::arch::{
    Activation, Alternation, DecoderSpec, Embedding, Linear, MOST_LAYERS, Mlp, Norm, NormKind,
    NormOver, PerLayerEmbeddings, PerLayerInput, PlainParameter, Position, Streams, read,
    shared_keys, windows,
};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "gemma3n_text",
    name: "Gemma 3n, text only",
    special: "per-layer embeddings, several residual streams, keys of other layers",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 262400, "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 35,
            "num_attention_heads": 8, "tie_word_embeddings": true}"#,
    ),
    shapes: &[Shape {
        name: "gemma-3n-e2b",
        copies: Some("google/gemma-3n-E2B"),
        parameters: 4_435_182_688,
        config: r#"{"architectures": ["Gemma3nForCausalLM"], "activation_sparsity_pattern": [0.95, 0.95,
            0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
            0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], "altup_active_idx": 0,
            "altup_correct_scale": true, "altup_num_inputs": 4, "attention_bias": false,
            "final_logit_softcapping": 30.0, "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2048,
            "hidden_size_per_layer_input": 256, "intermediate_size": 8192, "laurel_rank": 64,
            "max_position_embeddings": 32768, "model_type": "gemma3n_text",
            "num_attention_heads": 8, "num_hidden_layers": 30, "num_key_value_heads": 2,
            "num_kv_shared_layers": 10, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000.0,
            "rope_scaling": null, "rope_theta": 1000000.0, "sliding_window": 512,
            "tie_word_embeddings": true, "vocab_size": 262400,
            "vocab_size_per_layer_input": 262144}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let layers = config.size_up_to("num_hidden_layers", MOST_LAYERS)?;
    let widths = widths(config, layers)?;
    let cutoffs = cutoffs(config, layers)?;
    let differences = Differences {
        norm: NormKind::Rms,
        activation: ("hidden_activation", Activation::GeluTanh),
        key_value_heads: Some(2),
        positions: 32_768,
        ..gemma::differences()
    };
    let same_width = config.clone().with("intermediate_size", widths[0].into());
    let mut spec = gemma::decoder(&same_width, &differences)?;
    gemma2::put_norms_around(&mut spec);
    spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Head, NormKind::Rms);
    shared_keys::norm_values(&mut spec);
    spec.logit_softcap = gemma2::cap(config, "final_logit_softcapping", Some(30.0))?;

    let window = windows::size(config, Some(512))?;
    let sliding = windows::sliding(config, layers, |layer| !(layer + 1).is_multiple_of(5))?;
    windows::set(&mut spec, &sliding, window);
    let head_dim = spec.first_attention().map_or(0, |first| first.head_dim);
    let [full, local] = gemma3::rotations(config, head_dim)?;
    for (attention, &sliding) in spec.attentions_mut().zip(&sliding) {
        attention.scale = 1.0;
        let rotary = if sliding { &local } else { &full };
        attention.position = Position::Rotary(rotary.clone());
    }
    for rotary in [full, local] {
        let (positions, end) = rotary.most_positions(spec.max_position_embeddings);
        spec.max_position_embeddings = positions;
        spec.positions_end = spec.positions_end.or(end);
    }
    shared_keys::share(config, &mut spec, &sliding, 15)?;
    for (layer, &width) in spec.layers.iter_mut().zip(&widths) {
        set_width(&mut layer.mlp, width);
    }
    spec.per_layer = Some(per_layer(config, &spec)?);
    spec.streams = Some(streams(config, &spec, &cutoffs)?);
    Ok(spec)
}

/// Sets the width of a gated MLP.
pub fn set_width(mlp: &mut Mlp, width: usize) {
    if let Mlp::Gated {
        gate_proj,
        up_proj,
        down_proj,
        ..
    } = mlp
    {
        gate_proj.out_features = width;
        up_proj.out_features = width;
        down_proj.in_features = width;
    }
}

/// The per-layer embeddings of Gemma 3n and 4.
pub fn per_layer(
    config: &JsonObject,
    spec: &DecoderSpec,
) -> Result<PerLayerEmbeddings, ConfigError> {
    let width = config
        .optional_size("hidden_size_per_layer_input")?
        .unwrap_or(256);
    let tokens = config
        .optional_size("vocab_size_per_layer_input")?
        .unwrap_or(262_144);
    let (hidden, all) = (spec.hidden_size, spec.layers.len() * width);
    let model = spec.layers[0].arrangement.first_norm();
    let norm = |path: String, size| Norm::new(path, size, model.kind, model.epsilon);
    let layer = |path: &str| PerLayerInput {
        gate: Linear::new(format!("{path}.per_layer_input_gate"), width, hidden, false),
        projection: Linear::new(format!("{path}.per_layer_projection"), hidden, width, false),
        norm: norm(format!("{path}.post_per_layer_input_norm"), hidden),
    };
    Ok(PerLayerEmbeddings {
        width,
        table: Embedding::new("model.embed_tokens_per_layer", tokens, all),
        projection: Linear::new(
            "model.per_layer_model_projection".to_owned(),
            all,
            hidden,
            false,
        ),
        norm: norm("model.per_layer_projection_norm".to_owned(), width),
        activation: read::activation(config, "hidden_activation", Activation::GeluTanh)?,
        takes_virtual_tokens: true,
        layers: spec.layers.iter().map(|own| layer(&own.path)).collect(),
    })
}

/// The residual streams; `cutoffs` has one entry per layer.
fn streams(
    config: &JsonObject,
    spec: &DecoderSpec,
    cutoffs: &[f64],
) -> Result<Streams, ConfigError> {
    let count = config
        .optional_size_up_to("altup_num_inputs", 64)?
        .unwrap_or(4);
    let active = read::count(config, "altup_active_idx", 0)?;
    if active >= count {
        let expected = format!("a number below `altup_num_inputs` ({count})");
        return Err(config.wrong("altup_active_idx", &expected));
    }
    let rank = config.optional_size("laurel_rank")?.unwrap_or(64);
    let scales_output = config.flag("altup_correct_scale", true)?;
    let hidden = spec.hidden_size;
    let model = spec.layers[0].arrangement.first_norm();
    let square = |name: &str| {
        let make = |index| Linear::new(format!("model.{name}.{index}"), hidden, hidden, false);
        (0..count - 1).map(make).collect()
    };
    let layer = |path: &str, sparsity: f64| {
        let linear =
            |name: &str, out, input| Linear::new(format!("{path}.{name}"), out, input, false);
        let norm =
            |name: &str| Norm::new(format!("{path}.{name}"), hidden, model.kind, model.epsilon);
        Alternation {
            router_norm: norm("altup.router_norm"),
            router: linear("altup.modality_router", count, hidden),
            prediction: linear("altup.prediction_coefs", count * count, count),
            correction: linear("altup.correction_coefs", count, count),
            output_scale: PlainParameter::new(
                format!("{path}.altup"),
                "correct_output_scale",
                vec![hidden],
            ),
            scales_output,
            laurel_left: linear("laurel.linear_left", rank, hidden),
            laurel_right: linear("laurel.linear_right", hidden, rank),
            laurel_norm: norm("laurel.post_laurel_norm"),
            sparsity,
        }
    };
    let layers = spec.layers.iter().zip(cutoffs);
    Ok(Streams {
        count,
        active,
        projections: square("altup_projections"),
        unembed: square("altup_unembed_projections"),
        layers: layers
            .map(|(own, &sparsity)| layer(&own.path, sparsity))
            .collect(),
    })
}

/// Reads `intermediate_size`: one width, or one per layer.
fn widths(config: &JsonObject, layers: usize) -> Result<Vec<usize>, ConfigError> {
    const KEY: &str = "intermediate_size";
    let Some(Value::Array(list)) = config.get(KEY) else {
        return Ok(vec![config.size(KEY)?; layers]);
    };
    let width = |value: &Value| {
        let width = value.as_u64().filter(|width| (1..1 << 32).contains(width));
        width.map(|width| width as usize)
    };
    let widths: Option<Vec<usize>> = list.iter().map(width).collect();
    widths
        .filter(|widths| widths.len() == layers)
        .ok_or_else(|| {
            config.wrong(
                KEY,
                &format!("a width, or one for each of the {layers} layers"),
            )
        })
}

/// Reads `activation_sparsity_pattern`: by default 0.95 in the first ten layers, if there are more.
fn cutoffs(config: &JsonObject, layers: usize) -> Result<Vec<f64>, ConfigError> {
    const KEY: &str = "activation_sparsity_pattern";
    let list = match config.get(KEY) {
        None => {
            let sparse = if layers > 10 { 10 } else { 0 };
            let default = |layer| if layer < sparse { 0.95 } else { 0.0 };
            return Ok((0..layers).map(default).collect());
        }
        Some(Value::Array(list)) => list.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>(),
        Some(_) => None,
    };
    list.filter(|list| list.len() == layers && list.iter().all(|part| (0.0..1.0).contains(part)))
        .ok_or_else(|| {
            let expected = format!("a number from 0 up to 1 for each of the {layers} layers");
            config.wrong(KEY, &expected)
        })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    #[test]
    fn widths_and_cutoffs_are_read_for_each_layer() {
        let read = |config: Value| JsonObject::of(Path::new("x"), config);
        let one = read(json!({"intermediate_size": 8}));
        assert_eq!(widths(&one, 3).unwrap(), [8, 8, 8]);
        let each = read(json!({"intermediate_size": [8, 4]}));
        assert_eq!(widths(&each, 2).unwrap(), [8, 4]);
        assert!(widths(&each, 3).is_err());
        assert_eq!(cutoffs(&one, 10).unwrap(), [0.0; 10]);
        assert_eq!(cutoffs(&one, 11).unwrap()[9..], [0.95, 0.0]);
        assert!(cutoffs(&read(json!({"activation_sparsity_pattern": [0.5, 1.0]})), 2).is_err());
    }
}
