//! Writing files and folders atomically, reading files that others named, recognizing failed
//! downloads, and the cache folder.

pub mod cache_dir;
mod failed_download;
mod regular;
pub mod temporary_folder;
mod temporary_name;

pub use failed_download::failed_download;
pub use regular::{is_plain, is_special, open, read, read_named, read_to_string, text_named};

use std::io::Write;
use std::path::Path;
use std::{fs, io};

use tempfile::NamedTempFile;

use temporary_name::Others;

/// Writes a file atomically: to a temporary file in the same folder, which is then renamed.
///
/// # Errors
/// If the temporary file can't be written or renamed.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = temporary_file(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Creates a file with a temporary name in `folder`, and removes those that killed processes left
/// there.
///
/// # Errors
/// If it can't be created.
pub fn temporary_file(folder: &Path) -> io::Result<NamedTempFile> {
    use std::os::unix::fs::PermissionsExt;
    // The parent of a path that is a name alone.
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let others = Others::in_folder(folder);
    others.remove_dead();
    let file = tempfile::Builder::new()
        .prefix(&temporary_name::prefix())
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    others.remove_abandoned(file.as_file().metadata()?.modified()?);
    Ok(file)
}
