//! What the exporter knows of a node and a rewriting needs: it's written onto the node, as metadata, so that nobody has to guess
//! it from the nodes around.

use serde::{Deserialize, Serialize};

use super::proto::{Entry, Node};
use crate::arch::Activation;

/// The key of the metadata.
const KEY: &str = "peft_bench.role";

/// What a node is in the decoder. Of a node with several outputs, the first one is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Role {
    /// The product of a linear layer's weight, its second input, with the layer's input.
    Linear {
        /// The module's path.
        path: String,
        /// Whether only the last position goes through it, whatever the prompt.
        last_position: bool,
    },
    /// The product of the weight of an expert's projection with the rows that the expert gets, of which there may be none.
    Expert {
        /// The layer's path.
        layer: String,
        /// The expert's number.
        index: usize,
        /// Which of its weights.
        projection: Projection,
    },
    /// What a layer's experts get, `[tokens, hidden_size]`.
    ExpertRows {
        /// The layer's path.
        layer: String,
    },
    /// What a layer's router gives, `[tokens, experts]`.
    RouterLogits {
        /// The layer's path.
        layer: String,
    },
    /// The weight of each expert for each token, `[tokens, experts]`; 0 of those that aren't picked.
    RoutingWeights {
        /// The layer's path.
        layer: String,
    },
    /// The weighted sum of what a layer's experts make, `[tokens, hidden_size]`.
    Experts {
        /// The layer's path.
        layer: String,
        /// How many there are.
        count: usize,
        /// How many a token goes through.
        per_token: usize,
        /// Whether their weights are divided by their sum.
        normalised: bool,
        /// On what `gate_proj` gives.
        activation: Activation,
        /// Whether an adapter's nodes stand between those of the experts.
        adapted: bool,
    },
    /// A length that whoever runs the graph knows.
    Length {
        /// Which one.
        length: Length,
    },
}

/// A weight of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// `gate_proj`
    Gate,
    /// `up_proj`
    Up,
    /// `down_proj`
    Down,
}

/// A length in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Cached and new tokens of each row less one, i32 `[batch]`.
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
    pub fn put_on(&self, node: &mut Node) {
        let value =
            serde_json::to_string(self).expect("a role has no maps with other keys than text");
        node.metadata_props = vec![Entry {
            key: KEY.to_owned(),
            value,
        }];
    }

    /// Takes the role of `node` away.
    pub fn take_off(node: &mut Node) {
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
            },
            Role::Length {
                length: Length::TotalI32,
            },
        ];
        for role in roles {
            let mut node = Node::default();
            assert_eq!(Role::of(&node), None);
            role.put_on(&mut node);
            assert_eq!(Role::of(&node), Some(role));
            Role::take_off(&mut node);
            assert_eq!(node, Node::default());
        }
    }
}
