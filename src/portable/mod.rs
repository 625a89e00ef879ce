//! Portable folders: a variant with everything that's needed to run it elsewhere.
//!
//! ```text
//! <folder>/
//!     model.onnx              the prepared graph, for batches of unequal lengths
//!     model.onnx.data         the weights that it uses; or weights-<n>.safetensors, hard links
//!     adapters/               one `.onnx_adapter` for each adapter that can be bound to the graph
//!     genai_config.json       for onnxruntime-genai
//!     config.json, generation_config.json, a tokenizer with its chat template
//!     README.md               a model card: what was made from what, and what was checked
//!     manifest.json           as of a prepared folder, with the hashes of all other files
//! ```
//!
//! The folder is written under a temporary name, run there, and renamed if it gives what the
//! prepared variant gives.

mod adapters;
mod card;
mod check;
mod data;
mod defaults;
mod folder;
mod genai;
mod layout;
mod plain;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use prost::Message;
use tempfile::TempDir;
use thiserror::Error;

pub use adapters::{AdapterSource, Member, write_adapters};
pub use check::{Checked, Expected, TOKENS, repeat};
pub use data::Weights;
pub use folder::damage;
pub use layout::AdapterLayout;
pub use plain::{PlainError, PlainSession};

use crate::adapter::AdapterError;
use crate::files::{self, temporary_folder, write_file};
use crate::graph::for_unequal_lengths;
use crate::graph::proto::Model;
use crate::model::BaseModel;
use crate::onnxruntime::OnnxRuntime;
use crate::prepare::{PrepareError, copy_tokenizer, model_config};
use crate::prepared::{GRAPH, HERE, Manifest, Portable, PreparedVariant};
use crate::weights::WeightsError;
use card::{CARD, Card};
use data::DataFile;
use genai::SpecialTokens;

/// The base's defaults for generation.
const GENERATION: &str = "generation_config.json";

/// Why a portable folder has fewer positions than its model.
const FREQUENCIES: &str =
    "beyond them every cached key would have to be computed again, which a plain loop doesn't do";

/// Files of the base that state its license.
const LICENSES: [&str; 6] = [
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "NOTICE.txt",
    "USE_POLICY.md",
];

/// A portable folder that can't be written or used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum PortableError {
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "`{}` can't be linked into the folder, which must be on the same file system; leave out `--links` to copy the \
         weights",
        path.display()
    )]
    Link { path: PathBuf, source: io::Error },
    #[error("`{}` is not a graph that this program wrote; prepare it again", path.display())]
    Graph {
        path: PathBuf,
        source: prost::DecodeError,
    },
    #[error(
        "`{}` exists and is neither empty nor a portable folder; choose another one",
        path.display()
    )]
    Occupied { path: PathBuf },
    #[error(
        "`{}` can't be replaced: `{}` is inside, which the new folder is made from; choose another one",
        path.display(),
        inside.display()
    )]
    Source { path: PathBuf, inside: PathBuf },
    #[error(
        "{what} by {found:.1e} {of}, {allowed:.0e} is allowed; the folder isn't written (`--no-check` writes it without \
         this check)"
    )]
    Differs {
        what: &'static str,
        found: f32,
        of: &'static str,
        allowed: f32,
    },
    #[error(
        "`--adapter-layout olive` is for LoRA on linear layers, and `{name}` is the input of a `{operator}`"
    )]
    Olive { name: String, operator: String },
    #[error(
        "no portable folder of a `{model_type}`: its layers have states, and programs that pad shorter prompts of a \
         batch on the right would run the padding through them. `prepare` without `--portable` writes a graph for \
         prompts of one length"
    )]
    States { model_type: String },
    #[error(transparent)]
    Plain(#[from] PlainError),
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Prepare(#[from] Box<PrepareError>),
}

impl From<PrepareError> for PortableError {
    fn from(error: PrepareError) -> Self {
        Self::Prepare(Box::new(error))
    }
}

/// What every portable folder is made from.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The base model.
    pub base: &'a BaseModel,
    /// The folder of the tokenizer.
    pub tokenizer: &'a Path,
    /// How weights get into the folder.
    pub weights: Weights,
    /// What the written graph is run with.
    pub runtime: &'a OnnxRuntime,
    /// Threads for that.
    pub threads: usize,
}

/// Checks that a portable folder may be written to `folder`, before anything is prepared.
///
/// # Errors
/// If something else is there, or what it would be made from.
pub fn check_place(folder: &Path, sources: &[&Path]) -> Result<(), PortableError> {
    folder::place(folder, sources)?;
    Ok(())
}

/// Checks that the layers of `base` keep keys and values alone, before anything is prepared.
///
/// # Errors
/// If they have states.
pub fn check_states(base: &BaseModel) -> Result<(), PortableError> {
    match base.spec.has_states() {
        true => Err(PortableError::States {
            model_type: base.spec.model_type.clone(),
        }),
        false => Ok(()),
    }
}

