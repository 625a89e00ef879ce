//! Which tokenizer text goes through: the base's, the one that was saved with the adapter, or another.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, bail};
use clap::Args;

use super::progress::message;
use crate::model::{TOKENIZER_FILES, TextTokenizer, TokenizerError, has_tokenizer};
use crate::prepared::{Manifest, PreparedVariant, Variant};
use crate::report::model::{Tokenizer, TokenizerOwner as Owner};

/// `--tokenizer`
#[derive(Debug, Clone, Args)]
pub struct TokenizerOptions {
    /// Tokenizer of texts, for every variant: the base's, the adapter's, or another folder's [default: the adapter's where
    /// it was saved with one].
    #[arg(long = "tokenizer", value_name = "base|adapter|PATH")]
    choice: Option<TokenizerChoice>,
}

/// A value of `--tokenizer`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TokenizerChoice {
    Base,
    Adapter,
    Path(PathBuf),
}

impl FromStr for TokenizerChoice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "base" => Self::Base,
            "adapter" => Self::Adapter,
            path => Self::Path(PathBuf::from(path)),
        })
    }
}

/// Where a tokenizer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerPlace {
    owner: Owner,
    /// Its folder.
    pub folder: PathBuf,
    base: PathBuf,
    /// Whether it was asked for.
    pub asked: bool,
}

impl TokenizerOptions {
    /// What was asked for, as it's written.
    pub fn given(&self) -> Option<String> {
        let choice = self.choice.as_ref()?;
        Some(match choice {
            TokenizerChoice::Base => "base".to_owned(),
            TokenizerChoice::Adapter => "adapter".to_owned(),
            TokenizerChoice::Path(path) => path.display().to_string(),
        })
    }

    /// The tokenizer for the model in `base` with the adapter in `adapter`, if there's one.
    ///
    /// # Errors
    /// If the adapter's is asked for, and there's none.
    pub fn place(&self, base: &Path, adapter: Option<&Path>) -> Result<TokenizerPlace> {
        let own = adapter.filter(|folder| has_tokenizer(folder));
        let (owner, folder) = match (&self.choice, own) {
            (None | Some(TokenizerChoice::Adapter), Some(own)) => (Owner::Adapter, own),
            (None | Some(TokenizerChoice::Base), _) => (Owner::Base, base),
            (Some(TokenizerChoice::Adapter), None) => match adapter {
                Some(folder) => bail!(
                    "`--tokenizer adapter` can't be had: `{}` has no tokenizer; `--tokenizer base` takes the base's",
                    folder.display()
                ),
                None => bail!("`--tokenizer adapter` goes with an adapter, and there's none here"),
            },
            // A `tokenizer.json` stands for its folder, which has what belongs to it.
            (Some(TokenizerChoice::Path(path)), _) => match path.is_file() {
                true => (Owner::Other, path.parent().unwrap_or(Path::new("."))),
                false => (Owner::Other, path.as_path()),
            },
        };
        if !folder.is_dir() {
            bail!(
                "`--tokenizer {0}`: there is no folder `{0}`",
                folder.display()
            );
        }
        Ok(TokenizerPlace {
            owner,
            folder: std::path::absolute(folder)?,
            base: base.to_owned(),
            asked: self.choice.is_some(),
        })
    }

    /// The same for prepared variants, of one base.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub fn place_of(&self, variants: &[&PreparedVariant]) -> Result<TokenizerPlace> {
        let base = variants
            .iter()
            .find(|one| one.manifest.variant == Variant::Base)
            .or(variants.first());
        let Some(base) = base.map(|base| &base.manifest.model_folder) else {
            bail!("there is nothing to tokenize for");
        };
        let own = |one: &&PreparedVariant| saved_with(&one.manifest, base);
        let adapter = variants.iter().find_map(own);
        self.place(base, adapter.as_deref())
    }

    /// The folder of the adapter's tokenizer, if that's the one for texts.
    pub fn own(&self, adapter: &Path) -> Option<PathBuf> {
        let adapters = matches!(self.choice, None | Some(TokenizerChoice::Adapter));
        (adapters && has_tokenizer(adapter)).then(|| adapter.to_owned())
    }
}

/// Where a variant's adapter may have a tokenizer: in its folder, or, where it was merged, with the merged model.
fn saved_with(manifest: &Manifest, base: &Path) -> Option<PathBuf> {
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

    /// What a result says of it.
    pub fn in_result(&self) -> Tokenizer {
        Tokenizer {
            of: self.owner,
            path: self.folder.clone(),
        }
    }

    /// Says so where texts don't go through the base's tokenizer, and that would give something else.
    pub fn note(&self, tokenizer: &TextTokenizer) {
        if self.owner == Owner::Base {
            return;
        }
        let folder = self.folder.display();
        let rest = match TextTokenizer::open(&self.base) {
            Ok(base) if base.is_like(tokenizer) => return,
            Ok(_) if self.owner == Owner::Adapter => {
                "which differs from the base's; `--tokenizer base` takes that"
            }
            Ok(_) => "which differs from the base's",
            Err(_) => "and the base has none that can be used",
        };
        message(&format!(
            "note: texts go through {self} (`{folder}`), {rest}"
        ));
    }

    /// Says so where a checkpoint gets a tokenizer whose files aren't the base's.
    pub fn note_copied(&self) {
        let same = |name: &str| {
            let read = |folder: &Path| fs::read(folder.join(name)).ok();
            read(&self.folder) == read(&self.base)
        };
        if !TOKENIZER_FILES.iter().all(|name| same(name)) {
            let folder = self.folder.display();
            message(&format!("note: the checkpoint gets {self} (`{folder}`)"));
        }
    }

    /// Checks that a variant has all tokens of a prompt.
    ///
    /// # Errors
    /// If one isn't in its vocabulary.
    pub fn check_vocabulary(&self, prompt_ids: &[u32], manifest: &Manifest) -> Result<()> {
        let rows = manifest.vocab_size;
        let Some(id) = prompt_ids.iter().find(|id| **id as usize >= rows) else {
            return Ok(());
        };
        let next = match self.owner {
            Owner::Base => "its files don't belong together; give another with `--tokenizer PATH`",
            Owner::Adapter | Owner::Other => "`--tokenizer base` takes the base's",
        };
        bail!(
            "token id {id} of a prompt is not in the vocabulary of `{}` (0 to {}); it comes from {self} (`{}`); {next}",
            manifest.variant,
            rows.saturating_sub(1),
            self.folder.display()
        )
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
