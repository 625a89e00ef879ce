//! Where the weights of single experts are in the tensors that hold all experts of a layer, as Transformers has them:
//! `experts.gate_up_proj`, `[experts, 2 * intermediate_size, hidden_size]`, the gate's rows before those of up, and
//! `experts.down_proj`, `[experts, hidden_size, intermediate_size]`.

use std::collections::BTreeMap;

use crate::arch::{DecoderSpec, Expert, Mlp};

/// One expert's weight in such a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackedWeight {
    /// The tensor's name.
    pub name: String,
    /// The tensor's shape.
    pub shape: [usize; 3],
    /// The weight's first element.
    pub first: usize,
}

/// Those of all experts, by the paths of their modules.
pub fn stacked_weights(spec: &DecoderSpec) -> BTreeMap<String, StackedWeight> {
    let mut all = BTreeMap::new();
    for layer in &spec.layers {
        let Mlp::Experts { experts, .. } = &layer.mlp else {
            continue;
        };
        for (index, expert) in experts.iter().enumerate() {
            let Expert {
                gate_proj,
                up_proj,
                down_proj,
            } = expert;
            for (name, linears) in [
                ("gate_up_proj", vec![gate_proj, up_proj]),
                ("down_proj", vec![down_proj]),
            ] {
                let rows: usize = linears.iter().map(|linear| linear.out_features).sum();
                let columns = linears[0].in_features;
                let mut first = index * rows * columns;
                for linear in linears {
                    let weight = StackedWeight {
                        name: format!("{}.mlp.experts.{name}", layer.path),
                        shape: [experts.len(), rows, columns],
                        first,
                    };
                    all.insert(linear.path.clone(), weight);
                    first += linear.out_features * columns;
                }
            }
        }
    }
    all
}
