//! Claims: who is at a job now. They save work where several processes have the same list; that a
//! result is whole and published once doesn't depend on them.
//!
//! A claim is a file that only one process can create. Its owner writes it again and again, so that
//! its time tells, by the clock of the folder's file system, when the owner was last alive.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sysinfo::System;

use super::engine_task;
use super::folder::SweepFolder;
use super::job::Key;
use crate::files::{self, temporary_file};

/// How often an owner writes its claim again.
pub const HEARTBEAT: Duration = Duration::from_secs(20);
/// A claim on another machine that wasn't written for so long has no owner any more. New times may
/// show late on a shared folder.
const PATIENCE: Duration = Duration::from_secs(180);

/// A process that runs jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its machine.
    pub host: String,
    /// Its number there.
    pub process: u32,
    /// When it began, in ticks since the machine did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<u64>,
    /// The machine's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// The engine's task, such as `slurm 17_3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

/// A job that's claimed by this process, until this is dropped.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    text: Vec<u8>,
}

impl Owner {
    /// This process.
    pub fn this() -> Self {
        let process = std::process::id();
        Self {
            host: System::host_name().unwrap_or_else(|_| "host".to_owned()),
            process,
            began: began(process),
            boot: boot(),
            task: engine_task::name(),
        }
    }

    /// Whether it's still there; `None` if it's on another machine.
    fn is_alive(&self, this: &Self) -> Option<bool> {
        let here = self.host == this.host && self.boot == this.boot && self.boot.is_some();
        here.then(|| began(self.process).is_some_and(|now| Some(now) == self.began))
    }
}

impl Claim {
    /// Claims a job; `Err` has the owner that's at it already.
    ///
    /// # Errors
    /// If the claim can't be written.
    pub fn take(sweep: &SweepFolder, key: &Key, owner: &Owner) -> io::Result<Result<Self, Owner>> {
        let folder = sweep.claims();
        fs::create_dir_all(&folder)?;
        let path = folder.join(key.as_str());
        let text = serde_json::to_vec(owner)?;
        loop {
            // It appears with its whole text, so a killed writer or a full disk leaves no half claim.
            let mut file = temporary_file(&folder)?;
            file.write_all(&text)?;
            match file.persist_noclobber(&path) {
                Ok(_) => return Ok(Ok(Self { path, text })),
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.error),
            }
            if let Some(other) = live_owner(&path, owner) {
                return Ok(Err(other));
            }
            // Of several that see it, one removes it.
            let aside = temporary_file(&folder)?.into_temp_path();
            let _ = fs::rename(&path, &aside);
        }
    }

    /// Says that its owner is alive.
    pub fn beat(&self) {
        // The server sets the time. A claim that was taken over isn't written again.
        let is_own = fs::read(&self.path).is_ok_and(|text| text == self.text);
        if is_own && let Ok(mut file) = File::options().write(true).open(&self.path) {
            let _ = file.write_all(&self.text);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if fs::read(&self.path).is_ok_and(|text| text == self.text) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Who is at a job, if anybody is.
pub fn owner_of(sweep: &SweepFolder, key: &Key, this: &Owner) -> Option<Owner> {
    live_owner(&sweep.claims().join(key.as_str()), this)
}

/// The owner of the claim at `path`; `None` if there's none, or it's gone.
fn live_owner(path: &Path, this: &Owner) -> Option<Owner> {
    let text = files::read(path).ok()?;
    let Ok(owner) = serde_json::from_slice::<Owner>(&text) else {
        // Something else wrote it.
        return is_fresh(path).then(|| Owner {
            host: "another process".to_owned(),
            process: 0,
            began: None,
            boot: None,
            task: None,
        });
    };
    // The engine started the same task again, so the first one is gone or given up.
    let is_predecessor = owner.task.is_some() && owner.task == this.task;
    if is_predecessor && owner.process != this.process {
        return None;
    }
    let alive = owner.is_alive(this).unwrap_or_else(|| is_fresh(path));
    alive.then_some(owner)
}

/// Whether the file at `path` was written lately, by the clock of its own file system. A time that's
/// as far in the future is of a clock that was put back since, and an owner that lives would have
/// written again.
fn is_fresh(path: &Path) -> bool {
    let now = || {
        let folder = path.parent()?;
        let probe = tempfile::tempfile_in(folder).ok()?;
        probe.metadata().ok()?.modified().ok()
    };
    let written = fs::metadata(path).and_then(|metadata| metadata.modified());
    let (Some(now), Ok(written)) = (now(), written) else {
        return false;
    };
    let apart = now.duration_since(written);
    apart.unwrap_or_else(|ahead| ahead.duration()) < PATIENCE
}

/// When the process with this number began; `None` if there's none, or the system doesn't tell.
fn began(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in brackets, may have blanks.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let is_zombie = fields.next()? == "Z";
    let began = fields.nth(18)?.parse().ok()?;
    (!is_zombie).then_some(began)
}

fn boot() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn key() -> Key {
        Key::at_end("a--0011223344556677-01234567").unwrap()
    }

    #[test]
    fn a_claim_is_one_owners_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let sweep = SweepFolder::new(folder.path());
        let this = Owner::this();
        let claim = Claim::take(&sweep, &key(), &this).unwrap().unwrap();
        assert_eq!(owner_of(&sweep, &key(), &this), Some(this.clone()));
        let second = Claim::take(&sweep, &key(), &this).unwrap();
        assert_eq!(second.unwrap_err(), this);
        claim.beat();
        drop(claim);
        assert_eq!(owner_of(&sweep, &key(), &this), None);
        assert!(Claim::take(&sweep, &key(), &this).unwrap().is_ok());
    }

    #[test]
    fn a_dead_owners_claim_is_taken_over_and_one_elsewhere_is_believed_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let sweep = SweepFolder::new(folder.path());
        let this = Owner::this();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = Owner {
            process: child.id(),
            began: Some(1),
            ..this.clone()
        };
        child.wait().unwrap();
        std::mem::forget(Claim::take(&sweep, &key(), &dead).unwrap().unwrap());
        let claim = Claim::take(&sweep, &key(), &this).unwrap().unwrap();
        drop(claim);
        let elsewhere = Owner {
            host: "elsewhere".to_owned(),
            ..this.clone()
        };
        std::mem::forget(Claim::take(&sweep, &key(), &elsewhere).unwrap().unwrap());
        assert_eq!(
            Claim::take(&sweep, &key(), &this).unwrap().unwrap_err(),
            elsewhere
        );
        // Its clock was an hour ahead when it wrote, and nothing was written since.
        let path = sweep.claims().join(key().as_str());
        let ahead = SystemTime::now() + Duration::from_secs(3600);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(ahead).unwrap();
        assert_eq!(owner_of(&sweep, &key(), &this), None);
        assert!(Claim::take(&sweep, &key(), &this).unwrap().is_ok());
    }

    #[test]
    fn a_task_that_is_started_again_takes_over_its_own_claim() {
        let folder = tempfile::tempdir().unwrap();
        let sweep = SweepFolder::new(folder.path());
        let task = Some("slurm 17_3".to_owned());
        let first = Owner {
            host: "lost".to_owned(),
            process: 1,
            task: task.clone(),
            ..Owner::this()
        };
        std::mem::forget(Claim::take(&sweep, &key(), &first).unwrap().unwrap());
        let again = Owner {
            task,
            ..Owner::this()
        };
        assert!(Claim::take(&sweep, &key(), &again).unwrap().is_ok());
    }
}
