//! A prepared folder as a target. Its manifests are read once, when it's found.
//!
//! ```text
//! <model>--<dtype>/base/                      the base of all adapters beside it
//! <model>--<dtype>/<method>--<name>/merged/   the target is this folder, or the one above it
//! ```

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::setup::precision;
use crate::files::is_special;
use crate::onnxruntime::Provider;
use crate::prepared::{Manifest, ManifestError, PreparedVariant, Variant};
use crate::weights::{Dtype, ONNX_ADAPTER};

/// A prepared folder that can't be used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum PreparedFolderError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("`{}` holds the variant `{found}`, not `{asked}`", folder.display())]
    OtherVariant {
        folder: PathBuf,
        found: Variant,
        asked: Variant,
    },
    #[error("`{}` holds no variant", .0.display())]
    Empty(PathBuf),
    #[error(
        "the manifest of `{}` knows no adapter `{name}`: the file belongs to another graph",
        folder.display()
    )]
    NoAdapter { folder: PathBuf, name: String },
    #[error(
        "`{}` was prepared to compute in {found} and {provider} takes {expected}; prepare it again with this `--ep`",
        folder.display()
    )]
    Compute {
        folder: PathBuf,
        found: Dtype,
        provider: Provider,
        expected: Dtype,
    },
    #[error(
        "`{}` was prepared for another `--ep`: its attention is made of other operators than {provider} takes; prepare it \
         again with this `--ep`",
        folder.display()
    )]
    Attention { folder: PathBuf, provider: Provider },
}

/// A variant that was read, or why it couldn't be.
type Read = Result<PreparedVariant, PreparedFolderError>;

/// A folder of `exported_models`.
#[derive(Debug)]
pub enum PreparedFolder {
    /// One variant, and the others beside it where it has its variant's name.
    Variant {
        /// As it was named.
        folder: PathBuf,
        /// The variant.
        own: Box<Read>,
        /// The others that can be measured with it.
        others: Vec<PreparedVariant>,
    },
    /// A folder with variants below it.
    Variants {
        /// As it was named.
        folder: PathBuf,
        /// What's found in the place of each.
        found: Vec<(Variant, Read)>,
    },
}

/// Whether `folder` has a manifest, or what stands in its place and can't be read, which is said then.
fn has_manifest(folder: &Path) -> bool {
    let file = folder.join(Manifest::FILE);
    file.is_file() || is_special(&file)
}

impl PreparedFolder {
    /// Reads what's in `folder`; `None` where it isn't a prepared one.
    pub fn find(folder: &Path) -> Option<Self> {
        if let Some(own) = of_adapter_file(folder) {
            return Some(Self::Variant {
                folder: folder.to_owned(),
                own: Box::new(own),
                others: Vec::new(),
            });
        }
        if !has_manifest(folder) {
            let any = Variant::ALL
                .into_iter()
                .any(|variant| has_manifest(&folder.join(variant.name())));
            return any.then(|| Self::Variants {
                folder: folder.to_owned(),
                found: Variant::ALL
                    .into_iter()
                    .map(|variant| (variant, read_in(folder, variant)))
                    .collect(),
            });
        }
        let own = read(folder);
        let others = match &own {
            // A variant with another name, such as `unmerged-native`, is by itself.
            Ok(own) if folder.ends_with(own.manifest.variant.name()) => {
                let above = folder.parent().unwrap_or(folder);
                let others = Variant::ALL.into_iter();
                let others = others.filter(|variant| *variant != own.manifest.variant);
                others
                    .filter_map(|variant| read_in(above, variant).ok())
                    .collect()
            }
            _ => Vec::new(),
        };
        Some(Self::Variant {
            folder: folder.to_owned(),
            own: Box::new(own),
            others,
        })
    }

    /// As it was named.
    pub fn folder(&self) -> &Path {
        match self {
            Self::Variant { folder, .. } | Self::Variants { folder, .. } => folder,
        }
    }

    /// The variant that stands for the folder: the one that it is, else the unmerged or the merged
    /// one below it.
    pub fn main(&self) -> Option<&PreparedVariant> {
        match self {
            Self::Variant { own, .. } => own.as_ref().as_ref().ok(),
            Self::Variants { found, .. } => {
                below(found, Variant::Unmerged).or(below(found, Variant::Merged))
            }
        }
    }

    /// Why the variant that the folder is can't be read, if it can't.
    pub fn fault(self) -> Option<PreparedFolderError> {
        match self {
            Self::Variant { own, .. } => own.err(),
            Self::Variants { .. } => None,
        }
    }

    /// The adapter's experiment, `<method>--<name>`, as the folder's own or its unmerged variant
    /// has it.
    pub fn experiment(&self) -> Option<&str> {
        let variant = match self {
            Self::Variant { own, .. } => own.as_ref().as_ref().ok(),
            Self::Variants { found, .. } => below(found, Variant::Unmerged),
        };
        let adapter = variant?.manifest.adapter.as_ref()?;
        Some(&adapter.experiment)
    }

