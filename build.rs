//! Tells the program the git revision that it's built from, where there is one.
//!
//! Without git, or outside of a checkout of this very package, as in a crate's archive that was unpacked inside
//! of another repository, nothing is set, and results have no revision.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let Some(root) = git(&["rev-parse", "--show-toplevel"]) else {
        return;
    };
    let package = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    if Path::new(&root).canonicalize().ok() != Path::new(&package).canonicalize().ok() {
        return;
    }
    // A commit or a checkout changes one of these; a path that doesn't exist would run this at every build.
    let reference = git(&["symbolic-ref", "-q", "HEAD"]);
    let names = ["HEAD", "packed-refs", "index"].into_iter();
    for name in names.chain(reference.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    for path in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let Some(mut revision) = git(&["rev-parse", "HEAD"]) else {
        return;
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    if changed.is_some_and(|changed| !changed.is_empty()) {
        revision.push_str("-dirty");
    }
    println!("cargo::rustc-env=PEFT_BENCH_GIT_REVISION={revision}");
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
