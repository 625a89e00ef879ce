//! Whether a file lies in the page cache, and how to get it out of there.

use std::fs::File;
use std::io;
use std::path::Path;

/// Asks the system to drop a file's pages. It may keep some: [`cached_share`] tells.
///
/// # Errors
/// If the file can't be opened or written back, or the system can't do it.
#[cfg(target_os = "linux")]
pub fn forget(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    // Pages that weren't written yet would stay.
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

/// Elsewhere there's no call for it.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn forget(_: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Which part of a file's pages lies in the page cache, from 0 to 1; `None` where the system doesn't
/// tell.
#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "`mincore` has no safe form, and a map of a file neither"
)]
pub fn cached_share(path: &Path) -> Option<f64> {
    // SAFETY: it only tells a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).ok().filter(|page| *page > 0)?;
    let file = File::open(path).ok()?;
    // SAFETY: the mapped bytes are never read.
    let map = unsafe { memmap2::Mmap::map(&file) }.ok()?;
    let mut pages = vec![0_u8; map.len().div_ceil(page)];
    // SAFETY: the map has so many bytes, and the list a byte for each page.
    let answer = unsafe {
        libc::mincore(
            map.as_ptr().cast_mut().cast(),
            map.len(),
            pages.as_mut_ptr().cast(),
        )
    };
    let cached = pages.iter().filter(|page| **page & 1 == 1).count();
    (answer == 0 && !pages.is_empty()).then(|| cached as f64 / pages.len() as f64)
}

/// Elsewhere the system doesn't tell.
#[cfg(not(target_os = "linux"))]
pub fn cached_share(_: &Path) -> Option<f64> {
    None
}

/// Reads a whole file, so that it lies in the page cache.
///
/// # Errors
/// If it can't be read.
pub fn read_through(path: &Path) -> io::Result<u64> {
    io::copy(&mut File::open(path)?, &mut io::sink())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_read_lies_in_the_page_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![1; 3 << 20]).unwrap();
        assert_eq!(read_through(&path).unwrap(), 3 << 20);
        assert_eq!(cached_share(&path), Some(1.0));
        forget(&path).unwrap();
        // Some file systems keep it, and then the share says so.
        assert!(cached_share(&path).is_some_and(|share| (0.0..=1.0).contains(&share)));
        assert!(forget(&folder.path().join("none")).is_err());
    }
}
