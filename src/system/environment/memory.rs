//! Huge pages and NUMA.
//!
//! Sources: Linux, `Documentation/admin-guide/mm/transhuge.rst`,
//! `Documentation/ABI/stable/sysfs-devices-node`.

use serde::{Deserialize, Serialize};

use super::root::Root;
use crate::machine::cores::{allowed_list, parse_list};

const NODES: &str = "sys/devices/system/node";

/// Huge pages and NUMA.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemorySettings {
    /// Who gets huge pages without asking for each: `always`, `madvise`, `never`.
    pub transparent_huge_pages: Option<String>,
    /// When the kernel makes room for one at once: `always`, `defer`, `madvise`, `never`.
    pub huge_page_defrag: Option<String>,
    /// Huge pages that are set aside, of the usual size.
    pub reserved_huge_pages: Option<u64>,
    /// How many NUMA nodes the machine has.
    pub numa_nodes: Option<usize>,
    /// The nodes of the allowed cores.
    pub nodes_of_cores: Option<Vec<u32>>,
    /// The nodes that this process may have memory of.
    pub allowed_nodes: Option<Vec<u32>>,
    /// Whether the kernel moves memory to the node that uses it.
    pub numa_balancing: Option<bool>,
}

pub(super) fn read(root: &Root, allowed: Option<&[u32]>) -> MemorySettings {
    const HUGE_PAGES: &str = "sys/kernel/mm/transparent_hugepage";
    let online = root.text(&format!("{NODES}/online"));
    let nodes = online.and_then(|list| parse_list(&list));
    MemorySettings {
        transparent_huge_pages: root.chosen(&format!("{HUGE_PAGES}/enabled")),
        huge_page_defrag: root.chosen(&format!("{HUGE_PAGES}/defrag")),
        reserved_huge_pages: root.number("proc/sys/vm/nr_hugepages"),
        numa_nodes: nodes.as_ref().map(Vec::len),
        nodes_of_cores: nodes
            .zip(allowed)
            .and_then(|(nodes, allowed)| nodes_of(root, &nodes, allowed)),
        allowed_nodes: allowed_list(&root.0, "Mems_allowed_list:"),
        // Kernels with memory tiers have 2 as well.
        numa_balancing: root
            .number::<u8>("proc/sys/kernel/numa_balancing")
            .map(|mode| mode > 0),
    }
}

/// Those of `nodes` that have a core in `allowed`.
fn nodes_of(root: &Root, nodes: &[u32], allowed: &[u32]) -> Option<Vec<u32>> {
    let mut found = Vec::new();
    for node in nodes {
        // A node of memory alone has an empty list.
        let list = root.text(&format!("{NODES}/node{node}/cpulist"));
        let cpus = list.map_or(Some(Vec::new()), |list| parse_list(&list))?;
        if cpus.iter().any(|cpu| allowed.contains(cpu)) {
            found.push(*node);
        }
    }
    (!found.is_empty()).then_some(found)
}
