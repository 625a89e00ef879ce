//! Fetches an adapter from the hub, or finds that the repository holds a model instead.

use std::path::{Path, PathBuf};

use super::{folder, names_experts};
use crate::advice::convert_adapter;
use crate::model::TOKENIZER_FILES;
use crate::model::hub::{
    CONFIG, DownloadProgress, HubError, HubId, HubSettings, Snapshot, WEIGHTS, WEIGHTS_INDEX,
    complete, other_weights,
};

/// Makes sure that the cache holds the adapter and returns its snapshot folder; `None` if the
/// repository holds a model, possibly with an `adapter_config.json` left over. No weights are
/// fetched if the adapter is to be drawn fresh.
///
/// # Errors
/// If the cache doesn't hold the whole adapter and it can't be downloaded.
pub fn fetch_adapter(
    id: &HubId,
    fresh: bool,
    settings: &HubSettings,
    progress: &dyn Fn(DownloadProgress),
) -> Result<Option<PathBuf>, HubError> {
    complete(id, settings, progress, folder::CONFIG, |snapshot| {
        adapter(id, fresh, snapshot)
    })
}

fn adapter(id: &HubId, fresh: bool, snapshot: &Snapshot) -> Result<Option<PathBuf>, HubError> {
    let has_weights = snapshot.has(folder::WEIGHTS) || snapshot.has(folder::INDEX);
    let is_model = snapshot.has(CONFIG) && (snapshot.has(WEIGHTS) || snapshot.has(WEIGHTS_INDEX));
    if is_model && !has_weights && !fresh {
        return Ok(None);
    }
    if snapshot.is_online() && !snapshot.has(folder::CONFIG) {
        return Err(HubError::NoAdapter {
            repo: id.repo.clone(),
            revision: id.revision().to_owned(),
            hint: subfolder_hint(&id.repo, snapshot.files()),
        });
    }
    snapshot.require(folder::CONFIG)?;
    snapshot.require_present(TOKENIZER_FILES)?;
    // The experts of a mixture are in subfolders.
    if names_experts(&snapshot.path(folder::CONFIG)) {
        let of_an_expert = |file: &&str| {
            let name = file.split_once('/').map(|(_, name)| name);
            matches!(name, Some(folder::CONFIG | folder::WEIGHTS))
        };
        snapshot.require_present(snapshot.files().filter(of_an_expert))?;
    }
    if !fresh {
        let name = id.repo.rsplit('/').next().unwrap_or("adapter");
        let refusal = || HubError::NoAdapterWeights {
            repo: id.repo.clone(),
            revision: id.revision().to_owned(),
            found: other_weights(snapshot.files()),
            convert: convert_adapter(Path::new(name)),
            name: name.to_owned(),
        };
        snapshot.require_weights(folder::WEIGHTS, folder::INDEX, refusal)?;
    }
    Ok(Some(snapshot.complete()?))
}

/// Advice for a repository without an adapter at its top: names its subfolders that have one.
fn subfolder_hint<'a>(repo: &str, files: impl Iterator<Item = &'a str>) -> String {
    let folder = |file: &str| {
        Some(
            file.strip_suffix(folder::CONFIG)?
                .strip_suffix('/')?
                .to_owned(),
        )
    };
    let folders: Vec<String> = files.filter_map(folder).collect();
    let name = repo.rsplit('/').next().unwrap_or(repo);
    match folders.first() {
        None => "check the name".to_owned(),
        Some(first) => format!(
            "its adapters are in {}; `hf download {repo} --include '{first}/*' --local-dir {name}` fetches one, which is then \
             `{name}/{first}`",
            folder::listed(&folders)
        ),
    }
}
