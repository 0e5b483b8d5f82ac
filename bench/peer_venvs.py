"""The environments of the peers, each with the versions that `bench/runners/NAME.txt` pins.

    python -m bench.peer_venvs DIR [--only vllm]

`bench.compare --environments DIR` uses them. They take some 4 GB; llama.cpp is compiled for this machine, which takes
two cores ten minutes and needs a C++ compiler and CMake. PyTorch is the build for CPUs, from its own index.
"""

import os
import subprocess
import sys
from pathlib import Path

import click

from bench.peer_process import RUNNERS

ENVIRONMENTS = ("openvino_convert", "openvino_genai", "vllm", "llama_cpp")

TORCH_INDEX = "https://download.pytorch.org/whl/cpu"

# GCC 12 and before drop stores that the tile configuration of llama.cpp's AMX kernels needs, which then fault.
LLAMA_FLAGS = "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DCMAKE_CXX_FLAGS='-fno-tree-dse -fno-dse'"


def python_of(folder: Path, name: str) -> Path:
    return folder / name / "bin" / "python"


def is_made(folder: Path, name: str) -> bool:
    return (folder / name / ".made").exists()


def make(folder: Path, name: str, index: str) -> None:
    """Make one environment, anew where an attempt broke off. Raises CalledProcessError."""
    python = python_of(folder, name)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder / name], check=True)
    pins = RUNNERS / f"{name}.txt"
    install = [str(python), "-m", "pip", "install", "--no-deps"]
    # These alone come from there: asking a second index for every package takes long.
    if cpu_builds := [line for line in pins.read_text().splitlines() if line.endswith("+cpu")]:
        subprocess.run([*install, "--extra-index-url", index, *cpu_builds], check=True)
    subprocess.run([*install, "-r", str(pins)], check=True, env={**os.environ, "CMAKE_ARGS": LLAMA_FLAGS})
    (folder / name / ".made").touch()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--only", type=click.Choice(ENVIRONMENTS), multiple=True, help="Make these; default: all.")
@click.option("--torch-index", default=TORCH_INDEX, show_default=True, help="Where PyTorch's builds for CPUs are.")
def main(folder: Path, only: tuple[str, ...], torch_index: str) -> None:
    """Make the environments of the peers under FOLDER; those that are made already stay as they are."""
    failed = []
    for name in only or ENVIRONMENTS:
        if is_made(folder, name):
            click.echo(f"{name}: is there")
            continue
        click.echo(f"{name}: installing")
        try:
            make(folder.absolute(), name, torch_index)
        except subprocess.CalledProcessError as error:
            click.echo(f"{name}: {error}", err=True)
            failed.append(name)
    if failed:
        raise click.ClickException(f"not made: {', '.join(failed)}; the others can be used")


if __name__ == "__main__":
    main()
