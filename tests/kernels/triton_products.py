"""Imported for its effect on Triton's interpreter (3.7.1), which multiplies bfloat16 as the integers that it keeps.

With this `tl.dot` widens such operands first: as on every device, products are then exact and sums fp32.
"""

import os
from typing import Any

import torch


def _widen_bfloat16() -> None:
    from triton import language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    create_dot = builder.create_dot

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        values = torch.from_numpy(handle.data.view("int16").copy()).view(torch.bfloat16).float().numpy()
        return interpreter.TensorHandle(values, tl.float32)

    def dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        return create_dot(self, widened(a), widened(b), d, *rest)

    builder.create_dot = dot


if os.environ.get("TRITON_INTERPRET") == "1":
    _widen_bfloat16()
