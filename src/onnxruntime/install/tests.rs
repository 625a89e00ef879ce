use std::cell::RefCell;
use std::error::Error;

use super::*;
use crate::onnxruntime::python::tests::script;
use crate::onnxruntime::wheel::tests::fake_wheel;

const FILES: [(&str, &str); 3] = [
    ("libonnxruntime.so.1.31.1", "the library"),
    ("libonnxruntime_providers_shared.so", "shared"),
    ("onnxruntime_pybind11_state.so", "for Python only"),
];

/// A cache, an index with one wheel, and a `python3` that's a shell script.
struct Scene {
    root: tempfile::TempDir,
    pin: Pin,
}

impl Scene {
    /// `pip` is the script's body for `python3 -m pip download …`; `$wheel` is the wheel's path,
    /// `$dest` the destination folder.
    fn new(pip: &str) -> Scene {
        let root = tempfile::tempdir().unwrap();
        let mut pin = Pin {
            os: "test",
            arch: "test",
            cuda: false,
            package: "onnxruntime",
            platform: "test",
            sha256: "",
            size_bytes: 1234,
            libraries: &[
                "libonnxruntime.so.1.31.1",
                "libonnxruntime_providers_shared.so",
            ],
        };
        let wheel = root.path().join(pin.wheel_name());
        pin.sha256 = fake_wheel(&wheel, &FILES).leak();
        let body = format!(
            "wheel='{}'\n[ \"$3\" = download ] || exit 0\n\
             echo run >> '{}'\n\
             while [ \"$1\" != --dest ]; do shift; done; dest=$2; requirements=$4\n{pip}",
            wheel.display(),
            root.path().join("runs").display(),
        );
        script(&root.path().join("python3"), &body);
        Scene { root, pin }
    }

    fn cache(&self) -> PathBuf {
        self.root.path().join("cache")
    }

    fn installer(&self) -> Installer {
        Installer {
            cache: self.cache(),
            interpreters: vec![self.root.path().join("python3")],
        }
    }

    fn install(&self) -> Result<Library, InstallError> {
        self.installer().install_pin(&self.pin, &|_| {})
    }

    /// How often pip was run to download.
    fn downloads(&self) -> usize {
        let runs = std::fs::read_to_string(self.root.path().join("runs")).unwrap_or_default();
        runs.lines().count()
    }

    /// What the cache contains, without the lock.
    fn cached(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .cache()
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".lock"))
            .collect();
        names.sort();
        names
    }
}

/// The message and its causes, as the command line prints them.
fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

const COPY: &str = r#"cp "$wheel" "$dest""#;

#[test]
fn only_the_wheels_libraries_are_cached() {
    let scene = Scene::new(COPY);
    let library = scene.install().unwrap();
    let folder = scene.cache().join("onnxruntime-1.31.1");
    assert_eq!(library.path, folder.join("libonnxruntime.so.1.31.1"));
    assert_eq!(library.source, LibrarySource::Downloaded);
    assert!(!library.has_cuda);
    assert_eq!(
        std::fs::read_to_string(&library.path).unwrap(),
        "the library"
    );
    assert_eq!(folder.read_dir().unwrap().count(), 2);
    assert_eq!(scene.cached(), ["onnxruntime-1.31.1"]);
}

#[test]
fn what_is_installed_is_not_downloaded_again() {
    let scene = Scene::new(COPY);
    scene.install().unwrap();
    assert_eq!(scene.install().unwrap().source, LibrarySource::Cache);
    assert_eq!(scene.downloads(), 1);
}

#[test]
fn a_folder_that_lost_a_library_is_made_again() {
    let scene = Scene::new(COPY);
    let library = scene.install().unwrap();
    let shared = library
        .path
        .with_file_name("libonnxruntime_providers_shared.so");
    std::fs::remove_file(&shared).unwrap();
    assert_eq!(scene.install().unwrap().source, LibrarySource::Downloaded);
    assert!(shared.is_file());
}

#[test]
fn concurrent_installations_download_once() {
    let scene = Scene::new(&format!("sleep 0.2; {COPY}"));
    std::thread::scope(|threads| {
        let installs: Vec<_> = (0..4).map(|_| threads.spawn(|| scene.install())).collect();
        for install in installs {
            assert!(install.join().unwrap().unwrap().path.is_file());
        }
    });
    assert_eq!(scene.downloads(), 1);
}

#[test]
fn waiting_for_another_installation_is_reported() {
    let scene = Scene::new(COPY);
    std::fs::create_dir_all(scene.cache()).unwrap();
    let path = scene.cache().join("onnxruntime-1.31.1.lock");
    let held = RefCell::new(Some(lock(&path, &|_| {}).unwrap()));
    let waited = RefCell::new(false);
    let release = |event| {
        if event == InstallEvent::Waiting {
            waited.replace(true);
            held.take();
        }
    };
    scene.installer().install_pin(&scene.pin, &release).unwrap();
    assert!(waited.take());
}

#[test]
fn progress_reports_the_bytes_and_the_phases() {
    let scene = Scene::new(&format!(
        r#"printf 12345 > "$TMPDIR/growing"; sleep 0.5; {COPY}"#
    ));
    let events = RefCell::new(Vec::new());
    scene
        .installer()
        .install_pin(&scene.pin, &|event| events.borrow_mut().push(event))
        .unwrap();
    let at = |bytes| InstallEvent::Downloading {
        bytes,
        total_bytes: 1234,
    };
    let events = events.into_inner();
    assert!(events.contains(&at(5)), "{events:?}");
    assert!(events.ends_with(&[at(1234), InstallEvent::Verifying, InstallEvent::Unpacking]));
}

