//! One repository's folder in the hub cache, in the layout of Python's `huggingface_hub`:
//!
//! ```text
//! models--org--name/
//!     blobs/<etag>                  contents; the etag is the SHA-256 of a large file, else git's hash of a small one
//!     refs/<revision>               the commit that a branch or tag stands for
//!     snapshots/<commit>/<file>     links into blobs/
//! .locks/models--org--name/
//!     <etag>.lock                   locked while the blob is being downloaded
//! ```

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::HubError;
use crate::files;

/// How often a lock is tried for.
const LOCK_TICK: Duration = Duration::from_millis(50);

/// The cache's folder of one model repository.
pub(super) struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(super) fn new(cache_dir: &Path, repo: &str) -> RepoCache {
        let name = format!("models--{}", repo.replace('/', "--"));
        RepoCache {
            folder: cache_dir.join(&name),
            locks: cache_dir.join(".locks").join(name),
        }
    }

    /// The folder of one commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Where a commit's file is, or would be.
    pub(super) fn path(&self, commit: &str, file: &str) -> PathBuf {
        self.snapshot(commit).join(file)
    }

    /// Whether the file is there. A link whose blob is gone doesn't count.
    pub(super) fn holds(&self, commit: &str, file: &str) -> bool {
        self.path(commit, file).is_file()
    }

    /// The commit that the cache knows for `revision`.
    pub(super) fn commit(&self, revision: &str) -> Result<Option<String>, HubError> {
        if is_commit_hash(revision) {
            return Ok(Some(revision.to_owned()));
        }
        let path = self.folder.join("refs").join(revision);
        match files::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|commit| is_commit_hash(commit))),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::IsADirectory
                ) =>
            {
                Ok(None)
            }
            Err(source) => Err(HubError::Cache { path, source }),
        }
    }

    /// Notes that `revision` stands for `commit`. A commit hash needs no note.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        let folder = path
            .parent()
            .expect("a path that ends with a revision has a parent");
        let write = || -> io::Result<()> {
            fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(commit.as_bytes())?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(|source| HubError::Cache {
            path: path.clone(),
            source,
        })
    }

    /// Where a blob is, or would be.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Where a blob is while it's being downloaded.
    pub(super) fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Waits until no other process downloads this blob, and locks it as long as the returned file
    /// is open. `None` if the wait takes longer than `patience`.
    pub(super) fn lock(&self, etag: &str, patience: Duration) -> Result<Option<File>, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        let blobs = self.folder.join("blobs");
        let open = || -> io::Result<File> {
            fs::create_dir_all(&self.locks)?;
            fs::create_dir_all(&blobs)?;
            File::create(&path)
        };
        let failed = |source| HubError::Cache {
            path: path.clone(),
            source,
        };
        let file = open().map_err(failed)?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) if start.elapsed() < patience => {
                    thread::sleep(LOCK_TICK);
                }
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
    }

    /// Links a commit's file to the blob with its contents.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let path = self.path(commit, file);
        let write = || -> io::Result<()> {
            let folder = path.parent().unwrap_or(&path);
            fs::create_dir_all(folder)?;
            // A link whose blob was deleted by hand.
            if path.is_symlink() {
                fs::remove_file(&path)?;
            }
            let up = "../".repeat(2 + file.matches('/').count());
            symlink(format!("{up}blobs/{etag}"), &path)
        };
        write().map_err(|source| HubError::Cache {
            path: path.clone(),
            source,
        })
    }
}

/// Whether `text` is a full commit hash, which no branch or tag may look like.
pub(super) fn is_commit_hash(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn only_forty_hexadecimal_digits_are_a_commit_hash() {
        assert!(is_commit_hash(COMMIT));
        assert!(!is_commit_hash("main"));
        assert!(!is_commit_hash(&COMMIT[1..]));
        assert!(!is_commit_hash(&COMMIT.replace('0', "g")));
    }

    #[test]
    fn a_ref_is_read_back_and_a_nested_one_too() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), "org/name");
        for revision in ["main", "refs/pr/3"] {
            assert_eq!(cache.commit(revision).unwrap(), None);
            cache.write_ref(revision, COMMIT).unwrap();
            assert_eq!(cache.commit(revision).unwrap().as_deref(), Some(COMMIT));
        }
        assert_eq!(cache.commit("refs").unwrap(), None);
    }

    #[test]
    fn a_ref_that_holds_no_commit_is_no_ref() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), "org/name");
        let refs = folder.path().join("models--org--name/refs");
        fs::create_dir_all(&refs).unwrap();
        fs::write(refs.join("main"), "../../../etc").unwrap();
        assert_eq!(cache.commit("main").unwrap(), None);
    }
}