    /// All variants that can be measured with each other, the base first.
    pub fn variants(&self) -> Vec<PreparedVariant> {
        let mut all: Vec<PreparedVariant> = match self {
            Self::Variant { own, others, .. } => own.iter().chain(others).cloned().collect(),
            Self::Variants { found, .. } => {
                let found = found.iter().filter_map(|(_, found)| found.as_ref().ok());
                found.cloned().collect()
            }
        };
        all.sort_by_key(|one| one.manifest.variant);
        all
    }

    /// The variant that was `asked` for, else the one that the folder is, else the unmerged one;
    /// and the folder of its adapter, for the base too that stands below one.
    ///
    /// # Errors
    /// If it isn't there, or the folder is another one.
    pub fn take(
        self,
        asked: Option<Variant>,
    ) -> Result<(PreparedVariant, Option<PathBuf>), PreparedFolderError> {
        let adapter = |variant: &PreparedVariant| {
            let adapter = variant.manifest.adapter.as_ref()?;
            Some(adapter.folder.clone())
        };
        match self {
            Self::Variant { folder, own, .. } => {
                let own = checked((*own)?, asked, folder)?;
                let adapter = adapter(&own);
                Ok((own, adapter))
            }
            Self::Variants { found, .. } => {
                let mut beside = [Variant::Unmerged, Variant::Merged].into_iter();
                let beside = beside.find_map(|other| adapter(below(&found, other)?));
                let asked = asked.unwrap_or(Variant::Unmerged);
                let wanted = found.into_iter().find(|(variant, _)| *variant == asked);
                let (_, wanted) = wanted.expect("every variant has its place");
                let wanted = wanted?;
                let adapter = adapter(&wanted).or(beside);
                Ok((wanted, adapter))
            }
        }
    }
}

/// Checks that the variant with this `manifest`, of the prepared `folder`, computes as one that's
/// prepared for `provider` would.
///
/// # Errors
/// If it doesn't.
pub fn check_provider(
    folder: &Path,
    manifest: &Manifest,
    provider: Provider,
) -> Result<(), PreparedFolderError> {
    let expected = precision(manifest.dtype, provider).with_latent_cache(manifest.mla);
    if manifest.compute != expected.compute {
        return Err(PreparedFolderError::Compute {
            folder: folder.to_owned(),
            found: manifest.compute,
            provider,
            expected: expected.compute,
        });
    }
    if manifest.attention != expected.attention {
        return Err(PreparedFolderError::Attention {
            folder: folder.to_owned(),
            provider,
        });
    }
    Ok(())
}

fn below(found: &[(Variant, Read)], wanted: Variant) -> Option<&PreparedVariant> {
    let (_, found) = found.iter().find(|(variant, _)| *variant == wanted)?;
    found.as_ref().ok()
}

/// Reads the variant `wanted` below `folder`. The base is prepared once, beside the experiments.
fn read_in(folder: &Path, wanted: Variant) -> Read {
    let below = folder.join(wanted.name());
    let place = match wanted {
        Variant::Base if !below.is_dir() => folder.parent().unwrap_or(folder).join(wanted.name()),
        _ => below,
    };
    checked(read(&place)?, Some(wanted), place)
}

fn read(folder: &Path) -> Read {
    Ok(PreparedVariant {
        manifest: Manifest::read(folder)?,
        folder: folder.to_owned(),
        up_to_date: true,
    })
}

/// The portable folder that has the adapter in `file`, with that adapter; `None` where `file` is
/// something else.
fn of_adapter_file(file: &Path) -> Option<Read> {
    let is_adapter = file.extension().is_some_and(|end| end == ONNX_ADAPTER);
    let folder = file
        .ancestors()
        .nth(2)
        .filter(|_| is_adapter && file.is_file())?;
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let mut variant = match read(folder) {
        Ok(variant) => variant,
        Err(error) => return Some(Err(error)),
    };
    let name = file.file_stem()?.to_string_lossy().into_owned();
    let portable = variant.manifest.portable.iter();
    let mut adapters = portable.flat_map(|portable| &portable.adapters);
    let found = adapters.find(|adapter| adapter.name == name).cloned();
    let Some(mut found) = found else {
        return Some(Err(PreparedFolderError::NoAdapter {
            folder: folder.to_owned(),
            name,
        }));
    };
    folder.clone_into(&mut found.adapter.folder);
    variant.manifest.adapter = Some(found.adapter);
    Some(Ok(variant))
}

/// The `variant` in `folder`, unless another one was `asked` for.
fn checked(variant: PreparedVariant, asked: Option<Variant>, folder: PathBuf) -> Read {
    let found = variant.manifest.variant;
    match asked.filter(|asked| *asked != found) {
        Some(asked) => Err(PreparedFolderError::OtherVariant {
            folder,
            found,
            asked,
        }),
        None => Ok(variant),
    }
}
