//! The ONNX Runtime wheels that may be downloaded, each pinned by its SHA-256.
//!
//! To update: run `pip download --no-deps onnxruntime==VERSION` with the `--platform` of each
//! entry, then take `sha256sum` and the size.

use std::path::{Path, PathBuf};

/// The version that's downloaded.
pub const VERSION: &str = "1.31.1";

/// The oldest version that works, as `(major, minor)`. The minor number is that of the C API that
/// `ort` requests.
pub const OLDEST: (u32, u32) = (1, 31);

/// The Python version whose wheels are pinned. The libraries are the same in the wheels of all
/// Python versions, and Python never runs them.
pub const PYTHON_VERSION: &str = "3.12";

/// The ABI tag that goes with [`PYTHON_VERSION`].
pub const PYTHON_ABI: &str = "cp312";

/// A wheel: its platform, its hash, and the libraries that it contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The operating system, as in `std::env::consts::OS`.
    pub os: &'static str,
    /// The processor architecture, as in `std::env::consts::ARCH`.
    pub arch: &'static str,
    /// Whether it contains the CUDA provider.
    pub cuda: bool,
    /// The package's name in the index.
    pub package: &'static str,
    /// The wheel's platform tag.
    pub platform: &'static str,
    /// The SHA-256 of the wheel, in lower-case hexadecimal digits.
    pub sha256: &'static str,
    /// The wheel's size in bytes.
    pub size_bytes: u64,
    /// The files of the wheel's `onnxruntime/capi` to keep; the first is ONNX Runtime itself.
    pub libraries: &'static [&'static str],
}

const PINS: [Pin; 4] = [
    Pin {
        os: "linux",
        arch: "x86_64",
        cuda: false,
        package: "onnxruntime",
        platform: "manylinux_2_28_x86_64",
        sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
        size_bytes: 23_760_988,
        libraries: &[
            "libonnxruntime.so.1.31.1",
            "libonnxruntime_providers_shared.so",
        ],
    },
    Pin {
        os: "linux",
        arch: "aarch64",
        cuda: false,
        package: "onnxruntime",
        platform: "manylinux_2_28_aarch64",
        sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
        size_bytes: 21_420_803,
        libraries: &[
            "libonnxruntime.so.1.31.1",
            "libonnxruntime_providers_shared.so",
        ],
    },
    Pin {
        os: "macos",
        arch: "aarch64",
        cuda: false,
        package: "onnxruntime",
        platform: "macosx_14_0_arm64",
        sha256: "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c",
        size_bytes: 20_882_125,
        libraries: &["libonnxruntime.1.31.1.dylib"],
    },
    Pin {
        os: "linux",
        arch: "x86_64",
        cuda: true,
        package: "onnxruntime-gpu",
        platform: "manylinux_2_28_x86_64",
        sha256: "05d548956197b9d01f59b625de740e0d6be3593f874e241a12dc0362650ecdf7",
        size_bytes: 255_569_273,
        libraries: &[
            "libonnxruntime.so.1.31.1",
            "libonnxruntime_providers_shared.so",
            "libonnxruntime_providers_cuda.so",
        ],
    },
];

/// The wheel for a platform; `None` if there's none.
pub fn pin(os: &str, arch: &str, cuda: bool) -> Option<&'static Pin> {
    PINS.iter()
        .find(|pin| (pin.os, pin.arch, pin.cuda) == (os, arch, cuda))
}

impl Pin {
    /// The file name that the index gives this wheel.
    pub fn wheel_name(&self) -> String {
        let package = self.package.replace('-', "_");
        let (abi, platform) = (PYTHON_ABI, self.platform);
        format!("{package}-{VERSION}-{abi}-{abi}-{platform}.whl")
    }

    /// A requirements file with which pip accepts only this wheel.
    pub fn requirement(&self) -> String {
        format!(
            "{}=={VERSION} --hash=sha256:{}\n",
            self.package, self.sha256
        )
    }
}

/// The folder in `cache` for the libraries of [`VERSION`], with or without CUDA.
pub fn installed_folder(cache: &Path, cuda: bool) -> PathBuf {
    let suffix = if cuda { "-cuda" } else { "" };
    cache.join(format!("onnxruntime-{VERSION}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_holds_the_pinned_version_and_a_whole_hash() {
        for pin in &PINS {
            assert!(pin.libraries[0].contains(VERSION), "{pin:?}");
            assert_eq!(pin.sha256.len(), 64, "{pin:?}");
            assert!(
                pin.sha256
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)),
                "{pin:?}"
            );
        }
    }

    #[test]
    fn the_oldest_version_that_works_is_not_newer_than_the_pinned_one() {
        let (major, minor) = OLDEST;
        assert!(VERSION.starts_with(&format!("{major}.")));
        let pinned: u32 = VERSION.split('.').nth(1).unwrap().parse().unwrap();
        assert!(minor <= pinned);
    }

    #[test]
    fn a_platform_gets_its_own_wheel() {
        assert_eq!(
            pin("macos", "aarch64", false).unwrap().wheel_name(),
            "onnxruntime-1.31.1-cp312-cp312-macosx_14_0_arm64.whl"
        );
        assert_eq!(
            pin("linux", "x86_64", true).unwrap().wheel_name(),
            "onnxruntime_gpu-1.31.1-cp312-cp312-manylinux_2_28_x86_64.whl"
        );
    }

    #[test]
    fn there_is_no_cuda_on_macos() {
        assert_eq!(pin("macos", "aarch64", true), None);
    }

    #[test]
    fn the_requirement_names_version_and_hash() {
        let requirement = pin("linux", "x86_64", true).unwrap().requirement();
        assert_eq!(
            requirement,
            "onnxruntime-gpu==1.31.1 --hash=sha256:\
             05d548956197b9d01f59b625de740e0d6be3593f874e241a12dc0362650ecdf7\n"
        );
    }
}
