//! Reading the small files in which a Linux kernel tells about itself.

use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

/// The folder below which the files are: `/`, or a tree of a test.
pub(super) struct Root(pub PathBuf);

impl Root {
    /// The text of a file; `None` if it can't be read, or is empty.
    pub fn text(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.0.join(path)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The number in a file.
    pub fn number<T: FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// Whether a file has `1`, or its word for it.
    pub fn flag(&self, path: &str) -> Option<bool> {
        match self.text(path)?.as_str() {
            "1" | "Y" => Some(true),
            "0" | "N" => Some(false),
            _ => None,
        }
    }

    /// The word in brackets of a file that lists its choices, as `always [madvise] never`.
    pub fn chosen(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let (_, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    }

    /// The names in a folder, sorted; none if it isn't there.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(folder)).into_iter().flatten();
        let names = entries.flatten();
        let mut names: Vec<String> = names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// The numbers of the processors that count: those in `allowed`, else all that there are.
    pub fn cpus(&self, allowed: Option<&[u32]>) -> Vec<u32> {
        if let Some(allowed) = allowed {
            return allowed.to_vec();
        }
        let names = self.names("sys/devices/system/cpu").into_iter();
        let mut cpus: Vec<u32> = names
            .filter_map(|name| name.strip_prefix("cpu")?.parse().ok())
            .collect();
        cpus.sort_unstable();
        cpus
    }

    /// What `file` of each processor says, each once; `None` if none says anything.
    pub fn of_cpus(&self, cpus: &[u32], file: &str) -> Option<Vec<String>> {
        let mut values: Vec<String> = cpus
            .iter()
            .filter_map(|cpu| self.text(&format!("sys/devices/system/cpu/cpu{cpu}/{file}")))
            .collect();
        values.sort();
        values.dedup();
        (!values.is_empty()).then_some(values)
    }

    /// The numbers that `file` of each processor has.
    pub fn numbers_of_cpus(&self, cpus: &[u32], file: &str) -> Vec<u64> {
        let numbers = cpus.iter();
        numbers
            .filter_map(|cpu| self.number(&format!("sys/devices/system/cpu/cpu{cpu}/{file}")))
            .collect()
    }
}
