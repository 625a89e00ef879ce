//! Gives the program two things that are known when it's built: the git revision of its source,
//! and the shipped experiments.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// The folder of the shipped experiments.
const EXPERIMENTS: &str = "experiments";

/// The files that a shipped experiment consists of.
const FILES: [&str; 2] = ["adapter_config.json", "benchmark_params.json"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    // A crate's archive may be unpacked inside of another repository.
    let root = git(&["rev-parse", "--show-toplevel"]);
    let is_checkout = root
        .is_some_and(|root| Path::new(&root).canonicalize().ok() == package.canonicalize().ok());
    if is_checkout {
        tell_revision();
    }
    let code = experiments_as_code(&package, is_checkout)?;
    let generated = PathBuf::from(env::var("OUT_DIR")?).join("built_in_experiments.rs");
    fs::write(generated, code)?;
    Ok(())
}

/// What the program is built from. A change elsewhere needs no new build, and a commit doesn't
/// either: the revision is that of the build, with `-dirty` if these had changes then.
const SOURCES: [&str; 5] = ["src", "experiments", "Cargo.toml", "Cargo.lock", "build.rs"];

/// Sets `PEFT_BENCH_GIT_REVISION`. Without git, nothing is set, and results have no revision.
fn tell_revision() {
    for path in SOURCES {
        println!("cargo::rerun-if-changed={path}");
    }
    let Some(mut revision) = git(&["rev-parse", "HEAD"]) else {
        return;
    };
    let status = ["status", "--porcelain", "--untracked-files=no", "--"];
    let changed = git(&[&status[..], &SOURCES[..]].concat());
    if changed.is_some_and(|changed| !changed.is_empty()) {
        revision.push_str("-dirty");
    }
    println!("cargo::rustc-env=PEFT_BENCH_GIT_REVISION={revision}");
}

/// A list of pairs in Rust: the path of each file below `experiments/`, and its content.
fn experiments_as_code(package: &Path, is_checkout: bool) -> io::Result<String> {
    let mut files = match is_checkout {
        // In a checkout, an experiment that was begun with `init` isn't shipped until it's added.
        // Adding one changes git's index, so this program runs again.
        true => tracked_experiments(package),
        false => {
            let mut found = Vec::new();
            files_below(&package.join(EXPERIMENTS), &mut found)?;
            found
        }
    };
    files.retain(|path| {
        path.file_name()
            .is_some_and(|name| FILES.iter().any(|file| name == *file))
    });
    files.sort();
    let mut code = String::from("&[\n");
    for path in files {
        let below = path.strip_prefix(package.join(EXPERIMENTS));
        let name = below.map_err(io::Error::other)?.display().to_string();
        let path = path.display().to_string();
        // The compiler rebuilds the program when a file that it includes changes.
        writeln!(code, "    ({name:?}, include_str!({path:?})),").map_err(io::Error::other)?;
    }
    code.push_str("]\n");
    Ok(code)
}

fn tracked_experiments(package: &Path) -> Vec<PathBuf> {
    let listed = git(&["ls-files", "--", EXPERIMENTS]).unwrap_or_default();
    let paths = listed.lines().map(|line| package.join(line));
    paths.filter(|path| path.is_file()).collect()
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => files_below(&path, found)?,
            false => found.push(path),
        }
    }
    Ok(())
}

/// What `git` prints, run in the package's folder; absent if it isn't there or fails.
fn git(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    // Only reading: no lock is taken that would be in a running git's way.
    let output = command
        .arg("--no-optional-locks")
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
