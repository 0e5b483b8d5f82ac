#!/usr/bin/env bash
# The tests of the GPU kernels and the benchmark of everything that is asked of a CUDA device, in one call:
#
#   [PYTHON=python3] [OUT=gpu-results] ops/gpu/run.sh
#
# For a machine with a CUDA device and a Python that holds torch for CUDA, Triton, transformers, safetensors, numpy,
# xxhash, psutil, click, rich, pytest, pytest-timeout and hypothesis; and a C++ compiler, for the CPU kernels that the tests
# import. Fetches nothing. Takes about ten minutes.
# Both parts run, whatever comes of the first; the exit status is 0 if both went well.
set -uo pipefail
cd "$(dirname "$0")/../.."

OUT=${OUT:-gpu-results}
if [ -z "${PYTHON:-}" ]; then
	PYTHON=python3
	[ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
mkdir -p "$OUT"

"$PYTHON" - <<'PYTHON_CODE' | tee "$OUT/machine.txt" || exit 1
import importlib.util
import sys

needed = "torch triton transformers safetensors numpy xxhash psutil click rich pytest pytest_timeout hypothesis".split()
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"{sys.executable} has no {', '.join(missing)}: install them, or name another Python with PYTHON=")
import torch

if not torch.cuda.is_available():
    sys.exit(f"torch {torch.__version__} of {sys.executable} finds no CUDA device")
import triton

print("device", torch.cuda.get_device_name(), "| python", sys.version.split()[0], end=" | ")
print("torch", torch.__version__, "| triton", triton.__version__)
PYTHON_CODE

status=0
"$PYTHON" -m pytest -p no:cacheprovider tests/kernels -k "triton or flash or cuda" 2>&1 | tee "$OUT/tests.txt" || status=1
"$PYTHON" -m bench.gpu --json "$OUT/figures.json" 2>&1 | tee "$OUT/figures.txt" || status=1
echo "results are in $OUT"
exit $status
