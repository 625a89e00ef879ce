//! Writing files and folders atomically, recognizing failed downloads, and the cache folder.

pub mod cache_dir;
mod failed_download;
pub mod temporary_folder;

pub use failed_download::failed_download;

use std::io::Write;
use std::path::Path;
use std::{fs, io};

/// Writes a file atomically: to a temporary file in the same folder, which is then renamed.
///
/// # Errors
/// If the temporary file can't be written or renamed.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".partial-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
