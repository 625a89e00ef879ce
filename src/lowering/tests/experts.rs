//! Tests of fusing experts.

use super::*;
use crate::quantize::Accuracy;

#[test]
fn experts_are_one_node_where_their_weights_are_stacked() {
    for (model, normalised) in [("mixtral", 1), ("qwen3-moe", 1), ("olmoe", 0)] {
        let folder = tempfile::tempdir().unwrap();
        let all = prepare(model, "lora", Dtype::Float32, folder.path());
        for variant in &all {
            let in_place = rewritten(variant, WeightsMode::InPlace).0.step;
            let layers = count(&in_place, "TopK");
            assert_eq!((count(&in_place, "MoE"), layers > 1), (0, true));
            let mapped = rewritten(variant, WeightsMode::Mapped).0;
            for graph in [Some(&mapped.step), mapped.prompt.as_ref()]
                .into_iter()
                .flatten()
            {
                let name = variant.manifest.variant.name();
                assert_eq!(count(graph, "MoE"), layers, "{model} {name}");
                assert_eq!(count(graph, "ScatterND"), 0, "{model} {name}");
            }
            let node = &mapped.step.graph.as_ref().unwrap().node;
            let node = node.iter().find(|node| node.op_type == "MoE").unwrap();
            let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name).unwrap().i;
            assert_eq!(
                attribute("normalize_routing_weights"),
                normalised,
                "{model}"
            );
        }
    }
}

