//! One repository's folder in the hub cache, in the layout of Python's `huggingface_hub`:
//!
//! ```text
//! models--org--name/
//!     blobs/<etag>                  contents; the etag is the SHA-256 of a large file, else git's hash of a small one
//!     refs/<revision>               the commit that a branch or tag stands for
//!     snapshots/<commit>/<file>     links into blobs/
//! ```

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::HubError;

/// The cache's folder of one model repository.
pub(super) struct RepoCache {
    repo: String,
    folder: PathBuf,
}

impl RepoCache {
    pub(super) fn new(cache_dir: &Path, repo: &str) -> RepoCache {
        let folder = cache_dir.join(format!("models--{}", repo.replace('/', "--")));
        RepoCache {
            repo: repo.to_owned(),
            folder,
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

    /// Removes a link whose blob is gone, as after a clean-up by hand.
    ///
    /// `hf-hub` would tell the hub that it has the link's blob, and take the answer «not modified» for the file.
    pub(super) fn remove_dangling(&self, commit: &str, file: &str) -> Result<(), HubError> {
        let path = self.path(commit, file);
        if path.is_symlink() && !path.exists() {
            fs::remove_file(&path).map_err(|source| HubError::Cache { path, source })?;
        }
        Ok(())
    }

    /// The commit that the cache knows for `revision`.
    pub(super) fn commit(&self, revision: &str) -> Result<Option<String>, HubError> {
        if is_commit_hash(revision) {
            return Ok(Some(revision.to_owned()));
        }
        let path = self.folder.join("refs").join(revision);
        match fs::read_to_string(&path) {
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

    /// Checks a file that has just been downloaded, and removes it if it isn't what the hub announced.
    ///
    /// `hf-hub` 1.0.0 looks at neither the size nor the hash of what it received, nor at the status of the answer that
    /// brought it: the error page of a failing file server would stay in the cache as the weights.
    ///
    /// `size_bytes` is what the hub announced, if it did. A blob whose name is a SHA-256 must have that hash.
    pub(super) fn verify(
        &self,
        commit: &str,
        file: &str,
        size_bytes: Option<u64>,
    ) -> Result<(), HubError> {
        let link = self.path(commit, file);
        let checked = check(&link, size_bytes);
        let mismatch = checked.map_err(|source| HubError::Cache {
            path: link.clone(),
            source,
        })?;
        let Some(Mismatch { found, expected }) = mismatch else {
            return Ok(());
        };
        let remove = || -> io::Result<()> {
            let blob = fs::canonicalize(&link)?;
            fs::remove_file(&link)?;
            if blob.exists() {
                fs::remove_file(&blob)
            } else {
                Ok(())
            }
        };
        remove().map_err(|source| HubError::Cache {
            path: link.clone(),
            source,
        })?;
        Err(HubError::Damaged {
            repo: self.repo.clone(),
            file: file.to_owned(),
            found,
            expected,
        })
    }
}

/// Whether `text` is a full commit hash, which no branch or tag may look like.
pub(super) fn is_commit_hash(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

struct Mismatch {
    found: String,
    expected: String,
}

fn check(link: &Path, size_bytes: Option<u64>) -> io::Result<Option<Mismatch>> {
    let blob = fs::canonicalize(link)?;
    let found_bytes = blob.metadata()?.len();
    if let Some(expected_bytes) = size_bytes
        && found_bytes != expected_bytes
    {
        return Ok(Some(Mismatch {
            found: format!("{found_bytes} bytes"),
            expected: format!("{expected_bytes} bytes"),
        }));
    }
    let name = blob
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if name.len() != 64 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let found = sha256(&blob)?;
    Ok((!found.eq_ignore_ascii_case(name)).then(|| Mismatch {
        found: format!("SHA-256 `{found}`"),
        expected: format!("`{name}`"),
    }))
}

/// The file's SHA-256 in hexadecimal digits. The file is read in pieces: weights don't fit in memory.
fn sha256(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            length => hasher.update(&piece[..length]),
        }
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
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

    #[test]
    fn the_hash_is_sha_256() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "abc").unwrap();
        assert_eq!(
            sha256(file.path()).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