/// Writes a portable folder of one prepared variant, without adapters beside its graph. An earlier
/// folder is replaced once the new one is complete. Returns its manifest.
///
/// # Errors
/// If a file can't be read or written, or the written graph doesn't give what the variant gives.
pub fn write(
    surroundings: Surroundings,
    variant: &PreparedVariant,
    checked: &Checked,
    folder: &Path,
) -> Result<Manifest, PortableError> {
    let making = Making::begin(surroundings, folder, &variant.folder)?;
    let model = read_graph(&variant.folder)?;
    let (model, _) = making.bring(model, &variant.folder)?;
    let mut manifest = variant.manifest.clone();
    let tokens = making.put_all(model, &mut manifest)?;
    let mut portable = Portable::default();
    if let Some(parity) = &checked.parity {
        portable.checks = check::of_parity(parity, manifest.variant);
    }
    if let Some(expected) = &checked.expected {
        let mut session = making.open(&manifest)?;
        let ran = check::run(&mut session, &manifest, expected, tokens.pad)?;
        let of = "the variant that `peft-bench` measures";
        portable.checks.extend(ran.sentences(of));
        portable.sample = Some(ran.sample);
    }
    making.finish(manifest, &tokens, portable)
}

/// A portable folder that's being written, under a temporary name.
struct Making<'a> {
    from: Surroundings<'a>,
    target: PathBuf,
    partial: TempDir,
}

impl<'a> Making<'a> {
    fn begin(
        from: Surroundings<'a>,
        folder: &Path,
        prepared: &Path,
    ) -> Result<Self, PortableError> {
        check_states(from.base)?;
        let target = folder::place(folder, &[&from.base.folder, prepared])?;
        let parent = target.parent().unwrap_or(Path::new("/"));
        let partial = temporary_folder::create(parent).map_err(|source| PortableError::Write {
            path: target.clone(),
            source,
        })?;
        Ok(Self {
            from,
            target,
            partial,
        })
    }

    /// The folder, until it's complete.
    fn made(&self) -> &Path {
        self.partial.path()
    }

    fn put(&self, name: &str, text: &[u8]) -> Result<(), PortableError> {
        write_file(&self.made().join(name), text).map_err(|source| PortableError::Write {
            path: self.target.join(name),
            source,
        })
    }

    /// Brings the external data of `model` into the folder; locations are relative to `from`.
    fn bring(&self, mut model: Model, from: &Path) -> Result<(Model, DataFile), PortableError> {
        let from = fs::canonicalize(from).map_err(|source| PortableError::Read {
            path: from.to_owned(),
            source,
        })?;
        let mut data = DataFile::new(self.made());
        self.from
            .weights
            .bring(&mut model, &from, self.made(), &mut data)?;
        Ok((model, data))
    }

    /// Writes the graph, and all that's needed to run it.
    fn put_all(
        &self,
        mut model: Model,
        manifest: &mut Manifest,
    ) -> Result<SpecialTokens, PortableError> {
        let base = self.from.base;
        for_unequal_lengths(&mut model, manifest.vocab_size);
        self.put(GRAPH, &model.encode_to_vec())?;
        manifest.model_folder = HERE.into();
        if let Some(beyond) = manifest.frequencies_change_beyond {
            manifest.max_position_embeddings = manifest.max_position_embeddings.min(beyond);
            manifest.positions_end = Some(FREQUENCIES.to_owned());
        }
        if let Some(adapter) = &mut manifest.adapter {
            adapter.folder = HERE.into();
        }
        let tokens = SpecialTokens::of(base, manifest);
        let genai = genai::config(base, manifest, &tokens);
        self.put(genai::CONFIG, pretty(&genai).as_bytes())?;
        let config = model_config(base, manifest);
        self.put("config.json", pretty(&config).as_bytes())?;
        for name in LICENSES.into_iter().chain([GENERATION]) {
            copy(&base.folder, name, self.made())?;
        }
        copy_tokenizer(self.from.tokenizer, self.made())?;
        Ok(tokens)
    }

    /// Opens the graph as it's written.
    fn open(&self, manifest: &Manifest) -> Result<PlainSession, PortableError> {
        let (runtime, threads) = (self.from.runtime, self.from.threads);
        Ok(PlainSession::open(runtime, self.made(), manifest, threads)?)
    }

    /// Writes the card and the manifest, and gives the folder its name.
    fn finish(
        self,
        mut manifest: Manifest,
        tokens: &SpecialTokens,
        portable: Portable,
    ) -> Result<Manifest, PortableError> {
        let card = Card {
            base: self.from.base,
            manifest: &manifest,
            tokens,
            weights: self.from.weights,
            portable: &portable,
        };
        self.put(CARD, card.text().as_bytes())?;
        manifest.portable = Some(Portable {
            files: folder::digests(self.made())?,
            ..portable
        });
        let failed = |source| PortableError::Write {
            path: self.target.join(Manifest::FILE),
            source,
        };
        manifest.write(self.made()).map_err(failed)?;
        temporary_folder::replace(self.made(), &self.target).map_err(failed)?;
        Ok(manifest)
    }
}

fn read_graph(folder: &Path) -> Result<Model, PortableError> {
    let path = folder.join(GRAPH);
    let bytes = files::read(&path).map_err(|source| PortableError::Read {
        path: path.clone(),
        source,
    })?;
    Model::decode(bytes.as_slice()).map_err(|source| PortableError::Graph { path, source })
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// Copies `from/name` into `made`, if that file exists.
fn copy(from: &Path, name: &str, made: &Path) -> Result<(), PortableError> {
    let path = from.join(name);
    if !path.is_file() {
        return Ok(());
    }
    let copied = fs::copy(&path, made.join(name));
    copied.map_err(|source| PortableError::Read { path, source })?;
    Ok(())
}
