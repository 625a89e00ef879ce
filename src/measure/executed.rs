//! What sessions really ran: nodes by execution provider, and copies between host and device.
//!
//! It's read from ONNX Runtime's own profile of a short generation, so it shows the graph as it was optimized and
//! partitioned, with the copies that the partition needs. Profiles are written by the process that compares the
//! variants; those that are measured write none.
//!
//! The format: an array of events of Chrome's trace format; an event of a node has the category `Node`, a name that ends
//! in `_kernel_time`, and `op_name` and `provider` among its arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Nodes of a session that ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutedGraph {
    /// Nodes by provider.
    pub nodes: BTreeMap<String, usize>,
    /// Nodes that copy between host and device.
    pub memory_copies: usize,
    /// Nodes by provider and operator.
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

/// What an event of a node's kernel has behind the node's name.
const KERNEL: &str = "_kernel_time";

impl ExecutedGraph {
    /// Reads the profiles below `folder`, one in a folder for each session. Those that can't be understood are left out.
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
        // Every step runs each node again.
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
