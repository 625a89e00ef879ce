//! Results as files.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;
use thiserror::Error;

use super::model::{Report, SCHEMA_VERSION, Status};
use super::name::ResultName;
use crate::files::{read_named, temporary_file, write_file};

/// A result that can't be written.
#[derive(Debug, Error)]
#[error("cannot write `{}`", path.display())]
pub struct WriteError {
    path: PathBuf,
    source: io::Error,
}

/// A file that can't be read as a result.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The system doesn't let it be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It's no JSON, or ends too early.
    #[error("`{}` is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, and what's wrong there.
        source: serde_json::Error,
    },
    /// It's JSON, but of something else.
    #[error("`{}` is not a result: it has no `{missing}`", path.display())]
    NotAResult {
        /// The file.
        path: PathBuf,
        /// The section that it lacks.
        missing: &'static str,
    },
    /// It was written by a later version, whose keys may mean something else.
    #[error(
        "`schema_version` of `{}` is {found}, and this version of peft-bench reads those up to {SCHEMA_VERSION}",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// A key is missing, or has a value that it can't have.
    #[error("`{key}` of `{}` is wrong: {problem}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The path of the key.
        key: String,
        /// What's wrong with it.
        problem: String,
    },
}

/// What tells whether a file is a result at all, and of which version.
#[derive(Deserialize)]
struct Outline {
    schema_version: Option<u64>,
    run_info: Option<serde::de::IgnoredAny>,
    generation_info: Option<serde::de::IgnoredAny>,
    meta_info: Option<serde::de::IgnoredAny>,
}

/// Reads the result at `path`, of this or an earlier version. Keys that this version doesn't know
/// are left out.
///
/// # Errors
/// If it can't be read, isn't a result, is damaged, or is of a later schema.
pub fn read(path: &Path) -> Result<Report, ReadError> {
    let own = || path.to_owned();
    let text = read_named(path).map_err(|source| ReadError::Read {
        path: own(),
        source,
    })?;
    // A good one needs no second look. Of any other, the parts tell what's wrong with it.
    if let Ok(report) = serde_json::from_slice::<Report>(&text)
        && report.schema_version <= SCHEMA_VERSION
    {
        return Ok(report);
    }
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|source| ReadError::Damaged {
            path: own(),
            source,
        })?;
    let not_a_result = |missing| ReadError::NotAResult {
        path: own(),
        missing,
    };
    let outline = Outline::deserialize(&value).map_err(|_| not_a_result("run_info"))?;
    for (section, found) in [
        ("run_info", &outline.run_info),
        ("generation_info", &outline.generation_info),
        ("meta_info", &outline.meta_info),
    ] {
        if found.is_none() {
            return Err(not_a_result(section));
        }
    }
    if let Some(found) = outline.schema_version
        && found > u64::from(SCHEMA_VERSION)
    {
        return Err(ReadError::Newer { path: own(), found });
    }
    serde_path_to_error::deserialize(value).map_err(|error| ReadError::Key {
        path: own(),
        key: error.path().to_string(),
        problem: error.inner().to_string(),
    })
}

/// Room that a result needs at least.
const ROOM: usize = 1 << 16;

/// Checks that results can be written into `folder`, before hours are spent on them.
///
/// # Errors
/// If none can.
pub fn check_writable(folder: &Path) -> Result<(), WriteError> {
    let tried = fs::create_dir_all(folder).and_then(|()| {
        let mut file = temporary_file(folder)?;
        file.write_all(&vec![0; ROOM])
    });
    tried.map_err(|source| WriteError {
        path: folder.to_owned(),
        source,
    })
}

/// Writes a result that can't be written to its place into the system's temporary folder; returns
/// its path.
///
/// # Errors
/// If it can't be written there either.
pub fn rescue(name: &ResultName, report: &Report) -> io::Result<PathBuf> {
    let folder = tempfile::Builder::new()
        .prefix("result-of-peft-bench-")
        .tempdir()?;
    let path = folder.path().join(name.file());
    write_file(&path, &serde_json::to_vec_pretty(report)?)?;
    let _ = folder.keep();
    Ok(path)
}

/// Writes `report` as the result `name` below `folder`; returns its path.
///
/// # Errors
/// If it can't be written.
pub fn write(folder: &Path, name: &ResultName, report: &Report) -> Result<PathBuf, WriteError> {
    let folder = match report.run_info.status {
        Status::Success => folder.to_owned(),
        Status::Failed | Status::Cancelled => folder.join("failed"),
    };
    let path = folder.join(name.file());
    let written = fs::create_dir_all(&folder).and_then(|()| {
        let text = serde_json::to_vec_pretty(report)?;
        write_file(&path, &text)
    });
    match written {
        Ok(()) => Ok(path),
        Err(source) => Err(WriteError { path, source }),
    }
}
