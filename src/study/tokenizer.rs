//! Which tokenizer text goes through: the base's, the one that was saved with the adapter, or
//! another.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::observer::Note;
use super::setup::Setup;
use crate::files;
use crate::model::{TOKENIZER_FILES, TextTokenizer, TokenizerError, has_tokenizer};
use crate::prepared::{Manifest, PreparedVariant, Variant};
use crate::report::model::{Tokenizer, TokenizerOwner as Owner};

/// A tokenizer that can't be had, or doesn't fit the model.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum TokenizerChoiceError {
    #[error(
        "`--tokenizer adapter` can't be had: `{}` has no tokenizer; `--tokenizer base` takes the base's",
        .0.display()
    )]
    NotSaved(PathBuf),
    #[error("`--tokenizer adapter` goes with an adapter, and there's none here")]
    NoAdapter,
    #[error("`--tokenizer {folder}`: there is no folder `{folder}`", folder = .0.display())]
    NoFolder(PathBuf),
    #[error(transparent)]
    WorkingFolder(#[from] std::io::Error),
    #[error("there is nothing to tokenize for")]
    NoVariants,
    #[error(
        "token id {id} of a prompt is not in the vocabulary of `{variant}` (0 to {last}); it comes from {place} (`{}`); {}",
        place.folder.display(),
        place.advice()
    )]
    Vocabulary {
        id: u32,
        variant: Variant,
        last: usize,
        place: TokenizerPlace,
    },
}

/// Which tokenizer texts go through, for every variant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TokenizerChoice {
    /// The adapter's where it was saved with one, else the base's.
    #[default]
    Usual,
    /// The base's.
    Base,
    /// The adapter's; an error where it has none.
    Adapter,
    /// That of another folder, or of its `tokenizer.json`.
    Path(PathBuf),
}

/// Where a tokenizer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerPlace {
    owner: Owner,
    /// Its folder.
    pub folder: PathBuf,
    base: PathBuf,
    /// Whether it was chosen.
    pub chosen: bool,
}

/// How a tokenizer compares with the base's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenizerDifference {
    /// It's the adapter's, and gives other tokens.
    OfAdapter,
    /// It was chosen, and gives other tokens.
    OfChoice,
    /// The base has none that can be used.
    BaseHasNone,
}

impl TokenizerChoice {
    /// How it's written in results; `None` for the usual one.
    pub fn written(&self) -> Option<String> {
        match self {
            Self::Usual => None,
            Self::Base => Some("base".to_owned()),
            Self::Adapter => Some("adapter".to_owned()),
            Self::Path(path) => Some(path.display().to_string()),
        }
    }

    /// The tokenizer for the model in `base` with the adapter in `adapter`, if there's one.
    ///
    /// # Errors
    /// If the adapter's is chosen and there's none, or the folder isn't there.
    pub fn place(
        &self,
        base: &Path,
        adapter: Option<&Path>,
    ) -> Result<TokenizerPlace, TokenizerChoiceError> {
        let own = adapter.filter(|folder| has_tokenizer(folder));
        let (owner, folder) = match (self, own) {
            (Self::Usual | Self::Adapter, Some(own)) => (Owner::Adapter, own),
            (Self::Usual | Self::Base, _) => (Owner::Base, base),
            (Self::Adapter, None) => {
                return Err(match adapter {
                    Some(folder) => TokenizerChoiceError::NotSaved(folder.to_owned()),
                    None => TokenizerChoiceError::NoAdapter,
                });
            }
            // A `tokenizer.json` stands for its folder, which has what belongs to it.
            (Self::Path(path), _) => match path.is_file() {
                true => (Owner::Other, path.parent().unwrap_or(Path::new("."))),
                false => (Owner::Other, path.as_path()),
            },
        };
        if !folder.is_dir() {
            return Err(TokenizerChoiceError::NoFolder(folder.to_owned()));
        }
        Ok(TokenizerPlace {
            owner,
            folder: std::path::absolute(folder)?,
            base: base.to_owned(),
            chosen: *self != Self::Usual,
        })
    }

