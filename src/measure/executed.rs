//! The nodes that a session executed, by execution provider, and copies between host and device.
//!
//! They're read from ONNX Runtime's profile of a short generation, which shows the graph after
//! optimization and partitioning. Only the worker of the parity check writes profiles; measured
//! sessions don't.
//!
//! A profile is an array of events in Chrome's trace format. The event of a node has the category
//! `Node`, a name that ends in `_kernel_time`, and the arguments `op_name` and `provider`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The nodes that a session executed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutedGraph {
    /// Number of nodes by provider.
    pub nodes: BTreeMap<String, usize>,
    /// Number of nodes that copy between host and device.
    pub memory_copies: usize,
    /// Number of nodes by provider and operator.
    pub operators: BTreeMap<String, BTreeMap<String, usize>>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    cat: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    args: Arguments,
}

#[derive(Deserialize, Default)]
struct Arguments {
    #[serde(default)]
    op_name: String,
    #[serde(default)]
    provider: String,
}

/// Suffix of a node's name in its kernel's event.
const KERNEL: &str = "_kernel_time";

impl ExecutedGraph {
    /// Reads the profiles below `folder`, which has a folder with one profile for each session.
    /// Profiles that can't be parsed are left out.
    pub fn read_sessions(folder: &Path) -> BTreeMap<String, Self> {
        let sessions = fs::read_dir(folder).into_iter().flatten().flatten();
        let graph = |session: fs::DirEntry| {
            let file = fs::read_dir(session.path()).ok()?.flatten().next()?;
            let graph = Self::parse(&fs::read_to_string(file.path()).ok()?)?;
            Some((session.file_name().to_string_lossy().into_owned(), graph))
        };
        sessions.filter_map(graph).collect()
    }

    fn parse(profile: &str) -> Option<Self> {
        let events: Vec<Event> = serde_json::from_str(profile).ok()?;
        // A set, since every step executes each node again.
        let nodes: BTreeSet<(&str, &str, &str)> = events
            .iter()
            .filter(|event| event.cat == "Node" && !event.args.provider.is_empty())
            .filter_map(|event| {
                let name = event.name.strip_suffix(KERNEL)?;
                Some((
                    event.args.provider.as_str(),
                    event.args.op_name.as_str(),
                    name,
                ))
            })
            .collect();
        let mut graph = Self::default();
        for (provider, operator, _) in nodes {
            *graph.nodes.entry(provider.to_owned()).or_default() += 1;
            let operators = graph.operators.entry(provider.to_owned()).or_default();
            *operators.entry(operator.to_owned()).or_default() += 1;
            graph.memory_copies += usize::from(operator.starts_with("Memcpy"));
        }
        (!graph.nodes.is_empty()).then_some(graph)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_counts_once_however_often_it_ran() {
        let node = |name: &str, operator: &str, provider: &str| {
            serde_json::json!({
                "cat": "Node", "name": format!("{name}_kernel_time"), "ts": 1, "dur": 2,
                "args": { "op_name": operator, "provider": provider },
            })
        };
        let profile = serde_json::json!([
            { "cat": "Session", "name": "model_loading_array", "args": {} },
            { "cat": "Node", "name": "a_fence_before", "args": { "op_name": "MatMul" } },
            node("a", "MatMul", "CUDAExecutionProvider"),
            node("b", "MatMul", "CUDAExecutionProvider"),
            node("a", "MatMul", "CUDAExecutionProvider"),
            node("c", "Shape", "CPUExecutionProvider"),
            node("m", "MemcpyToHost", "CUDAExecutionProvider"),
        ]);
        let graph = ExecutedGraph::parse(&profile.to_string()).unwrap();
        assert_eq!(graph.nodes["CUDAExecutionProvider"], 3);
        assert_eq!(graph.nodes["CPUExecutionProvider"], 1);
        assert_eq!(graph.memory_copies, 1);
        assert_eq!(graph.operators["CUDAExecutionProvider"]["MatMul"], 2);
        for nothing in ["", "[]", "{}"] {
            assert_eq!(ExecutedGraph::parse(nothing), None);
        }
    }
}
