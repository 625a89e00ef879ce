//! Earlier measurements of base models, under a key of everything that could change them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::engine::EngineOptions;
use crate::file_names::hex;
use crate::files::write_file;
use crate::measure::record::{PromptPlan, SubjectRecord};
use crate::onnxruntime::library::Library;
use crate::prepared::Manifest;
use crate::system::{Hardware, SystemInfo};

/// Everything that could change a base's measurement.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct CacheKey(Value);

impl CacheKey {
    /// The key of a measurement of so many runs in each of so many starts.
    pub fn new(
        manifest: &Manifest,
        prompts: &[PromptPlan],
        [runs, starts]: [usize; 2],
        options: &EngineOptions,
        library: &Library,
        hardware: &Hardware,
        system: &SystemInfo,
    ) -> Self {
        let mut key = serde_json::json!({
            "program": env!("CARGO_PKG_VERSION"),
            "model": manifest.fingerprint,
            "model_id": manifest.model_id,
            "dtype": manifest.dtype,
            "compute": manifest.compute,
            "prompts": prompts,
            "runs": runs,
            "starts": starts,
            "provider": options.provider,
            "threads": options.threads,
            "batch_size": options.batch_size,
            "weights": options.weights,
            "cuda_graph": options.cuda_graph,
            "onnxruntime": library.version,
            "onnxruntime_path": library.path,
            "hardware": hardware,
            "machine": [&system.machine, system.processor.as_deref().unwrap_or("")],
            "kernel": system.release,
            "cores": [system.physical_cores, system.usable_cores],
            "total_ram_bytes": system.total_ram_bytes,
        });
        if let Some(layers) = options.gpu_layers {
            key["gpu_layers"] = layers.into();
        }
        Self(key)
    }

    fn file_name(&self) -> String {
        let digest = Sha256::digest(self.0.to_string().as_bytes());
        let mut name = hex(&digest[..12]);
        name.push_str(".json");
        name
    }
}

/// Measurements of base models below `results/base/`.
#[derive(Debug)]
pub struct BaseCache {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    key: CacheKey,
    record: SubjectRecord,
}

impl BaseCache {
    /// The cache below the results' folder.
    pub fn new(results: &Path) -> Self {
        Self {
            folder: results.join("base"),
        }
    }

    /// The file of `key`.
    pub fn path(&self, key: &CacheKey) -> PathBuf {
        self.folder.join(key.file_name())
    }

    /// The measurement under exactly this key. What can't be read counts as absent: it's measured
    /// anew.
    pub fn get(&self, key: &CacheKey) -> Option<SubjectRecord> {
        let text = std::fs::read(self.path(key)).ok()?;
        let entry: Entry = serde_json::from_slice(&text).ok()?;
        (entry.key == *key && entry.record.error.is_none()).then_some(entry.record)
    }

    /// Keeps a measurement.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn put(&self, key: &CacheKey, record: &SubjectRecord) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let entry = Entry {
            key: key.clone(),
            record: record.clone(),
        };
        write_file(&self.path(key), &serde_json::to_vec(&entry)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::subject::Subject;
    use crate::prepared::{Variant, stand_in};

    fn record() -> SubjectRecord {
        SubjectRecord {
            session_seconds: 0.5,
            warmup_runs: 1,
            ..SubjectRecord::new(Subject::Base, None, &stand_in(Variant::Base), 1)
        }
    }

    #[test]
    fn only_the_same_key_finds_a_measurement() {
        let folder = tempfile::tempdir().unwrap();
        let cache = BaseCache::new(folder.path());
        let key = |threads: usize| CacheKey(serde_json::json!({ "threads": threads }));
        cache.put(&key(2), &record()).unwrap();
        assert_eq!(cache.get(&key(2)), Some(record()));
        assert_eq!(cache.get(&key(1)), None);
    }

    #[test]
    fn a_damaged_entry_counts_as_absent() {
        let folder = tempfile::tempdir().unwrap();
        let cache = BaseCache::new(folder.path());
        let key = CacheKey(serde_json::json!({}));
        cache.put(&key, &record()).unwrap();
        std::fs::write(cache.path(&key), b"{").unwrap();
        assert_eq!(cache.get(&key), None);
    }
}
