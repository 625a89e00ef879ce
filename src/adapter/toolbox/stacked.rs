//! Transformers' tensors that each hold one weight of all experts of a layer.

use std::collections::BTreeMap;

use crate::arch::{DecoderSpec, Expert, Linear, Mlp};

/// One of the stacked tensors of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// `gate_up_proj`, `[experts, 2 * intermediate_size, hidden_size]`
    GateUp,
    /// `down_proj`, `[experts, hidden_size, intermediate_size]`
    Down,
}

impl Stack {
    /// Both tensors.
    pub const ALL: [Self; 2] = [Self::GateUp, Self::Down];

    /// The tensor's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::GateUp => "gate_up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The projections of `expert` that it holds, one below the other.
    pub fn linears(self, expert: &Expert) -> Vec<&Linear> {
        match self {
            Self::GateUp => vec![&expert.gate_proj, &expert.up_proj],
            Self::Down => vec![&expert.down_proj],
        }
    }
}

/// One expert's weight in a stacked tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackedWeight {
    /// The tensor's name.
    pub name: String,
    /// The tensor's shape.
    pub shape: [usize; 3],
    /// The index of the weight's first element.
    pub first: usize,
}

/// The weights of all experts in stacked tensors, by the path of their module.
pub fn stacked_weights(spec: &DecoderSpec) -> BTreeMap<String, StackedWeight> {
    let mut all = BTreeMap::new();
    for layer in &spec.layers {
        let Mlp::Experts { experts, .. } = &layer.mlp else {
            continue;
        };
        for stack in Stack::ALL {
            let mut first = 0;
            for expert in experts {
                let linears = stack.linears(expert);
                let rows = linears.iter().map(|linear| linear.out_features).sum();
                for linear in linears {
                    let weight = StackedWeight {
                        name: format!("{}.mlp.experts.{}", layer.path, stack.name()),
                        shape: [experts.len(), rows, linear.in_features],
                        first,
                    };
                    all.insert(linear.path.clone(), weight);
                    first += linear.out_features * linear.in_features;
                }
            }
        }
    }
    all
}