#[test]
fn pip_is_asked_for_the_pinned_hash() {
    let scene = Scene::new(r#"cat "$requirements"; exit 1"#);
    let error = chain(&scene.install().unwrap_err());
    let wanted = format!("onnxruntime==1.31.1 --hash=sha256:{}", scene.pin.sha256);
    assert!(error.contains(&wanted), "{error}");
}

#[test]
fn a_wheel_with_another_hash_is_refused_and_removed() {
    let scene = Scene::new(r#"cp "$wheel" "$dest"; for f in "$dest"/*.whl; do echo >> "$f"; done"#);
    let error = scene.install().unwrap_err();
    assert!(
        matches!(
            error,
            InstallError::Wheel {
                source: WheelError::Hash { .. },
                ..
            }
        ),
        "{error:?}"
    );
    assert!(chain(&error).contains(scene.pin.sha256));
    assert_eq!(scene.cached(), [""; 0]);
}

#[test]
fn a_hash_mismatch_that_pip_finds_is_reported_as_one() {
    let scene = Scene::new(
        "echo 'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.'; exit 1",
    );
    let error = chain(&scene.install().unwrap_err());
    let expected = format!("does not have SHA-256 {}", scene.pin.sha256);
    assert!(error.contains(&expected), "{error}");
}

#[test]
fn without_a_network_pip_is_quoted_and_the_alternatives_are_named() {
    let scene = Scene::new(
        "echo 'WARNING: Retrying after connection broken by NewConnectionError(x)' >&2\n\
         echo 'ERROR: No matching distribution found for onnxruntime==1.31.1' >&2; exit 1",
    );
    assert_eq!(
        chain(&scene.install().unwrap_err()),
        "cannot download ONNX Runtime (without the download: `pip install onnxruntime` in the \
         active Python environment, or set `ORT_DYLIB_PATH` to an ONNX Runtime library of version \
         1.31 or later): pip cannot reach a package index for \
         `onnxruntime-1.31.1-cp312-cp312-test.whl`; it says: \
         «WARNING: Retrying after connection broken by NewConnectionError(x) / \
         ERROR: No matching distribution found for onnxruntime==1.31.1»"
    );
    assert_eq!(scene.cached(), [""; 0]);
}

#[test]
fn any_other_failure_of_pip_names_the_interpreter_and_how_it_ended() {
    let scene = Scene::new("echo 'ERROR: disk full'; exit 7");
    let error = chain(&scene.install().unwrap_err());
    let python = scene.root.path().join("python3");
    let expected = format!(
        "{} -m pip download of `onnxruntime-1.31.1-cp312-cp312-test.whl` failed \
         (exit status: 7); it says: «ERROR: disk full»",
        python.display()
    );
    assert!(error.contains(&expected), "{error}");
}

#[test]
fn an_interpreter_without_pip_is_skipped() {
    let scene = Scene::new(COPY);
    let bare = scene.root.path().join("bare/python3");
    script(&bare, "echo 'No module named pip' >&2; exit 1");
    let mut installer = scene.installer();
    installer.interpreters.insert(0, bare.clone());
    installer.install_pin(&scene.pin, &|_| {}).unwrap();

    std::fs::remove_dir_all(scene.cache()).unwrap();
    installer.interpreters.pop();
    let error = installer.install_pin(&scene.pin, &|_| {}).unwrap_err();
    let expected = format!("no Python here has pip ({})", bare.display());
    assert!(chain(&error).contains(&expected), "{error}");
}

#[test]
fn without_python_the_message_names_the_programs_searched_for() {
    let scene = Scene::new(COPY);
    let mut installer = scene.installer();
    installer.interpreters.clear();
    let error = chain(&installer.install_pin(&scene.pin, &|_| {}).unwrap_err());
    assert!(
        error.ends_with(
            "neither `python3` nor `python` is on `PATH`, and pip is needed for the download"
        ),
        "{error}"
    );
}

#[test]
fn remains_of_a_killed_installation_are_removed() {
    let scene = Scene::new(COPY);
    let remains = scene.cache().join(".onnxruntime-1.31.1.partial-abc");
    let of_another = scene.cache().join(".onnxruntime-1.31.1-cuda.partial-abc");
    std::fs::create_dir_all(remains.join("pip")).unwrap();
    std::fs::create_dir_all(&of_another).unwrap();
    scene.install().unwrap();
    assert!(!remains.exists());
    assert!(of_another.exists());
}

#[test]
fn a_cache_that_cannot_be_made_is_named() {
    let scene = Scene::new(COPY);
    std::fs::write(scene.cache(), "a file").unwrap();
    let error = scene.install().unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "cannot write {}; `PEFT_BENCH_CACHE` can name another cache folder",
            scene.cache().display()
        )
    );
}

#[test]
fn without_a_wheel_for_the_platform_the_alternatives_are_named() {
    let error = InstallError::UnsupportedPlatform {
        os: "plan9".into(),
        arch: "mips".into(),
        cuda: true,
    };
    assert_eq!(
        error.to_string(),
        "there is no ONNX Runtime 1.31.1 with CUDA for plan9 on mips to download; without the \
         download: `pip install onnxruntime-gpu` in the active Python environment, or set \
         `ORT_DYLIB_PATH` to an ONNX Runtime library of version 1.31 or later"
    );
}
