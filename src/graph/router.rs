//! Routers: which experts each token uses, and with what weights.

use super::Role;
use super::builder::{Attr, GraphBuilder, Value};
use super::linear::{linear, linear_in_f32};
use super::pass::Pass;
use crate::arch::{GroupScore, Groups, Normalised, Router, Scores};

/// The experts that each token picks.
struct Picked {
    /// Their numbers, i64 `[tokens, per_token]`.
    indices: Value,
    /// Their scores, `[tokens, per_token]`.
    scores: Value,
}

/// A router's nodes.
struct Nodes<'a, 'b> {
    graph: &'a mut GraphBuilder<'b>,
    /// The layer's path.
    path: &'a str,
    router: &'a Router,
}

/// The weight of each expert for each token, `[tokens, experts]` in float32; 0 for experts that
/// aren't picked. `x` is the router's input, `[batch, sequence, hidden_size]`.
///
/// ```text
/// x ─ router ─ scores ─┬─ (correction) ─ (groups) ─ top k ─┐
///                      └──────────────────────────── picked ─ (normalised, scaled) ─ weights
/// ```
pub(super) fn routing_weights(
    graph: &mut GraphBuilder,
    pass: &Pass,
    path: &str,
    router: &Router,
    x: &Value,
) -> Value {
    let at = |name: &str| format!("/{path}/mlp/router/{name}");
    let experts = router.linear.out_features as i64;
    // Logits and weights are float32, as in transformers, whatever the graph's dtype.
    let logits = match router.in_float32 && !graph.is_float32() {
        true => {
            let logits = linear_in_f32(graph, pass, &router.linear, x);
            graph.reshape(&at("rows"), &logits, &[-1, experts])
        }
        false => {
            let logits = linear(graph, pass, &router.linear, x);
            let logits = graph.reshape(&at("rows"), &logits, &[-1, experts]);
            graph.to_f32(&at("float32"), &logits)
        }
    };
    let layer = graph.scoped_path(path);
    let role = Role::RouterLogits {
        layer: layer.clone(),
    };
    graph.set_role(&logits, &role);
    let mut nodes = Nodes {
        graph,
        path,
        router,
    };
    let picked = nodes.picked(&logits);
    let scores = nodes.normalised(&picked.scores);
    let scores = nodes.scaled(scores, &picked.indices);
    let zeros = nodes.filled_like(&logits, "zeros", "zero.float32", 0.0);
    let weights = nodes.scattered("weights", &zeros, &picked.indices, &scores);
    graph.set_role(&weights, &Role::RoutingWeights { layer });
    weights
}

impl Nodes<'_, '_> {
    fn at(&self, name: &str) -> String {
        format!("/{}/mlp/router/{name}", self.path)
    }

    fn op(&mut self, op: &str, name: &str, inputs: &[&Value], attrs: &[(&str, Attr)]) -> Value {
        let name = self.at(name);
        self.graph.op(op, &name, inputs, attrs)
    }

    fn picked(&mut self, logits: &Value) -> Picked {
        let last = [("axis", Attr::Int(-1))];
        let scores = match self.router.scores {
            Scores::Softmax => self.op("Softmax", "Softmax", &[logits], &last),
            Scores::Sigmoid | Scores::SigmoidOfPicked => {
                self.op("Sigmoid", "Sigmoid", &[logits], &[])
            }
            Scores::SparseMixer { epsilon } => return self.sparse_mixer(logits, epsilon as f32),
        };
        let choice = self.choice(logits, &scores);
        let per_token = self.router.per_token as i64;
        let [best, indices] = self.top("TopK", "per_token", &choice, per_token);
        let scores = match choice == scores {
            true => best,
            false => self.gathered("picked", &scores, &indices),
        };
        Picked { indices, scores }
    }