    /// The tokenizer for prepared variants of one base.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub fn place_of(
        &self,
        variants: &[&PreparedVariant],
    ) -> Result<TokenizerPlace, TokenizerChoiceError> {
        let base = variants
            .iter()
            .find(|one| one.manifest.variant == Variant::Base)
            .or(variants.first());
        let Some(base) = base.map(|base| &base.manifest.model_folder) else {
            return Err(TokenizerChoiceError::NoVariants);
        };
        let own = |one: &&PreparedVariant| saved_with(&one.manifest, base);
        let adapter = variants.iter().find_map(own);
        self.place(base, adapter.as_deref())
    }

    /// The folder of the tokenizer of the adapter in `adapter`, if texts go through that.
    pub fn own(&self, adapter: &Path) -> Option<PathBuf> {
        let adapters = matches!(self, Self::Usual | Self::Adapter);
        (adapters && has_tokenizer(adapter)).then(|| adapter.to_owned())
    }
}

/// Where a variant's adapter may have a tokenizer: in its folder, or, where it was merged, with the
/// merged model.
fn saved_with(manifest: &Manifest, base: &Path) -> Option<PathBuf> {
    if manifest.variant == Variant::Exported {
        return None;
    }
    let adapter = manifest.adapter.as_ref();
    let folder = adapter.map(|adapter| adapter.folder.clone());
    folder.or_else(|| (manifest.model_folder != base).then(|| manifest.model_folder.clone()))
}

impl TokenizerPlace {
    /// Opens it.
    ///
    /// # Errors
    /// If it can't be used.
    pub fn open(&self) -> Result<TextTokenizer, TokenizerError> {
        TextTokenizer::open(&self.folder)
    }

    /// What results say of it.
    pub fn in_result(&self) -> Tokenizer {
        Tokenizer {
            of: self.owner,
            path: self.folder.clone(),
        }
    }

    /// Notes where texts go through this `tokenizer`, which isn't the base's and doesn't give the
    /// same tokens.
    pub(crate) fn note(&self, setup: &Setup, tokenizer: &TextTokenizer) {
        if self.owner == Owner::Base {
            return;
        }
        let difference = match TextTokenizer::open(&self.base) {
            Ok(base) if base.is_like(tokenizer) => return,
            Ok(_) if self.owner == Owner::Adapter => TokenizerDifference::OfAdapter,
            Ok(_) => TokenizerDifference::OfChoice,
            Err(_) => TokenizerDifference::BaseHasNone,
        };
        setup.note(Note::OtherTokenizer {
            place: self,
            difference,
        });
    }

    /// Notes where a checkpoint gets a tokenizer whose files aren't the base's.
    pub(crate) fn note_copied(&self, setup: &Setup) {
        let same = |name: &str| {
            let read = |folder: &Path| files::read(&folder.join(name)).ok();
            read(&self.folder) == read(&self.base)
        };
        if !TOKENIZER_FILES.iter().all(|name| same(name)) {
            setup.note(Note::CheckpointTokenizer(self));
        }
    }

    /// Checks that a variant has all tokens of a prompt.
    ///
    /// # Errors
    /// If one isn't in its vocabulary.
    pub fn check_vocabulary(
        &self,
        prompt_ids: &[u32],
        manifest: &Manifest,
    ) -> Result<(), TokenizerChoiceError> {
        let rows = manifest.vocab_size;
        match prompt_ids.iter().find(|id| **id as usize >= rows) {
            None => Ok(()),
            Some(&id) => Err(TokenizerChoiceError::Vocabulary {
                id,
                variant: manifest.variant,
                last: rows.saturating_sub(1),
                place: self.clone(),
            }),
        }
    }

    fn advice(&self) -> &'static str {
        match self.owner {
            Owner::Base => "its files don't belong together; give another with `--tokenizer PATH`",
            Owner::Adapter | Owner::Other => "`--tokenizer base` takes the base's",
        }
    }
}

impl fmt::Display for TokenizerPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.owner {
            Owner::Base => "the base's tokenizer",
            Owner::Adapter => "the adapter's tokenizer",
            Owner::Other => "the tokenizer that was asked for",
        })
    }
}
