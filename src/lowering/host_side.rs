//! Work that moves from the graph to the engine: counting tokens, and picking the largest logit.
//!
//! A prepared graph counts tokens in its attention mask, and picks the next token with a
//! single-threaded node. These dozen nodes take up to 1 % of a decode step. The engine's masks have
//! no gaps, so it knows the lengths; and on a CPU it has the logits.

use crate::graph::lengths::TOTAL;
use crate::graph::proto::{
    Dimension, DimensionValue, Model, Shape, TensorType, Type, ValueInfo, element,
};
use crate::graph::{Length, Role};

use super::products::{drop_unused, uses};

/// Replaces the nodes that compute lengths by inputs, and removes the mask if nothing else uses it.
pub fn take_lengths(model: &mut Model, batch_size: usize) {
    let Some(graph) = &mut model.graph else {
        return;
    };
    let mut lengths = Vec::new();
    graph.node.retain(|node| match Role::of(node) {
        Some(Role::Length { length }) => {
            lengths.push((length, node.output[0].clone()));
            false
        }
        _ => true,
    });
    drop_unused(graph);
    let uses = uses(graph);
    let mask = uses.contains_key(MASK);
    lengths.retain(|(_, name)| uses.contains_key(name.as_str()));
    lengths.sort_by_key(|(length, _)| *length);
    for (length, name) in lengths {
        let fixed = |size: usize| Dimension {
            value: Some(DimensionValue::Value(size as i64)),
        };
        let (elem_type, size) = match length {
            Length::LastIndex => (element::INT32, Some(batch_size)),
            Length::TotalI32 => (element::INT32, None),
            Length::Total | Length::Past => (element::INT64, Some(1)),
        };
        let shape = Shape {
            dim: size.map(fixed).into_iter().collect(),
        };
        graph.input.push(ValueInfo {
            name,
            r#type: Some(Type {
                tensor_type: Some(TensorType {
                    elem_type,
                    shape: Some(shape),
                }),
            }),
        });
    }
    graph.input.retain(|input| mask || input.name != MASK);
}

/// [`take_lengths`] for a GPU: does so only if nothing but attention uses the lengths. Sizes of
/// tables and masks must be known on the host. Computed from a shape, they are; an input would be
/// copied back from the GPU.
pub fn take_lengths_of_attention(model: &mut Model, batch_size: usize) {
    let mut taken = model.clone();
    take_lengths(&mut taken, batch_size);
    let inputs = taken.graph.iter().flat_map(|graph| &graph.input);
    if inputs.into_iter().all(|input| input.name != TOTAL) {
        *model = taken;
    }
}

/// The attention mask, an input of prepared graphs.
pub const MASK: &str = "attention_mask";

/// The output with the logits of the last position.
pub const LOGITS: &str = "logits";

/// The output with the next token.
pub const NEXT_TOKEN: &str = "next_token";

/// Removes the output [`NEXT_TOKEN`] if the logits are float32.
pub fn give_logits_alone(model: &mut Model) {
    let Some(graph) = &mut model.graph else {
        return;
    };
    let is_wide = |output: &ValueInfo| {
        let tensor = output.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
        output.name == LOGITS && tensor.is_some_and(|t| t.elem_type == element::FLOAT32)
    };
    if graph.output.iter().any(is_wide) {
        graph.output.retain(|output| output.name != NEXT_TOKEN);
        drop_unused(graph);
    }
}

/// The index of the largest of `logits`; of equal ones, the first.
pub fn largest(logits: &[f32]) -> usize {
    // The largest value of each part is found with branch-free, vectorised comparisons; the index
    // is searched only in the best part.
    const PART: usize = 256;
    const LANES: usize = 16;
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let largest_of = |part: &[f32]| {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let chunks = part.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, &value) in lanes.iter_mut().zip(chunk) {
                *lane = greater(*lane, value);
            }
        }
        lanes
            .iter()
            .chain(rest)
            .copied()
            .fold(f32::NEG_INFINITY, greater)
    };
    let mut best = (f32::NEG_INFINITY, 0);
    for (index, part) in logits.chunks(PART).enumerate() {
        let value = largest_of(part);
        if value > best.0 {
            best = (value, index * PART);
        }
    }
    let place = logits[best.1..].iter().position(|&value| value == best.0);
    best.1 + place.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest_is_picked() {
        let mut logits: Vec<f32> = (0..1000).map(|i| (i * 37 % 101) as f32).collect();
        for place in [999, 700, 512, 511, 256, 17, 0] {
            logits[place] = 200.0;
            assert_eq!(largest(&logits), place);
        }
        assert_eq!(largest(&[f32::NEG_INFINITY; 3]), 0);
        assert_eq!(largest(&[-3.0, f32::NAN, -2.0]), 2);
        assert_eq!(largest(&[f32::NAN; 300]), 0);
    }
}
