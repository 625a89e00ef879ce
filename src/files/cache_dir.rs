//! Where files that can be fetched or made again are kept.

use std::ffi::OsString;
use std::path::PathBuf;

/// The environment variable that names another cache folder.
pub const CACHE_VARIABLE: &str = "PEFT_BENCH_CACHE";

/// The project's cache folder, which need not exist yet.
///
/// It's `PEFT_BENCH_CACHE` where that's set, else `peft-bench` in the platform's cache folder
/// (`$XDG_CACHE_HOME` or `~/.cache`; `~/Library/Caches` on macOS), else, where no home folder is
/// known, in the folder for temporary files.
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
    fn the_variable_wins_and_is_taken_as_it_is() {
        let chosen = choose(Some("/elsewhere".into()), Some("/home/me/.cache".into()));
        assert_eq!(chosen, PathBuf::from("/elsewhere"));
    }

    #[test]
    fn an_empty_variable_is_as_good_as_none() {
        let chosen = choose(Some(OsString::new()), Some("/home/me/.cache".into()));
        assert_eq!(chosen, PathBuf::from("/home/me/.cache/peft-bench"));
    }

    #[test]
    fn without_a_home_the_cache_is_temporary() {
        assert_eq!(choose(None, None), std::env::temp_dir().join("peft-bench"));
    }
}
