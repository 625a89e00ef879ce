"""CUDA's libraries without a GPU: `cudart.c`, `nvml.c`, and stubs for all other functions that ONNX Runtime's CUDA provider
links to.

These functions are read from the provider's symbol table, so another version needs no changes here. A stub returns 0, which
means success in all of these libraries. Stubs that must return something else are in `BODIES`. Calls of matrix products are
logged as kernels.
"""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROVIDER = "libonnxruntime_providers_cuda.so"
RUNTIME = "libcudart.so.13"
DRIVER = "libcuda.so.1"
LINKED = [RUNTIME, "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", DRIVER]

# Wheels with the headers of the CUDA version that the provider is built with, for the runtime's structures.
HEADERS = ["nvidia-cuda-runtime==13.0.96", "nvidia-cuda-crt==13.0.88"]

# Bodies of stubs, by a pattern of the function's name; the first match is used.
BODIES = [
    (r"cublas(Lt)?\w*Create(_v2)?$", "(void **made) { *made = malloc(1); return 0; }"),
    (r"cublasGetMathMode$", "(void *handle, int *mode) { *mode = 0; return 0; }"),
    (r"cublasGetStatus(Name|String)$", '(int status) { return "an error of the dry run"; }'),
    # Returns one algorithm with all fields zero.
    (
        r"cublasLtMatmulAlgoGetHeuristic$",
        "(void *l, void *o, void *a, void *b, void *c, void *d, void *p, int asked, char *found, int *count)"
        " { memset(found, 0, 96); *count = 1; return 0; }",
    ),
    (r"cublas\w*(Gemm|gemm|geam|getr|scal|copy|LtMatmul$|LtMatrixTransform$)\w*$", '(void) { dry_run_log("kernel", __func__); return 0; }'),
    (r"", "(void) { return 0; }"),
]


def build(onnx_runtime: Path, folder: Path) -> Path:
    """Builds the libraries for the provider next to `onnx_runtime`, in `folder`. Returns the libraries' folder."""
    provider = onnx_runtime.with_name(PROVIDER)
    made = folder / "lib"
    made.mkdir(exist_ok=True)
    include = headers(folder)
    wanted = undefined(provider)
    for library in LINKED:
        sources = [HERE / "cudart.c"] if library == RUNTIME else []
        defined = set(re.findall(r"^\w[\w *]*?\b(\w+)\(", sources[0].read_text(), re.M)) if sources else set()
        stubs = made / f"{library}.c"
        stubs.write_text(stub_source(sorted(wanted[library] - defined)))
        # The provider's symbols have a version that is the library's name.
        versions = made / f"{library}.map"
        versions.write_text(f"{library} {{ global: *; }};\n")
        options = [f"-Wl,-soname,{library}", f"-I{include}"]
        if library != DRIVER:
            options.append(f"-Wl,--version-script={versions}")
        if library != RUNTIME:
            options += [f"-L{made}", f"-l:{RUNTIME}"]
        compile_library(made / library, [*sources, stubs], options)
    compile_library(made / "libnvidia-ml.so.1", [HERE / "nvml.c"], [])
    return made


def compile_library(path: Path, sources: list[Path], options: list[str]) -> None:
    always = ["-shared", "-fPIC", "-O1", "-pthread", "-w", f"-I{HERE}", "-Wl,--no-as-needed"]
    check(["cc", *always, *map(str, sources), *options, "-o", str(path)])


def undefined(provider: Path) -> dict[str, set[str]]:
    """The functions that `provider` needs from each library."""
    wanted: dict[str, set[str]] = {library: set() for library in LINKED}
    for line in check(["nm", "-D", "--undefined-only", str(provider)]).splitlines():
        name, _, library = line.split()[-1].partition("@")
        if library in wanted:
            wanted[library].add(name)
        elif re.match(r"cu[A-Z]", name):
            wanted[DRIVER].add(name)
    return wanted


def stub_source(names: list[str]) -> str:
    lines = ["#include <stdlib.h>", "#include <string.h>", '#include "log.h"', ""]
    for name in names:
        body = next(body for pattern, body in BODIES if re.match(pattern, name))
        result = "const char *" if '"an' in body else "int "
        lines.append(f"{result}{name}{body}")
    return "\n".join(lines) + "\n"


def headers(folder: Path) -> Path:
    """The folder of CUDA's headers, which define the structures that the runtime fills in."""
    include = folder / "headers/nvidia/cu13/include"
    if not (include / "crt").is_dir():
        wheels = folder / "wheels"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        check([*pip, "--only-binary", ":all:", "--dest", str(wheels), *HEADERS])
        for wheel in sorted(wheels.glob("nvidia_cuda_*.whl"), reverse=True):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / "headers", [name for name in archive.namelist() if "/include/" in name])
    return include


def check(command: list[str]) -> str:
    """Runs `command` and returns its output. Exits if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"`{' '.join(command)}` failed:\n{done.stderr.strip()}")
    return done.stdout
