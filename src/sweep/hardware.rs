//! The class of hardware that a result was measured on, as a folder's name: results of one folder
//! may be compared. Host, kernel and driver aren't in it; each result has them.

use crate::report::Report;

/// The folder's name for the hardware of `report`.
pub fn name(report: &Report) -> String {
    let system = &report.meta_info.system_info;
    let mut words = Vec::new();
    let accelerators = &report.run_info.hardware;
    if report.run_info.session.provider != "cpu"
        && let Some(name) = &accelerators.accelerator_type
    {
        words.push(name.clone());
        let memory = accelerators.accelerator_memory_mb;
        words.extend(memory.map(|mebibytes| format!("{}gib", rounded(mebibytes, 1 << 10))));
    }
    let processor = system.processor.as_ref().unwrap_or(&system.machine);
    words.push(processor.clone());
    words.push(format!("{}-cores", system.physical_cores));
    if system.usable_cores > system.physical_cores {
        words.push(format!("{}-threads", system.usable_cores));
    }
    let ram = system.total_ram_bytes;
    words.extend(ram.map(|bytes| format!("{}gib", rounded(bytes, 1 << 30))));
    plain(&words.join("-"))
}

fn rounded(size: u64, unit: u64) -> u64 {
    (size + unit / 2) / unit
}

/// `text` in lower case, with a dash for whatever is no letter and no digit.
fn plain(text: &str) -> String {
    let text = text.replace("(R)", "").replace("(TM)", "");
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
    let words = words.filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_no_marks_and_no_blanks() {
        let name = plain("Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz-32-cores-503gib");
        assert_eq!(name, "intel-xeon-gold-6338-cpu-2.00ghz-32-cores-503gib");
    }
}
