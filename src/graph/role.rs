//! Roles of nodes. The exporter writes a node's role into its metadata, so that lowering doesn't
//! have to guess it from the surrounding nodes.

use serde::{Deserialize, Serialize};

use super::proto::{Entry, Node};
use crate::arch::Activation;

/// The key of the metadata.
const KEY: &str = "peft_bench.role";

/// A node's role in the decoder. It applies to the node's first output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Role {
    /// The matrix product of a linear layer: its input, and its weight as the node's second input.
    Linear {
        /// The module's path.
        path: String,
        /// Whether its input is always the last position only.
        last_position: bool,
    },
    /// The matrix product of an expert's projection: the expert's input rows (possibly none), and
    /// its weight.
    Expert {
        /// The layer's path.
        layer: String,
        /// The expert's number.
        index: usize,
        /// The projection.
        projection: Projection,
    },
    /// The input of a layer's experts, `[tokens, hidden_size]`.
    ExpertRows {
        /// The layer's path.
        layer: String,
    },
    /// The output of a layer's router, `[tokens, experts]`.
    RouterLogits {
        /// The layer's path.
        layer: String,
    },
    /// The weight of each expert for each token, `[tokens, experts]`; 0 for experts that aren't
    /// picked.
    RoutingWeights {
        /// The layer's path.
        layer: String,
    },
    /// The weighted sum of the experts' outputs, `[tokens, hidden_size]`.
    Experts {
        /// The layer's path.
        layer: String,
        /// Number of experts.
        count: usize,
        /// Number of experts per token.
        per_token: usize,
        /// Whether the picked experts' weights are divided by their sum.
        normalised: bool,
        /// The activation after `gate_proj`.
        activation: Activation,
        /// Whether an adapter changes the experts' projections.
        adapted: bool,
        /// In what they differ from experts with the usual form and router.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        special: Vec<Special>,
    },
    /// The `Split` of a weight, `[heads * (a + b), columns]`, into the rows of each head that
    /// queries are multiplied with, and those for outputs.
    Divided {
        /// The module's path.
        path: String,
        /// Number of heads.
        heads: usize,
        /// Rows of a head in each part.
        rows: [usize; 2],
    },
    /// A length in tokens, which the engine knows before a run.
    Length {
        /// The length.
        length: Length,
    },
}

/// What distinguishes a layer's experts from gated MLPs that a softmax over all experts weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Special {
    /// The weights are no softmax over all experts.
    Router,
    /// The weights are multiplied with the experts' inputs.
    WeighsInputs,
    /// Gate and up are one product.
    FusedProjections,
    /// They have no gate.
    Ungated,
    /// Gate and up are clamped.
    Clamped,
    /// Their projections have biases.
    Biases,
}

/// A projection of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// `gate_proj`
    Gate,
    /// `up_proj`
    Up,
    /// `gate_proj` and `up_proj` in one
    GateUp,
    /// `down_proj`
    Down,
}

/// A length in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Cached and new tokens of each sequence, minus one, i32 `[batch]`.
    LastIndex,
    /// Cached and new tokens, i32 scalar.
    TotalI32,
    /// Cached and new tokens, i64 `[1]`.
    Total,
    /// Cached tokens, i64 `[1]`.
    Past,
}

impl Role {
    /// The role of `node`, if it has one.
    pub fn of(node: &Node) -> Option<Self> {
        let entry = node.metadata_props.iter().find(|entry| entry.key == KEY)?;
        serde_json::from_str(&entry.value).ok()
    }

    /// Writes the role onto `node`.
    pub fn write_to(&self, node: &mut Node) {
        let value =
            serde_json::to_string(self).expect("a role has no maps with other keys than text");
        node.metadata_props = vec![Entry {
            key: KEY.to_owned(),
            value,
        }];
    }

    /// Removes the role of `node`.
    pub fn remove_from(node: &mut Node) {
        node.metadata_props.retain(|entry| entry.key != KEY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_back_from_the_node_that_it_was_written_onto() {
        let roles = [
            Role::Linear {
                path: "lm_head".to_owned(),
                last_position: true,
            },
            Role::Experts {
                layer: "model.layers.3".to_owned(),
                count: 64,
                per_token: 8,
                normalised: false,
                activation: Activation::Silu,
                adapted: true,
                special: vec![Special::Router],
            },
            Role::Length {
                length: Length::TotalI32,
            },
        ];
        for role in roles {
            let mut node = Node::default();
            assert_eq!(Role::of(&node), None);
            role.write_to(&mut node);
            assert_eq!(Role::of(&node), Some(role));
            Role::remove_from(&mut node);
            assert_eq!(node, Node::default());
        }
    }
}