#[test]
fn other_routers_hand_over_their_weights_and_other_experts_say_why_they_stay() {
    let weighs = "ONNX Runtime's operator for experts weighs their outputs, not their inputs";
    let fused = "their gate and up projections are one matrix";
    // The number of layers with experts, and why they stay as prepared.
    for (model, layers, left) in [
        ("dots1", 1, None),
        ("glm4-moe", 1, None),
        ("ernie4-5-moe", 1, None),
        ("minimax-m2", 2, None),
        ("phimoe", 2, None),
        ("granitemoe", 2, None),
        ("gpt-oss", 2, Some(fused)),
        ("llama4", 1, Some(weighs)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let all = prepare(model, "lora", Dtype::Float32, folder.path());
        let lowered = rewritten(&all[0], WeightsMode::Mapped).0;
        let expected = if left.is_none() { layers } else { 0 };
        assert_eq!(count(&lowered.step, "MoE"), expected, "{model}");
        let reported = lowered.not_lowered.iter();
        let reasons: Vec<&str> = reported
            .filter(|one| one.role == "experts")
            .map(|one| one.reason.as_str())
            .collect();
        assert_eq!(
            reasons,
            vec![left.unwrap_or(""); layers - expected],
            "{model}"
        );
    }
}

#[test]
fn adapted_experts_are_not_fused_and_merged_ones_are() {
    // In the last case, one of the two layers is adapted.
    for (model, case, left) in [
        ("mixtral", "lora-experts", 0),
        ("mixtral", "lora-experts-down", 0),
        ("qwen3-moe", "lora-experts-up", 1),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for variant in &prepare(model, case, Dtype::Float32, folder.path()) {
            let lowered = rewritten(variant, WeightsMode::Mapped).0;
            let step = &lowered.step;
            let expected = match variant.manifest.variant {
                Variant::Unmerged => left,
                Variant::Base | Variant::Merged | Variant::Exported => 2,
            };
            let name = variant.manifest.variant.name();
            assert_eq!(count(step, "MoE"), expected, "{model}/{case} {name}");
            let reported = lowered.not_lowered.iter();
            let reported = reported.filter(|one| one.role == "experts");
            let reasons: Vec<&str> = reported.map(|one| one.reason.as_str()).collect();
            let between = "an adapter changes them";
            assert_eq!(
                reasons,
                vec![between; 2 - expected],
                "{model}/{case} {name}"
            );
            assert_eq!(
                count(step, "ScatterND") > 0,
                expected < 2,
                "{model}/{case} {name}"
            );
        }
    }
}

#[test]
fn quantized_experts_are_one_node_where_it_computes_the_same() {
    let precision =
        |quantization| Precision::new(Dtype::Float32, false).with_quantization(Some(quantization));
    let level = |format, accuracy| Quantization {
        accuracy,
        ..Quantization::uniform(format)
    };
    for (model, quantization, expected) in [
        ("olmoe-wide", Quantization::uniform(Format::Int4Blocks32), 1),
        (
            "olmoe-wide",
            level(Format::Int4Blocks32, Accuracy::Float32),
            1,
        ),
        ("olmoe-wide", Quantization::uniform(Format::Int8Blocks32), 1),
        // With 8-bit weights, the node always rounds its inputs to 8 bits.
        (
            "olmoe-wide",
            level(Format::Int8Blocks32, Accuracy::Float32),
            0,
        ),
        ("olmoe-wide", Quantization::uniform(Format::Nf4), 0),
        // One block per row, and less than one.
        ("olmoe", Quantization::uniform(Format::Int4Blocks32), 0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let case = match model {
            "olmoe" => "lora-experts",
            _ => "lora-experts-down",
        };
        let all = prepare_as(model, case, precision(quantization), folder.path());
        for variant in &all {
            let expected = match variant.manifest.variant {
                Variant::Unmerged => 0,
                Variant::Base | Variant::Merged | Variant::Exported => expected,
            };
            for weights in [WeightsMode::InPlace, WeightsMode::Mapped] {
                let step = rewritten(variant, weights).0.step;
                let name = variant.manifest.variant.name();
                assert_eq!(
                    count(&step, "QMoE"),
                    expected,
                    "{model} {name} {quantization:?}"
                );
                assert_eq!(
                    count(&step, "ScatterND") > 0,
                    expected == 0,
                    "{model} {name}"
                );
            }
        }
        let mut on_gpu = target(WeightsMode::InPlace);
        on_gpu.provider = Provider::Cuda(0);
        assert_eq!(count(&rewritten_for(&all[0], on_gpu).0.step, "QMoE"), 0);
    }
}

#[test]
fn rows_of_gate_and_up_alternate() {
    let folder = tempfile::tempdir().unwrap();
    let base = &prepare("mixtral", "lora", Dtype::BFloat16, folder.path())[0];
    let (lowered, _) = rewritten(base, WeightsMode::Mapped);
    let graph = lowered.step.graph.unwrap();
    let node = graph
        .node
        .iter()
        .find(|node| node.op_type == "MoE")
        .unwrap();
    let entry = |input: usize, key: &str| -> usize {
        let named = |tensor: &&crate::graph::proto::Tensor| tensor.name == node.input[input];
        let tensor = graph.initializer.iter().find(named).unwrap();
        let entry = tensor.external_data.iter().find(|entry| entry.key == key);
        entry.unwrap().value.parse().unwrap()
    };
    let bytes = std::fs::read(base.folder.join(laid_out_files::LAID_OUT)).unwrap();
    let values = |input: usize| -> Vec<f32> {
        let bytes = &bytes[entry(input, "offset")..][..entry(input, "length")];
        let floats = bytes.chunks_exact(4);
        floats
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    let model = BaseModel::open_folder(&base.manifest.model_folder).unwrap();
    let (mut inner, mut outer) = (Vec::new(), Vec::new());
    let mixture = model.spec.layers[0].mlp.mixture().unwrap();
    for expert in &mixture.experts {
        let matrix = |path: &str| model.matrix(&format!("{path}.weight")).unwrap();
        let [gate, up] = expert.inner.linears()[..] else {
            panic!("not gated");
        };
        let (gate, up) = (matrix(&gate.source), matrix(&up.source));
        for (gate, up) in gate.outer_iter().zip(up.outer_iter()) {
            inner.extend(gate.iter().chain(up.iter()).copied());
        }
        outer.extend(matrix(&expert.down_proj.source).iter().copied());
    }
    let rounded = |values: Vec<f32>| -> Vec<f32> {
        let round = |value| crate::weights::round_to(value, Dtype::BFloat16);
        values.into_iter().map(round).collect()
    };
    assert_eq!(values(2), rounded(inner));
    assert_eq!(values(4), rounded(outer));
}
