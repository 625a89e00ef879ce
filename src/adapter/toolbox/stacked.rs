//! Transformers' tensors that each hold one weight of all experts of a layer.

use std::collections::BTreeMap;

use crate::arch::{DecoderSpec, Expert, Linear, Stored};

/// One of the stacked tensors of a layer. Some families store each expert's matrix as
/// `[in_features, out_features]`, the reverse of the shapes given here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// `gate_up_proj`, `[experts, 2 * intermediate_size, hidden_size]`; without gates `up_proj`,
    /// `[experts, intermediate_size, hidden_size]`.
    Inner,
    /// `down_proj`, `[experts, hidden_size, intermediate_size]`
    Down,
}

impl Stack {
    /// Both tensors.
    pub const ALL: [Self; 2] = [Self::Inner, Self::Down];

    /// The tensor's name, for experts like `expert`.
    pub fn name(self, expert: &Expert) -> &'static str {
        match self {
            Self::Inner => expert.inner.stack_name(),
            Self::Down => "down_proj",
        }
    }

    /// The projections of `expert` that it holds, one below the other.
    pub fn linears(self, expert: &Expert) -> Vec<&Linear> {
        match self {
            Self::Inner => expert.inner.linears(),
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
        let Some(mixture) = layer.mlp.mixture() else {
            continue;
        };
        let experts = &mixture.experts;
        for (stack, model) in Stack::ALL.into_iter().flat_map(|stack| {
            let first = experts.first();
            first.map(|model| (stack, model))
        }) {
            let mut first = 0;
            for expert in experts {
                let linears = stack.linears(expert);
                let rows = linears.iter().map(|linear| linear.out_features).sum();
                for linear in linears {
                    let columns = linear.in_features;
                    let weight = StackedWeight {
                        name: format!("{}.{}", mixture.path, stack.name(model)),
                        shape: match linear.stored {
                            Stored::OutIn => [experts.len(), rows, columns],
                            Stored::InOut => [experts.len(), columns, rows],
                        },
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
