//! The block size of ONNX Runtime's `NCHWc` layout: the number of channels stored next to each
//! other.
//!
//! It depends on the processor, and a graph with another block size computes wrong results. To lay
//! weights out, it's derived from the CPU's feature flags, as ONNX Runtime does
//! (`MLAS_PLATFORM::MLAS_PLATFORM` in `onnxruntime/core/mlas/lib/platform.cpp`). Before a session
//! uses the weights, a small probe graph checks that ONNX Runtime has the same block size.

use ort::session::Session;
use ort::value::Tensor;

use super::products::node;
use crate::graph::proto::{Graph, Model, OperatorSet, TensorType, Type, ValueInfo, element};

/// The operators' domain.
pub const DOMAIN: &str = "com.microsoft.nchwc";

/// Channels in the probe: more than any known block size.
const CHANNELS: usize = 64;

/// Positions in the probe.
const POSITIONS: usize = 2;

/// The block size on this processor; `None` if it isn't known.
pub fn of_this_processor() -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    {
        let has_512 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("avx512f");
        Some(if has_512 { 16 } else { 8 })
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// ONNX Runtime's block size, found by running the probe; `None` if it doesn't have this layout.
pub fn of_runtime(open: impl FnOnce(&Model) -> Option<Session>) -> Option<usize> {
    let mut session = open(&probe())?;
    // `[1, channels, 1, positions]`, with distinct values.
    let values: Vec<f32> = (0..CHANNELS * POSITIONS).map(|i| i as f32).collect();
    let x = Tensor::from_array(([1, CHANNELS, 1, POSITIONS], values)).ok()?;
    let outputs = session.run(ort::inputs![x]).ok()?;
    let (_, blocked) = outputs[0].try_extract_tensor::<f32>().ok()?;
    let is_first_position = |value: &&f32| (**value as usize).is_multiple_of(POSITIONS);
    // The output has the first position of all channels of a block, then the second.
    let block = blocked.iter().take_while(is_first_position).count();
    (block > 1 && CHANNELS.is_multiple_of(block)).then_some(block)
}

/// The probe: a graph that reorders a small tensor into blocks.
fn probe() -> Model {
    let mut reorder = node("ReorderInput", &["x"], "y", Vec::new());
    reorder.domain = DOMAIN.to_owned();
    let value = |name: &str| ValueInfo {
        name: name.to_owned(),
        r#type: Some(Type {
            tensor_type: Some(TensorType {
                elem_type: element::FLOAT32,
                shape: None,
            }),
        }),
    };
    let mut model = Model {
        ir_version: 10,
        graph: Some(Graph {
            node: vec![reorder],
            name: "block-size".to_owned(),
            input: vec![value("x")],
            output: vec![value("y")],
            ..Default::default()
        }),
        ..Default::default()
    };
    import(&mut model);
    model
}

/// Declares [`DOMAIN`] in `model`'s operator sets.
pub fn import(model: &mut Model) {
    let sets = &mut model.opset_import;
    for (domain, version) in [("", 21), (DOMAIN, 1)] {
        if !sets.iter().any(|set| set.domain == domain) {
            sets.push(OperatorSet {
                domain: domain.to_owned(),
                version,
            });
        }
    }
}
