//! Python installations in which libraries may be found: interpreters and site-packages folders.
//!
//! No package is imported: a broken one would fail, and `import onnxruntime` takes a second.

use std::env::consts::EXE_SUFFIX;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Prints the folders that `import` searches, one per line.
const PRINT_SEARCH_PATH: &str = "import sys; print('\\n'.join(sys.path))";

/// The Python environments and interpreters to search.
#[derive(Clone, Debug, Default)]
pub struct Python {
    /// The roots of environments: the one that this program is installed in, then the active ones,
    /// `VIRTUAL_ENV` and `CONDA_PREFIX`.
    pub environments: Vec<PathBuf>,
    /// The interpreters to try, in order.
    pub interpreters: Vec<PathBuf>,
}

impl Python {
    /// Looks at the program's own path, and reads `VIRTUAL_ENV`, `CONDA_PREFIX` and `PATH`.
    pub fn from_environment() -> Python {
        let own = std::env::current_exe();
        let own = own.ok().and_then(|program| environment_of(&program));
        let active = ["VIRTUAL_ENV", "CONDA_PREFIX"]
            .into_iter()
            .filter_map(std::env::var_os)
            .filter(|root| !root.is_empty())
            .map(PathBuf::from)
            .filter(|root| Some(root) != own.as_ref());
        let environments = own.iter().cloned().chain(active).collect();
        Python::new(environments, &std::env::var_os("PATH").unwrap_or_default())
    }

    /// The environments, and every `python3` and `python` in them and in the folders of
    /// `search_path`, which has the format of `PATH`.
    ///
    /// All interpreters are kept because the first often has no pip: environments made by uv don't.
    pub fn new(environments: Vec<PathBuf>, search_path: &OsStr) -> Python {
        let own = environments.iter().map(|root| root.join("bin"));
        let mut interpreters = Vec::new();
        for folder in own.chain(std::env::split_paths(search_path)) {
            for name in ["python3", "python"] {
                let path = folder.join(format!("{name}{EXE_SUFFIX}"));
                if path.is_file() && !interpreters.contains(&path) {
                    interpreters.push(path);
                }
            }
        }
        Python {
            environments,
            interpreters,
        }
    }

    /// The site-packages folders of the environments; without one, the folders from which the first
    /// working interpreter imports.
    pub fn site_packages(&self) -> Vec<PathBuf> {
        if self.environments.is_empty() {
            return self
                .interpreters
                .iter()
                .find_map(|python| search_path_of(python))
                .unwrap_or_default();
        }
        self.environments
            .iter()
            .flat_map(|root| site_packages_below(root))
            .collect()
    }
}

/// The root of the virtual environment whose `bin` folder holds `program`, as pip and uv install it.
/// Such a program also runs without its environment being active.
fn environment_of(program: &Path) -> Option<PathBuf> {
    let root = program.parent()?.parent()?;
    root.join("pyvenv.cfg").is_file().then(|| root.to_owned())
}

/// The folders `lib/python3.X/site-packages` of an environment, in order of their names.
fn site_packages_below(root: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = ["lib", "lib64"]
        .iter()
        .filter_map(|lib| root.join(lib).read_dir().ok())
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python"))
        .map(|entry| entry.path().join("site-packages"))
        .filter(|folder| folder.is_dir())
        .collect();
    folders.sort();
    folders
}

fn search_path_of(python: &Path) -> Option<Vec<PathBuf>> {
    let output = Command::new(python)
        .args(["-c", PRINT_SEARCH_PATH])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let folders = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(PathBuf::from)
        .filter(|folder| folder.is_dir())
        .collect();
    Some(folders)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes an executable shell script.
    ///
    /// A child process writes it: a file that's open for writing can't be executed, and a child
    /// that another test starts meanwhile would inherit the open file.
    #[cfg(unix)]
    pub(crate) fn script(path: &Path, body: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let status = Command::new("sh")
            .args([
                "-c",
                r##"printf '#!/bin/sh\n%s\n' "$2" > "$1" && chmod 755 "$1""##,
                "sh",
            ])
            .arg(path)
            .arg(body)
            .status()
            .unwrap();
        assert!(status.success());
    }

    #[test]
    fn the_environments_own_interpreter_comes_before_those_on_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let (env, bin) = (folder.path().join("env"), folder.path().join("bin"));
        for path in [env.join("bin/python"), bin.join("python3")] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let search_path = std::env::join_paths([&bin, &env.join("bin")]).unwrap();
        assert_eq!(
            Python::new(vec![env.clone()], &search_path).interpreters,
            [env.join("bin/python"), bin.join("python3")]
        );
    }

    #[test]
    fn a_program_in_a_virtual_environment_knows_it() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("bin/peft-bench");
        assert_eq!(environment_of(&program), None);
        std::fs::write(folder.path().join("pyvenv.cfg"), "").unwrap();
        assert_eq!(environment_of(&program).as_deref(), Some(folder.path()));
    }

    #[test]
    fn an_active_environment_is_searched_without_running_python() {
        let folder = tempfile::tempdir().unwrap();
        let site = folder.path().join("lib/python3.13/site-packages");
        std::fs::create_dir_all(&site).unwrap();
        let python = Python {
            environments: vec![folder.path().into()],
            interpreters: vec![],
        };
        assert_eq!(python.site_packages(), [site]);
    }

    #[cfg(unix)]
    #[test]
    fn an_interpreter_that_fails_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let (broken, works) = (folder.path().join("a"), folder.path().join("b"));
        script(&broken, "exit 3");
        script(
            &works,
            &format!("echo; echo /no/such; echo '{}'", folder.path().display()),
        );
        let python = Python {
            environments: vec![],
            interpreters: vec![broken, works],
        };
        assert_eq!(python.site_packages(), [folder.path()]);
    }
}
