//! What the manifest of a portable folder has beyond that of a prepared one.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::AdapterSummary;

/// The content of a portable folder, and how to tell that it's intact.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Portable {
    /// All other files, by their path in the folder.
    pub files: BTreeMap<String, FileDigest>,
    /// What the graph generated when the folder was written; `None` if it wasn't run.
    pub sample: Option<Sample>,
    /// What was compared when the folder was written, in sentences.
    pub checks: Vec<String>,
    /// The adapters that can be bound to the graph.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<PortableAdapter>,
}

/// An adapter beside a portable graph.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PortableAdapter {
    /// Its name, which is that of its file without the ending.
    pub name: String,
    /// The adapter; its `file` is a path in the folder.
    pub adapter: AdapterSummary,
    /// What the graph generated with it; `None` if it wasn't run.
    pub sample: Option<Sample>,
}

impl Portable {
    /// The folder of the adapters' files, in a portable folder.
    pub const ADAPTERS: &str = "adapters";

    /// The paths of all files that it names.
    pub fn named(&self) -> impl Iterator<Item = &Path> {
        let of_adapters = self.adapters.iter();
        let of_adapters = of_adapters.filter_map(|own| own.adapter.file.as_deref());
        self.files.keys().map(Path::new).chain(of_adapters)
    }
}

/// A file's size and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of its content, in hexadecimal.
    pub sha256: String,
}

/// A prompt, and the tokens that follow greedily.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The prompt.
    pub prompt_ids: Vec<u32>,
    /// The tokens that were generated.
    pub token_ids: Vec<u32>,
    /// The logit of each of these tokens.
    pub logits: Vec<f32>,
    /// The largest allowed difference of a logit, relative to the largest one.
    pub tolerance: f32,
}
