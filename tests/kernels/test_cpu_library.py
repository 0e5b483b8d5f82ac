"""The native library: it is built once, says what is missing, and runs on each instruction set of this machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from kernels.cpu import build
from kernels.cpu.library import ISAS, KernelsUnavailable, load_kernels


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "BUILT", tmp_path / "nothing-built-ahead")
    return tmp_path / "tiercel" / "kernels"


def test_the_best_instruction_set_is_chosen_and_a_lesser_one_can_be_asked_for() -> None:
    best = load_kernels().isa
    for isa in ISAS[ISAS.index(best) :]:
        assert load_kernels(isa).isa == isa
    load_kernels()


def test_without_a_compiler_the_reason_says_what_to_install(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(KernelsUnavailable, match=r"no C\+\+ compiler was found .* install g\+\+"):
        load_kernels()


def test_a_failing_compiler_is_quoted(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'error: out of order' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(KernelsUnavailable, match="out of order"):
        load_kernels()
    assert not list(cache.glob("*.so"))


def test_another_machine_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(KernelsUnavailable, match="aarch64"):
        load_kernels()


def test_a_library_built_ahead_needs_no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kernels.cpu.build", "--into", str(tmp_path / "ahead")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    monkeypatch.setattr(build, "BUILT", tmp_path / "ahead")
    monkeypatch.setenv("PATH", str(cache))
    assert str(build.find_or_build()) == done.stdout.strip()
