//! Which files of a folder are its graphs.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::ForeignError;
use super::config::{FolderConfig, GENAI_CONFIG};
use crate::files::is_plain;

/// The graph of a folder that has one for prompts and for decode steps.
const MODEL: &str = "model.onnx";

/// Graphs for prompts and for decode steps: of Transformers' exporter, and of older versions of
/// Optimum.
const PAIRS: [[&str; 2]; 2] = [
    ["prefill.onnx", "decode.onnx"],
    ["decoder_model.onnx", "decoder_with_past_model.onnx"],
];

/// The subfolder in which repositories of checkpoints keep their graphs.
const SUBFOLDER: &str = "onnx";

/// The files of a folder's graphs.
#[derive(Debug, PartialEq, Eq)]
pub struct GraphFiles {
    /// Runs prompts, and steps too where there's no other.
    pub prompt: PathBuf,
    /// Runs decode steps.
    pub step: Option<PathBuf>,
}

/// Whether `path` is a graph, or a folder that holds one.
pub fn is_exported(path: &Path) -> bool {
    let has_graph = |folder: &Path| !graphs_in(folder).is_empty();
    is_graph(path) || is_for_genai(path) || has_graph(path) || has_graph(&path.join(SUBFOLDER))
}

/// Whether `folder` is described for onnxruntime-genai.
pub fn is_for_genai(folder: &Path) -> bool {
    folder.join(GENAI_CONFIG).is_file()
}

/// The folder with the configuration and the tokenizer of the graphs at `path`.
pub fn config_folder(path: &Path) -> PathBuf {
    if !is_graph(path) {
        return path.to_owned();
    }
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let above = folder.parent().filter(|_| folder.ends_with(SUBFOLDER));
    let has_config = |folder: &Path| folder.join("config.json").is_file();
    match above {
        Some(above) if !has_config(folder) && has_config(above) => above.to_owned(),
        _ => folder.to_owned(),
    }
}

impl GraphFiles {
    /// Finds the graphs at `path`, a folder or a graph's file.
    ///
    /// # Errors
    /// If there's none, or it can't be told which of several is meant.
    pub fn find(path: &Path, config: &FolderConfig) -> Result<Self, ForeignError> {
        let single = |prompt: PathBuf| Self { prompt, step: None };
        if is_graph(path) {
            return Ok(single(path.to_owned()));
        }
        if let Some(name) = &config.graph {
            if !is_plain(name) {
                let config = path.join(GENAI_CONFIG);
                let graph = name.clone();
                return Err(ForeignError::Outside { config, graph });
            }
            let graph = path.join(name);
            if !graph.is_file() {
                let config = path.join(GENAI_CONFIG);
                return Err(ForeignError::MissingGraph { config, graph });
            }
            return Ok(single(graph));
        }
        for folder in [path.to_owned(), path.join(SUBFOLDER)] {
            for pair in PAIRS {
                let [prompt, step] = pair.map(|name| folder.join(name));
                if prompt.is_file() && step.is_file() {
                    return Ok(Self {
                        prompt,
                        step: Some(step),
                    });
                }
            }
            let model = folder.join(MODEL);
            if model.is_file() {
                return Ok(single(model));
            }
            match graphs_in(&folder).as_slice() {
                [] => {}
                [only] => return Ok(single(folder.join(only))),
                several => {
                    let graphs = several.to_vec();
                    return Err(ForeignError::Several { folder, graphs });
                }
            }
        }
        Err(ForeignError::Empty(path.to_owned()))
    }

    /// All files.
    pub fn all(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.prompt).chain(&self.step)
    }
}

fn is_graph(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("onnx")) && path.is_file()
}

/// The names of the graphs in `folder`, in their order.
fn graphs_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let graphs = entries.filter(|entry| is_graph(&entry.path()));
    let mut names: Vec<String> = graphs
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    #[test]
    fn graphs_are_found_by_their_names() {
        for (files, prompt, step) in [
            (&["model.onnx", "other.onnx"][..], "model.onnx", None),
            (
                &["prefill.onnx", "decode.onnx"],
                "prefill.onnx",
                Some("decode.onnx"),
            ),
            (&["model_q4.onnx"], "model_q4.onnx", None),
            (&["onnx/model.onnx", "config.json"], "onnx/model.onnx", None),
        ] {
            let folder = folder_with(files);
            assert!(is_exported(folder.path()));
            let found = GraphFiles::find(folder.path(), &FolderConfig::default()).unwrap();
            assert_eq!(found.prompt, folder.path().join(prompt));
            assert_eq!(found.step, step.map(|step| folder.path().join(step)));
        }
        assert!(!is_exported(folder_with(&["config.json"]).path()));
    }

    #[test]
    fn a_graph_outside_its_folder_is_refused() {
        let folder = folder_with(&["in/genai_config.json", "model.onnx"]);
        for name in ["../model.onnx", "/dev/zero"] {
            let config = FolderConfig {
                graph: Some(name.into()),
                ..FolderConfig::default()
            };
            let error = GraphFiles::find(&folder.path().join("in"), &config).unwrap_err();
            let message = error.to_string();
            assert!(
                message.contains(name) && message.contains("inside"),
                "{message}"
            );
        }
    }

    #[test]
    fn one_of_several_graphs_has_to_be_named() {
        let folder = folder_with(&["onnx/model_q4.onnx", "onnx/model_fp16.onnx", "config.json"]);
        let error = GraphFiles::find(folder.path(), &FolderConfig::default()).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("(model_fp16.onnx, model_q4.onnx)"),
            "{message}"
        );
        let named = folder.path().join("onnx/model_q4.onnx");
        let found = GraphFiles::find(&named, &FolderConfig::default()).unwrap();
        assert_eq!((found.prompt, found.step), (named.clone(), None));
        assert_eq!(config_folder(&named), folder.path());
    }
}