    /// The numbers of which the highest are picked, `[tokens, experts]`.
    fn choice(&mut self, logits: &Value, scores: &Value) -> Value {
        let mut choice = match self.router.scores {
            Scores::SigmoidOfPicked => logits.clone(),
            _ => scores.clone(),
        };
        if let Some(correction) = &self.router.correction {
            let correction = self.graph.parameter_f32(&correction.full_name());
            choice = self.op("Add", "corrected", &[&choice, &correction], &[]);
        }
        match self.router.groups {
            Some(groups) => self.limited(&choice, groups),
            None => choice,
        }
    }

    /// `choice` with other numbers for experts outside of the best groups.
    fn limited(&mut self, choice: &Value, groups: Groups) -> Value {
        let experts = self.router.linear.out_features;
        let [count, size] = [groups.count as i64, (experts / groups.count) as i64];
        let grouped = self.reshape("groups", choice, &[-1, count, size]);
        let (judged, hidden) = match groups.by {
            GroupScore::Highest => {
                let attrs = [("keepdims", Attr::Int(0))];
                let axis = self.graph.constant_i64("axis_2", &[2], false);
                let best = self.op("ReduceMax", "groups/ReduceMax", &[&grouped, &axis], &attrs);
                (best, 0.0)
            }
            GroupScore::TwoHighest => {
                let [best, _] = self.top("groups/two", "groups/two/count", &grouped, 2);
                let attrs = [("keepdims", Attr::Int(0))];
                let axis = self.graph.constant_i64("axis_2", &[2], false);
                let sums = self.op("ReduceSum", "groups/ReduceSum", &[&best, &axis], &attrs);
                (sums, f32::NEG_INFINITY)
            }
        };
        let picked = groups.picked as i64;
        let [ones, indices] = self.top("groups/TopK", "groups/picked", &judged, picked);
        let ones = self.filled_like(&ones, "groups/ones", "one.float32", 1.0);
        let zeros = self.filled_like(&judged, "groups/zeros", "zero.float32", 0.0);
        let mask = self.scattered("groups/mask", &zeros, &indices, &ones);
        let mask = self.reshape("groups/mask/column", &mask, &[-1, count, 1]);
        let half = self.graph.constant_f32("half.float32", &[], &[0.5]);
        let open = self.op("Greater", "groups/open", &[&mask, &half], &[]);
        let hidden = match hidden {
            0.0 => self.graph.constant_f32("zero.float32", &[], &[0.0]),
            other => self
                .graph
                .constant_f32("minus_infinity.float32", &[], &[other]),
        };
        let limited = self.op("Where", "groups/limited", &[&open, &grouped, &hidden], &[]);
        self.reshape("limited", &limited, &[-1, experts as i64])
    }

    /// The two experts of [`Scores::SparseMixer`].
    fn sparse_mixer(&mut self, logits: &Value, epsilon: f32) -> Picked {
        let minus = self
            .graph
            .constant_f32("minus_infinity.float32", &[], &[f32::NEG_INFINITY]);
        let threshold = self
            .graph
            .constant_f32("sparse_mixer.threshold", &[], &[2.0 * epsilon]);
        let sizes = self.op("Abs", "Abs", &[logits], &[]);
        let mut left = logits.clone();
        let [first, second] = ["first", "second"].map(|turn| {
            let at = |name: &str| format!("{turn}/{name}");
            let [highest, index] = self.top(&at("TopK"), "one", &left, 1);
            let factor = self.op("Max", &at("Max"), &[&sizes, &highest], &[]);
            let distance = self.op("Sub", &at("Sub"), &[&highest, logits], &[]);
            let ratio = self.op("Div", &at("Div"), &[&distance, &factor], &[]);
            let far = self.op("Greater", &at("Greater"), &[&ratio, &threshold], &[]);
            let near = self.op("Where", &at("Where"), &[&far, &minus, &left], &[]);
            let last = [("axis", Attr::Int(-1))];
            let chances = self.op("Softmax", &at("Softmax"), &[&near], &last);
            let weight = self.gathered(&at("weight"), &chances, &index);
            let hidden = self.filled_like(
                &index,
                &at("hidden"),
                "minus_infinity.float32",
                f32::NEG_INFINITY,
            );
            left = self.scattered(&at("left"), &left, &index, &hidden);
            [index, weight]
        });
        let [indices, scores] = [("indices", 0), ("scores", 1)].map(|(name, part)| {
            let attrs = [("axis", Attr::Int(1))];
            self.op("Concat", name, &[&first[part], &second[part]], &attrs)
        });
        Picked { indices, scores }
    }

