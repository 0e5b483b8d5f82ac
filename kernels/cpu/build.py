"""Compiles the C++ kernels into one shared library, at install or on first use.

    python -m kernels.cpu.build [--into DIR] [--compiler g++]

The file's name holds a digest of the sources, the flags and the compiler, so what is found is what would be built.
It is looked for beside this file (where an image puts it) and in the user's cache, which is also where a first use
builds it. All instruction sets are compiled, whatever this machine has; `kernels.cpu.library` chooses at run time.
"""

import argparse
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE = Path(__file__).with_name("source")
BUILT = Path(__file__).with_name("built")
"""Where an image or a package may put the library ahead of time."""

_log = logging.getLogger(__name__)

_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno", "-Wall", "-Wextra"),
    # A sum rounds as it is written, however the compiler unrolls it: results must not depend on the batch.
    "-ffp-contract=off",
)
_AVX512 = ("-march=x86-64-v4", "-mavx512vnni", "-mprefer-vector-width=512")
_ISA_FLAGS = {
    "avx2": ("-march=x86-64-v3", "-DTIERCEL_ISA_AVX2"),
    "avx512": (*_AVX512, "-DTIERCEL_ISA_AVX512"),
    "avx512bf16": (*_AVX512, "-mavx512bf16", "-mavx512vbmi", "-mavx512vbmi2", "-mgfni", "-DTIERCEL_ISA_AVX512BF16"),
    "amx": ("-march=sapphirerapids", "-mprefer-vector-width=512", "-DTIERCEL_ISA_AMX"),
}


class BuildError(Exception):
    """There is no library and none can be made; the message says why and what to do."""


def find_or_build(compiler: str | None = None) -> Path:
    """The library's path; compiles it where it is missing, which takes some ten seconds, once.

    Raises BuildError. Processes that come at the same time build it once.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        raise BuildError(f"the kernels are for x86-64; this machine is {platform.machine()}")
    found = BUILT / _library_name(None)
    if found.exists():
        return found
    chosen = _find_compiler(compiler)
    name = _library_name(chosen)
    if (found := BUILT / name).exists():
        return found
    folder = _cache_folder()
    if (folder / name).exists():
        return folder / name
    return build(folder, chosen)


def build(folder: Path, compiler: str) -> Path:
    """Compile into `folder` and return the library's path. Raises BuildError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            path = folder / _library_name(compiler)
            if not path.exists():
                _log.info(
                    "compiling the CPU kernels with %s into %s, which takes some ten seconds, once", compiler, folder
                )
                with tempfile.TemporaryDirectory(dir=folder) as scratch:
                    _compile(compiler, Path(scratch), path)
            return path
    except OSError as error:
        raise BuildError(f"cannot build the CPU kernels in {folder}: {error}") from error


def _compile(compiler: str, scratch: Path, path: Path) -> None:
    jobs: list[list[str]] = []
    objects: list[str] = []
    for source in sorted(SOURCE.glob("*.cpp")):
        objects.append(str(scratch / f"{source.stem}.o"))
        jobs.append([compiler, *_FLAGS, "-march=x86-64", "-c", str(source), "-o", objects[-1]])
    # The least first: of an inline function that several define, a standard header's too, the linker keeps the first.
    for isa, flags in _ISA_FLAGS.items():
        for source in sorted((SOURCE / "isa").glob("*.cpp")):
            objects.append(str(scratch / f"{isa}-{source.stem}.o"))
            jobs.append([compiler, *_FLAGS, *flags, "-c", str(source), "-o", objects[-1]])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_run, jobs))
    library = scratch / "library.so"
    _run([compiler, "-shared", "-fopenmp", *objects, "-o", str(library)])
    library.replace(path)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")


def _find_compiler(wanted: str | None) -> str:
    for name in (wanted,) if wanted else _COMPILERS:
        if path := shutil.which(name):
            return path
    raise BuildError(
        f"no C++ compiler was found ({wanted or ', '.join(_COMPILERS)}); install g++ 12 or clang 16, or newer"
    )


def _library_name(compiler: str | None) -> str:
    """Without a compiler: the name that a library built ahead of time goes by."""
    digest = hashlib.sha256()
    for source in sorted([*SOURCE.glob("**/*.cpp"), *SOURCE.glob("**/*.h")]):
        digest.update(f"{source.relative_to(SOURCE)}\0".encode() + source.read_bytes() + b"\0")
    digest.update(repr((_FLAGS, sorted(_ISA_FLAGS.items()))).encode())
    if compiler is not None:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
        digest.update(version.encode())
    return f"libtiercel-cpu-{digest.hexdigest()[:16]}.so"


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tiercel" / "kernels"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m kernels.cpu.build", description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, default=BUILT, help="where to put the library")
    parser.add_argument("--compiler", default=None, help="the C++ compiler's name or path")
    arguments = parser.parse_args()
    try:
        compiler = _find_compiler(arguments.compiler)
        path = build(arguments.into, compiler)
        # An image may have no compiler to ask for its version.
        portable = path.with_name(_library_name(None))
        path.replace(portable)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(portable)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
