//! The cache folder: files that can be downloaded or made again.

use std::ffi::OsString;
use std::path::PathBuf;

/// Environment variable that overrides the cache folder.
pub const CACHE_VARIABLE: &str = "PEFT_BENCH_CACHE";

/// The program's cache folder, which may not exist yet.
///
/// `PEFT_BENCH_CACHE` if it's set and not empty; else `peft-bench` in the platform's cache folder
/// (`$XDG_CACHE_HOME` or `~/.cache`; `~/Library/Caches` on macOS); else, without a home folder, in
/// the temporary folder.
pub fn cache_dir() -> PathBuf {
    choose(std::env::var_os(CACHE_VARIABLE), dirs::cache_dir())
}

fn choose(wanted: Option<OsString>, platform: Option<PathBuf>) -> PathBuf {
    match wanted.filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => platform
            .unwrap_or_else(std::env::temp_dir)
            .join("peft-bench"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_wins_and_is_used_unchanged() {
        let chosen = choose(Some("/elsewhere".into()), Some("/home/me/.cache".into()));
        assert_eq!(chosen, PathBuf::from("/elsewhere"));
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let chosen = choose(Some(OsString::new()), Some("/home/me/.cache".into()));
        assert_eq!(chosen, PathBuf::from("/home/me/.cache/peft-bench"));
    }

    #[test]
    fn without_a_home_the_cache_is_temporary() {
        assert_eq!(choose(None, None), std::env::temp_dir().join("peft-bench"));
    }
}