    /// The picked experts' weights, before they're scaled.
    fn normalised(&mut self, picked: &Value) -> Value {
        let rule = self.router.normalised;
        if rule == Normalised::No {
            return picked.clone();
        }
        let axis = self.graph.constant_i64("axis_1", &[1], false);
        let mut sums = self.op("ReduceSum", "ReduceSum", &[picked, &axis], &[]);
        match rule {
            Normalised::No | Normalised::Sum => {}
            Normalised::SumPlus(more) => {
                let more = self
                    .graph
                    .constant_f32("router.epsilon", &[], &[more as f32]);
                sums = self.op("Add", "ReduceSum/Add", &[&sums, &more], &[]);
            }
            Normalised::SumAtLeast(least) => {
                let least = self
                    .graph
                    .constant_f32("router.least", &[], &[least as f32]);
                sums = self.op("Max", "ReduceSum/Max", &[&sums, &least], &[]);
            }
        }
        self.op("Div", "Div", &[picked, &sums], &[])
    }

    fn scaled(&mut self, mut weights: Value, indices: &Value) -> Value {
        if let Some(scale) = self.router.scale {
            let scale = self
                .graph
                .constant_f32("router.scale", &[], &[scale as f32]);
            weights = self.op("Mul", "scaled", &[&weights, &scale], &[]);
        }
        if let Some(scales) = &self.router.expert_scale {
            let scales = self.graph.parameter_f32(&scales.full_name());
            let name = self.at("expert_scale");
            let own = self.graph.gather(&name, &scales, indices, 0);
            weights = self.op("Mul", "expert_scale/Mul", &[&weights, &own], &[]);
        }
        weights
    }

    /// The `count` highest numbers of each row, and their indices.
    fn top(&mut self, name: &str, constant: &str, x: &Value, count: i64) -> [Value; 2] {
        let count = self.graph.constant_i64(
            &format!("/{}/mlp/router/{constant}", self.path),
            &[count],
            false,
        );
        let names = [self.at(name), self.at(&format!("{name}/indices"))];
        let last = [("axis", Attr::Int(-1))];
        let node = names[0].clone();
        self.graph
            .op_outputs("TopK", &node, &[x, &count], names, &last)
    }

    fn gathered(&mut self, name: &str, x: &Value, indices: &Value) -> Value {
        let attrs = [("axis", Attr::Int(1))];
        self.op("GatherElements", name, &[x, indices], &attrs)
    }

    fn scattered(&mut self, name: &str, x: &Value, indices: &Value, values: &Value) -> Value {
        let attrs = [("axis", Attr::Int(1))];
        self.op("ScatterElements", name, &[x, indices, values], &attrs)
    }

    fn reshape(&mut self, name: &str, x: &Value, shape: &[i64]) -> Value {
        let name = self.at(name);
        self.graph.reshape(&name, x, shape)
    }

    /// A tensor of the shape of `x`, filled with `value`.
    fn filled_like(&mut self, x: &Value, name: &str, constant: &str, value: f32) -> Value {
        let shape = self.op("Shape", &format!("{name}/size"), &[x], &[]);
        let value = self.graph.constant_f32(constant, &[], &[value]);
        self.op("Expand", name, &[&value, &shape], &[])
    }
}
