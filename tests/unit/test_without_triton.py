"""Triton is an optional package: without it everything loads, and torch's operations do the work."""

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys
sys.modules["triton"] = None
import bench.gpu, engine.execution.runner, services.worker.model_loading
import torch
from engine.execution.truncation import settling_on
from engine.models.operations import choose_operations

cuda = torch.device("cuda")
print(choose_operations(cuda).name, settling_on(cuda))
"""


def test_everything_loads_and_torch_takes_over() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert done.stdout.split() == ["torch", "None"]
    assert "without fused kernels" in done.stderr
