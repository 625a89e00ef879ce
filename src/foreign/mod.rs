//! Folders that other programs exported, read into variants that the engine can run.
//!
//! Nothing is prepared: the graphs are run as they are. What has to be known to feed them is read
//! from the graphs' inputs and outputs, and from the configuration beside them.

mod config;
mod error;
mod files;
mod graph_file;
mod interface;
mod names;
mod weights;

use std::fs;
use std::path::Path;

pub use error::ForeignError;
pub use files::{is_exported, is_for_genai};

use crate::file_names::hex;
use crate::graph::AttentionOperator;
use crate::prepared::{
    CacheTensor, DecodeReads, ForeignGraphs, Manifest, PreparedVariant, Variant,
};
use config::FolderConfig;
use files::GraphFiles;
use graph_file::GraphFile;
use sha2::{Digest, Sha256};

/// Reads the graphs at `path`: a folder, or the file of a graph.
///
/// # Errors
/// If a file can't be read, or a graph has an input that can't be fed.
pub fn read(path: &Path) -> Result<PreparedVariant, ForeignError> {
    let folder = files::config_folder(path);
    let config = FolderConfig::read(&folder)?;
    let files = GraphFiles::find(path, &config)?;
    let prompt = GraphFile::open(&files.prompt)?;
    let step = files.step.as_deref().map(GraphFile::open).transpose()?;
    let found = interface::read(&prompt, step.as_ref(), &config)?;
    let size = weights::size(step.as_ref().unwrap_or(&prompt));
    let positions = config.context_length.unwrap_or(usize::MAX);
    let fixed = found.graphs.cache.iter().filter_map(|one| one.length).min();
    let manifest = Manifest {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fingerprint: fingerprint(&files)?,
        prepare_seconds: 0.0,
        lay_out_seconds: None,
        variant: Variant::Exported,
        model_id: config
            .name
            .clone()
            .unwrap_or_else(|| folder.display().to_string()),
        model_folder: folder,
        synthetic: false,
        dtype: found.graphs.cache_dtype,
        compute: found.graphs.cache_dtype,
        attention: AttentionOperator::GroupQuery,
        mla: None,
        vocab_size: found.vocab_size,
        max_position_embeddings: fixed.map_or(positions, |fixed| fixed.min(positions)),
        positions_end: None,
        whole_prompts: false,
        frequencies_change_beyond: None,
        embedding_dim: config.hidden_size.unwrap_or(0),
        cache: found
            .graphs
            .cache
            .iter()
            .step_by(2)
            .map(|one| Some((one.heads, one.width)))
            .collect(),
        states: Vec::new(),
        head_dim: found.graphs.cache.first().map_or(0, |one| one.width),
        base_params: size.parameters,
        base_bytes: size.bytes,
        routed: size.has_experts,
        has_residuals: false,
        reads: DecodeReads {
            weight_bytes: size.bytes_per_step,
            adapter_bytes: 0,
            cache_bytes_per_position: cache_bytes_per_position(&found.graphs),
            state_bytes: 0,
        },
        quantization: None,
        base_quantization: None,
        adapter: None,
        portable: None,
        foreign: Some(found.graphs),
    };
    Ok(PreparedVariant {
        folder: path.to_owned(),
        manifest,
        up_to_date: true,
    })
}

fn cache_bytes_per_position(graphs: &ForeignGraphs) -> u64 {
    let row = |one: &CacheTensor| {
        let elements = one.heads.saturating_mul(one.width);
        elements.saturating_mul(graphs.cache_dtype.size()) as u64
    };
    graphs.cache.iter().map(row).fold(0, u64::saturating_add)
}

/// A hash that changes when a graph's file does. Weights may take gigabytes, so of files only name,
/// size and time are part of it.
fn fingerprint(files: &GraphFiles) -> Result<String, ForeignError> {
    let mut hash = Sha256::new();
    for graph in files.all() {
        let folder = graph.parent().unwrap_or(Path::new("."));
        let failed = |source| ForeignError::Read {
            path: folder.to_owned(),
            source,
        };
        let mut beside: Vec<_> = fs::read_dir(folder).map_err(failed)?.flatten().collect();
        beside.sort_by_key(fs::DirEntry::path);
        for entry in beside {
            let about = entry.metadata().map_err(failed)?;
            let text = format!(
                "{:?} {} {:?}\n",
                entry.path(),
                about.len(),
                about.modified().ok()
            );
            hash.update(text);
        }
    }
    Ok(hex(&hash.finalize()))
}
