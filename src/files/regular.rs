//! Reading files whose names come from elsewhere: from other files, or from what's in a folder.
//!
//! A pipe there would be waited for, and a device may have no end, so neither is read.

use std::fs::{File, FileType};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Component, Path};

/// The most that's read of a pipe that somebody named, in bytes.
const MOST_OF_A_PIPE: u64 = 64 << 20;

/// Opens the file at `path`.
///
/// # Errors
/// If it can't be opened, or is a pipe, a socket or a device.
pub fn open(path: &Path) -> io::Result<File> {
    // Else a pipe is waited for until somebody writes into it. Nothing changes for a file.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    match special(file.metadata()?.file_type()) {
        Some(kind) => Err(io::Error::other(format!("it's {kind}, expected a file"))),
        None => Ok(file),
    }
}

/// The content of the file at `path`.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of the file at `path`.
///
/// # Errors
/// As [`open`]; or if it isn't UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    io::read_to_string(open(path)?)
}

/// The content of what somebody named: a file, or a pipe with an end.
///
/// # Errors
/// If it can't be read, or has no end within 64 MiB and is no file.
pub fn read_named(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    if special(file.metadata()?.file_type()).is_none() {
        file.read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    file.take(MOST_OF_A_PIPE + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MOST_OF_A_PIPE {
        true => Err(io::Error::other(
            "it's no file, and has no end within 64 MiB",
        )),
        false => Ok(bytes),
    }
}

/// The text of what somebody named.
///
/// # Errors
/// As [`read_named`]; or if it isn't UTF-8.
pub fn text_named(path: &Path) -> io::Result<String> {
    io::read_to_string(read_named(path)?.as_slice())
}

/// Whether `path` leads to a pipe, a socket or a device.
pub fn is_special(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| special(metadata.file_type()).is_some())
}

/// What `kind` is, if it's neither a file nor a folder.
fn special(kind: FileType) -> Option<&'static str> {
    match kind {
        _ if kind.is_fifo() => Some("a pipe"),
        _ if kind.is_socket() => Some("a socket"),
        _ if kind.is_char_device() || kind.is_block_device() => Some("a device"),
        _ => None,
    }
}

/// Whether `path` can only lead to something below the folder that it's joined to: it isn't empty or
/// absolute, and has no `..`.
pub fn is_plain(path: &Path) -> bool {
    let mut parts = path.components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn pipes_and_devices_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let link = folder.path().join("link");
        symlink("/dev/zero", &link).unwrap();
        for (path, kind) in [(&pipe, "a pipe"), (&link, "a device")] {
            assert!(is_special(path));
            for error in [read(path).unwrap_err(), read_to_string(path).unwrap_err()] {
                assert_eq!(error.to_string(), format!("it's {kind}, expected a file"));
            }
        }
        let error = read_named(&link).unwrap_err().to_string();
        assert!(error.contains("no end"), "{error}");
    }

    #[test]
    fn files_and_links_to_them_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| folder.path().join(name));
        std::fs::write(&file, "text").unwrap();
        symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            assert_eq!(read(path).unwrap(), b"text");
            assert_eq!(text_named(path).unwrap(), "text");
            assert!(!is_special(path));
        }
        assert!(read(folder.path()).is_err() && !is_special(folder.path()));
    }

    #[test]
    fn a_plain_path_stays_below_its_folder() {
        for plain in ["a", "a/b.json", "..a", "a..b"] {
            assert!(is_plain(Path::new(plain)), "{plain}");
        }
        for other in ["", ".", "..", "a/../../b", "/a", "./a"] {
            assert!(!is_plain(Path::new(other)), "{other}");
        }
    }
}
