//! What the processor is, and what it shares.
//!
//! Sources: Linux, `Documentation/ABI/testing/sysfs-devices-system-cpu`; `man 5 proc_cpuinfo`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::root::Root;
use crate::machine::cores::parse_list;

const CPU: &str = "sys/devices/system/cpu";

/// What the processor is, and what it shares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Processor {
    /// The version of its microcode, which changes speed where it works around flaws.
    pub microcode: Option<String>,
    /// Whether this is a virtual machine.
    pub virtual_machine: Option<bool>,
    /// The machine's maker and model, or the hypervisor's, as its firmware names it.
    pub machine_model: Option<String>,
    /// Whether a core runs several hardware threads at once.
    pub smt_active: Option<bool>,
    /// The hardware threads of each core that this process may use, those included that it may not
    /// use.
    pub siblings: Option<Vec<Vec<u32>>>,
    /// Flaws of this processor, with what the kernel does about each.
    pub vulnerabilities: Option<BTreeMap<String, String>>,
    /// What the kernel reads the time from.
    pub clock_source: Option<String>,
    /// How much of a process' memory is placed at random: 0 nothing, 2 everything.
    pub address_randomization: Option<u8>,
}

pub(super) fn read(root: &Root, allowed: Option<&[u32]>) -> Processor {
    let info = root.text("proc/cpuinfo").unwrap_or_default();
    let cpus = root.cpus(allowed);
    Processor {
        microcode: field(&info, "microcode").map(str::to_owned),
        virtual_machine: virtual_machine(root, &info),
        machine_model: machine_model(root),
        smt_active: root.flag(&format!("{CPU}/smt/active")),
        siblings: siblings(root, &cpus),
        vulnerabilities: vulnerabilities(root),
        clock_source: root.text("sys/devices/system/clocksource/clocksource0/current_clocksource"),
        address_randomization: root.number("proc/sys/kernel/randomize_va_space"),
    }
}

/// The value of the first line `key : value` of `/proc/cpuinfo`.
fn field<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    let mut fields = info.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(name, _)| name.trim() == key)?;
    Some(value.trim()).filter(|value| !value.is_empty())
}

/// x86 has a flag for it; other architectures' kernels may name the hypervisor.
fn virtual_machine(root: &Root, info: &str) -> Option<bool> {
    match field(info, "flags") {
        Some(flags) => Some(
            flags
                .split_ascii_whitespace()
                .any(|flag| flag == "hypervisor"),
        ),
        None => root.text("sys/hypervisor/type").map(|_| true),
    }
}

fn machine_model(root: &Root) -> Option<String> {
    let names = ["sys_vendor", "product_name"];
    let names = names.map(|name| root.text(&format!("sys/class/dmi/id/{name}")));
    let known: Vec<String> = names.into_iter().flatten().collect();
    (!known.is_empty()).then(|| known.join(" "))
}

fn siblings(root: &Root, cpus: &[u32]) -> Option<Vec<Vec<u32>>> {
    let found = cpus.iter().map(|cpu| {
        let list = root.text(&format!("{CPU}/cpu{cpu}/topology/thread_siblings_list"))?;
        parse_list(&list)
    });
    let found: BTreeSet<Vec<u32>> = found.collect::<Option<_>>()?;
    (!found.is_empty()).then(|| found.into_iter().collect())
}

fn vulnerabilities(root: &Root) -> Option<BTreeMap<String, String>> {
    let folder = format!("{CPU}/vulnerabilities");
    let names = root.names(&folder);
    let found = names.iter().filter_map(|name| {
        let state = root.text(&format!("{folder}/{name}"))?;
        (state != "Not affected").then(|| (name.clone(), state))
    });
    (!names.is_empty()).then(|| found.collect())
}
