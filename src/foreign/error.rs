//! Folders of other programs that can't be measured.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why an exported folder can't be run.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum ForeignError {
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot parse `{}`", path.display())]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("`{}` is not an ONNX graph", path.display())]
    Graph {
        path: PathBuf,
        source: prost::DecodeError,
    },
    #[error("`{}` has no graph", .0.display())]
    Empty(PathBuf),
    #[error("`{}` names the graph `{}`, which isn't there", config.display(), graph.display())]
    MissingGraph { config: PathBuf, graph: PathBuf },
    #[error("`{}` names the graph `{}`, which isn't a path inside its folder", config.display(), graph.display())]
    Outside { config: PathBuf, graph: PathBuf },
    #[error(
        "`{}` has several graphs ({}), and none is called `model.onnx`; name the file of one",
        folder.display(),
        graphs.join(", ")
    )]
    Several {
        folder: PathBuf,
        graphs: Vec<String>,
    },
    #[error(
        "`{}` describes a pipeline of several graphs (`model.decoder.pipeline`); only a decoder in one graph, or in one for \
         prompts and one for steps, can be fed",
        .0.display()
    )]
    Pipeline(PathBuf),
    #[error("`{}` runs on the CPU alone here: it isn't this program's; use `--ep cpu`", .0.display())]
    Gpu(PathBuf),
    #[error("`{}` can't be fed: its input `{input}` ({kind}) needs {needs}", graph.display())]
    Input {
        graph: PathBuf,
        input: String,
        kind: String,
        needs: String,
    },
    #[error("`{}` can't be fed: it has no input `{input}`, {what}", graph.display())]
    NoInput {
        graph: PathBuf,
        input: String,
        what: &'static str,
    },
    #[error("`{}` can't be used: its output `{output}` ({kind}) should be {expected}", graph.display())]
    Output {
        graph: PathBuf,
        output: String,
        kind: String,
        expected: &'static str,
    },
    #[error("`{}` can't be used: it has no output `{output}`, {what}", graph.display())]
    NoOutput {
        graph: PathBuf,
        output: String,
        what: &'static str,
    },
    #[error(
        "`{}` takes no cache of keys and values, so every token would cost a run over the whole text; export it again with \
         its cache (with Optimum: `--task text-generation-with-past`)",
        .0.display()
    )]
    NoCache(PathBuf),
    #[error(
        "`{}` can't be fed: the graph leaves {what} of `{tensor}` open, and no configuration beside it has {key}",
        graph.display()
    )]
    OpenSize {
        graph: PathBuf,
        tensor: String,
        what: &'static str,
        key: &'static str,
    },
}
