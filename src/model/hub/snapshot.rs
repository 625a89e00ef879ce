//! One commit of a repository: what it has, and its files in the cache, fetched where that's
//! allowed.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::cache::RepoCache;
use super::download::Download;
use super::remote::{Listing, Remote};
use super::{DownloadProgress, HubError, HubId, HubSettings, shards};

/// One commit of a repository.
pub(crate) struct Snapshot<'a> {
    id: &'a HubId,
    cache: RepoCache,
    commit: String,
    /// What the hub has; without it, what the cache holds is all that there is.
    online: Option<Online<'a>>,
}

struct Online<'a> {
    remote: Remote<'a>,
    files: BTreeSet<String>,
    progress: &'a dyn Fn(DownloadProgress),
}

impl<'a> Snapshot<'a> {
    /// What the cache holds of the revision's commit; `None` if it doesn't know that.
    pub(super) fn cached(id: &'a HubId, settings: &HubSettings) -> Result<Option<Self>, HubError> {
        let cache = RepoCache::new(&settings.cache_dir, &id.repo);
        let commit = cache.commit(id.revision())?;
        Ok(commit.map(|commit| Snapshot {
            id,
            cache,
            commit,
            online: None,
        }))
    }

    /// What the hub has; asks it for the revision's commit.
    pub(super) fn online(
        id: &'a HubId,
        settings: &'a HubSettings,
        progress: &'a dyn Fn(DownloadProgress),
    ) -> Result<Self, HubError> {
        let remote = Remote::new(id, settings)?;
        let Listing { commit, files } = remote.listing()?;
        Ok(Snapshot {
            id,
            cache: RepoCache::new(&settings.cache_dir, &id.repo),
            commit,
            online: Some(Online {
                remote,
                files,
                progress,
            }),
        })
    }

    /// Whether there is such a file.
    pub(crate) fn has(&self, file: &str) -> bool {
        match &self.online {
            Some(online) => online.files.contains(file),
            None => self.cache.holds(&self.commit, file),
        }
    }

    /// Whether it's what the hub has, and not what the cache alone holds.
    pub(crate) fn is_online(&self) -> bool {
        self.online.is_some()
    }

    /// The names of all files that the hub has; none offline.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        let files = self.online.iter().flat_map(|online| &online.files);
        files.map(String::as_str)
    }

    /// Sees to it that the cache holds `file`.
    pub(crate) fn require(&self, file: &str) -> Result<(), HubError> {
        if self.cache.holds(&self.commit, file) {
            return Ok(());
        }
        let Some(online) = &self.online else {
            return Err(missing(self.id, file));
        };
        if !online.files.contains(file) {
            return Err(HubError::FileNotFound {
                repo: self.id.repo.clone(),
                revision: self.id.revision().to_owned(),
                file: file.to_owned(),
            });
        }
        let download = Download {
            remote: &online.remote,
            cache: &self.cache,
            commit: &self.commit,
            file,
            progress: online.progress,
        };
        download.run()
    }

    /// The same of those of `files` that there are.
    pub(crate) fn require_present<'b>(
        &self,
        files: impl IntoIterator<Item = &'b str>,
    ) -> Result<(), HubError> {
        let mut present = files.into_iter().filter(|file| self.has(file));
        present.try_for_each(|file| self.require(file))
    }

    /// The same of the weights: one file, or an index and the shards that it names. `refusal` makes
    /// the error for a repository that has neither.
    pub(crate) fn require_weights(
        &self,
        single: &str,
        index: &str,
        refusal: impl FnOnce() -> HubError,
    ) -> Result<(), HubError> {
        if self.has(single) {
            return self.require(single);
        }
        if !self.has(index) {
            return Err(match self.online {
                Some(_) => refusal(),
                None => missing(self.id, single),
            });
        }
        self.require(index)?;
        for shard in shards::read(&self.id.repo, &self.path(index))? {
            self.require(&shard)?;
        }
        Ok(())
    }

    /// Where a file is, or would be.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.cache.path(&self.commit, file)
    }

    /// The folder, with what the cache holds of it.
    pub(crate) fn folder(&self) -> PathBuf {
        self.cache.snapshot(&self.commit)
    }

    /// The folder, once all that's needed is in it.
    pub(crate) fn complete(&self) -> Result<PathBuf, HubError> {
        if self.online.is_some() {
            self.cache.write_ref(self.id.revision(), &self.commit)?;
        }
        Ok(self.folder())
    }
}

/// The error for a file that the cache lacks, offline.
pub(super) fn missing(id: &HubId, file: &str) -> HubError {
    HubError::Offline {
        repo: id.repo.clone(),
        revision: id.revision().to_owned(),
        file: file.to_owned(),
    }
}
