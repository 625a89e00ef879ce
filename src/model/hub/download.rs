//! Downloads one file of a commit into the cache.

use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use super::cache::RepoCache;
use super::incomplete::Incomplete;
use super::remote::{Description, Remote};
use super::{DownloadProgress, HubError};

/// Progress is reported at most this often.
const TICK: Duration = Duration::from_millis(100);
const PIECE_BYTES: usize = 1 << 18;

pub(super) struct Download<'a> {
    pub(super) remote: &'a Remote<'a>,
    pub(super) cache: &'a RepoCache,
    pub(super) commit: &'a str,
    pub(super) file: &'a str,
    pub(super) progress: &'a dyn Fn(DownloadProgress),
}

impl Download<'_> {
    /// Makes sure that the cache holds the file, which appears there when it's complete.
    pub(super) fn run(&self) -> Result<(), HubError> {
        let description = self.remote.describe(self.commit, self.file)?;
        let etag = &description.etag;
        let _lock = self
            .cache
            .lock(etag, self.remote.patience())?
            .ok_or_else(|| HubError::Locked {
                repo: self.remote.repo().to_owned(),
                file: self.file.to_owned(),
            })?;
        let blob = self.cache.blob(etag);
        // Another commit may have had the same contents, or another process has been faster.
        if !blob.is_file() {
            self.transfer(&description, &blob)?;
        }
        self.cache.link(self.commit, self.file, etag)
    }

    fn transfer(&self, description: &Description, blob: &Path) -> Result<(), HubError> {
        let path = self.cache.incomplete(&description.etag);
        let failed = |source: io::Error| HubError::Cache {
            path: path.clone(),
            source,
        };
        let mut incomplete = Incomplete::open(path.clone(), description).map_err(failed)?;
        let report = |done_bytes| {
            (self.progress)(DownloadProgress {
                file: self.file.to_owned(),
                done_bytes,
                total_bytes: description.size_bytes.unwrap_or(0),
            });
        };
        if !incomplete.has_all() {
            let contents = self
                .remote
                .open(self.commit, self.file, incomplete.length())?;
            if contents.from != incomplete.length() {
                incomplete.restart().map_err(failed)?;
            }
            self.receive(contents.reader, &mut incomplete, &failed, &report)?;
        }
        report(incomplete.length());
        match incomplete.finish(blob).map_err(failed)? {
            None => Ok(()),
            Some(mismatch) => Err(HubError::Damaged {
                repo: self.remote.repo().to_owned(),
                file: self.file.to_owned(),
                found: mismatch.found,
                expected: mismatch.expected,
            }),
        }
    }

    fn receive(
        &self,
        mut reader: impl Read,
        incomplete: &mut Incomplete,
        failed: &dyn Fn(io::Error) -> HubError,
        report: &dyn Fn(u64),
    ) -> Result<(), HubError> {
        let mut piece = vec![0; PIECE_BYTES];
        report(incomplete.length());
        let mut reported = Instant::now();
        while !incomplete.has_too_much() {
            match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => incomplete.write(&piece[..count]).map_err(failed)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.remote.cut(self.file, error)),
            }
            if reported.elapsed() >= TICK {
                report(incomplete.length());
                reported = Instant::now();
            }
        }
        Ok(())
    }
}
