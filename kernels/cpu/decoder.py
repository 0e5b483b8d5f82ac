"""A whole decoder on the CPU as two calls: the layers, and the projection to the vocabulary.

Weights are bfloat16 and widened in registers, or int8 with a scale for each output; the residual stream, the norms,
RoPE and the softmax are fp32; what products read is rounded to bfloat16 where that is multiplied, and to int8 with a
scale for each token where the weights are int8. A token's result does not depend on which others are computed with it.
"""

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from kernels.attention.native import NativeAttention, NativePlan
from kernels.cpu.compact import compact
from kernels.cpu.library import BF16_ISAS, CpuKernels
from kernels.cpu.packing import (
    PANEL,
    QUANTIZED_STEP,
    interleave_gate_up,
    pack_bias,
    pack_weight,
    padded,
    quantize_weight,
    row_stride,
)
from kernels.huge_pages import TensorStack

_BLOCK_TOKENS = 256
"""Tokens that a thread computes together; `kBlockTokens` in `source/isa/decoder.cpp`."""


@dataclass(frozen=True, slots=True)
class LinearWeights:
    """y = x Wᵀ + b, as a checkpoint has it."""

    weight: torch.Tensor
    """bfloat16 [outputs, inputs]."""
    bias: torch.Tensor | None = None
    """[outputs]."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    input_norm: torch.Tensor
    qkv: LinearWeights
    """The heads of q, of k, of v."""
    q_norm: torch.Tensor | None
    """[head_dim]; an RMSNorm over each head before RoPE."""
    k_norm: torch.Tensor | None
    output: LinearWeights
    mlp_norm: torch.Tensor
    gate_up: LinearWeights
    """All of gate, then all of up."""
    down: LinearWeights
    window: int | None


@dataclass(frozen=True, slots=True)
class DecoderShape:
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    norm_eps: float


class _Linear(ctypes.Structure):
    _fields_ = [
        ("weight", ctypes.c_void_p),
        ("upper_bytes", ctypes.c_void_p),
        ("patches", ctypes.c_void_p),
        ("patch_starts", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("num_inputs", ctypes.c_int64),
        ("num_outputs", ctypes.c_int64),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        ("input_norm", ctypes.c_void_p),
        ("q_norm", ctypes.c_void_p),
        ("k_norm", ctypes.c_void_p),
        ("mlp_norm", ctypes.c_void_p),
        ("qkv", _Linear),
        ("output", _Linear),
        ("gate_up", _Linear),
        ("down", _Linear),
        ("window", ctypes.c_int64),
    ]


class _Decoder(ctypes.Structure):
    _fields_ = [
        ("num_layers", ctypes.c_int64),
        ("hidden_size", ctypes.c_int64),
        ("num_heads", ctypes.c_int64),
        ("num_kv_heads", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
        ("intermediate_size", ctypes.c_int64),
        ("vocab_size", ctypes.c_int64),
        ("norm_eps", ctypes.c_float),
        ("layers", ctypes.POINTER(_Layer)),
        ("final_norm", ctypes.c_void_p),
        ("embedding", ctypes.c_void_p),
        ("lm_head", _Linear),
    ]


class _Scratch(ctypes.Structure):
    _fields_ = [
        ("qkv", ctypes.c_void_p),
        ("attended", ctypes.c_void_p),
        ("normed", ctypes.c_void_p),
        ("activated", ctypes.c_void_p),
        ("quantized", ctypes.c_void_p),
        ("row_scales", ctypes.c_void_p),
        ("quantized_stride", ctypes.c_int64),
    ]


class _Step(ctypes.Structure):
    _fields_ = [
        ("num_tokens", ctypes.c_int64),
        ("token_ids", ctypes.c_void_p),
        ("rope_rows", ctypes.c_void_p),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("hidden", ctypes.c_void_p),
    ]


class CpuDecoder:
    """Owns the packed weights and the space between the products; the plain weights may go. One thread at a time."""

    def __init__(
        self,
        kernels: CpuKernels,
        shape: DecoderShape,
        layers: Iterable[LayerWeights],
        final_norm: torch.Tensor,
        embedding: torch.Tensor,
        lm_head: torch.Tensor,
        *,
        int8_weights: bool = False,
    ) -> None:
        """Takes the layers in order, one at a time. `embedding` [vocab, hidden] is kept; `lm_head` may be it."""
        self._forward = kernels.function("tiercel_decoder_forward", *[ctypes.c_void_p] * 6)
        self._logits = kernels.function(
            "tiercel_decoder_logits", *[ctypes.c_void_p] * 2, ctypes.c_int64, *[ctypes.c_void_p] * 2
        )
        self.arithmetic = f"{kernels.isa}-int8" if int8_weights else kernels.isa
        """Instruction set and type of the products; results differ in their rounding."""
        self._int8_weights = int8_weights
        # Products of the other instruction sets read whole weights only.
        self._compacts = kernels.isa in BF16_ISAS
        self.weight_bytes = 0
        """Of all weights, as they are computed with."""
        self._shape = shape
        self._kept: list[torch.Tensor] = []
        """What the structures below point to."""
        self._weights = TensorStack()
        packed = [self._layer(layer) for layer in layers]
        self._layers = (_Layer * len(packed))(*packed)
        self._decoder = _Decoder(
            num_layers=len(packed),
            hidden_size=shape.hidden_size,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            intermediate_size=shape.intermediate_size,
            vocab_size=shape.vocab_size,
            norm_eps=shape.norm_eps,
            layers=self._layers,
            final_norm=self._vector(final_norm),
            embedding=self._keep(embedding.to(torch.bfloat16).contiguous()),
            lm_head=self._linear(LinearWeights(lm_head)),
        )
        self._scratch = _Scratch()
        self._buffers: list[torch.Tensor] = []
        self._num_scratch_rows = self._num_scratch_threads = 0

    def hidden(
        self,
        token_ids: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        rope_rows: torch.Tensor,
        attention: NativeAttention,
        plan: NativePlan,
    ) -> torch.Tensor:
        """The residual stream before the final norm, float32 [tokens, hidden_size]; the caller's.

        token_ids: int32 [tokens]. cos, sin: float32 tables [rows, head_dim], sin's first half negative; rope_rows:
        int64 [tokens], each token's row of them.
        """
        num_tokens = len(token_ids)
        assert token_ids.dtype == torch.int32
        assert rope_rows.dtype == torch.int64
        assert cos.dtype == sin.dtype == torch.float32
        assert cos.is_contiguous()
        assert sin.is_contiguous()
        self._reserve(num_tokens)
        hidden = torch.empty(num_tokens, self._shape.hidden_size)
        step = _Step(
            num_tokens,
            token_ids.contiguous().data_ptr(),
            rope_rows.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            hidden.data_ptr(),
        )
        self._forward(
            ctypes.byref(self._decoder),
            attention.pages,
            plan.batch,
            attention.prepare(plan, self._shape.num_heads),
            ctypes.byref(step),
            ctypes.byref(self._scratch),
        )
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 [rows, vocab_size] for rows of what `hidden` returns."""
        assert hidden.dtype == torch.float32
        assert hidden.is_contiguous()
        self._reserve(len(hidden))
        logits = torch.empty(len(hidden), self._decoder.lm_head.num_outputs)
        self._logits(
            ctypes.byref(self._decoder),
            hidden.data_ptr(),
            len(hidden),
            ctypes.byref(self._scratch),
            logits.data_ptr(),
        )
        return logits[:, : self._shape.vocab_size]

    def _reserve(self, num_rows: int) -> None:
        rows, num_threads = padded(num_rows), torch.get_num_threads()
        if rows <= self._num_scratch_rows and num_threads <= self._num_scratch_threads:
            return
        shape = self._shape
        block_rows = _BLOCK_TOKENS * num_threads
        longest = max(shape.num_heads * shape.head_dim, shape.hidden_size, shape.intermediate_size)
        # A cache line more than the row, as `row_stride` has it.
        stride = padded(longest, QUANTIZED_STEP) + QUANTIZED_STEP if self._int8_weights else 0
        space = TensorStack()
        # Zeros, because the padding of a row is read, times weights that are zero.
        self._buffers = [
            space.zeros((rows, self._layers[0].qkv.num_outputs), torch.float32),
            space.zeros((rows, row_stride(shape.num_heads * shape.head_dim)), torch.float32),
            space.zeros((block_rows, row_stride(shape.hidden_size)), torch.float32),
            space.zeros((block_rows, row_stride(shape.intermediate_size)), torch.float32),
            space.zeros((block_rows, stride), torch.int8),
            space.zeros((block_rows,), torch.float32),
        ]
        self._scratch = _Scratch(*(buffer.data_ptr() for buffer in self._buffers), stride)
        self._num_scratch_rows, self._num_scratch_threads = rows, num_threads

    def _layer(self, weights: LayerWeights) -> _Layer:
        gate_up = weights.gate_up
        interleaved = LinearWeights(
            interleave_gate_up(gate_up.weight), None if gate_up.bias is None else interleave_gate_up(gate_up.bias)
        )
        return _Layer(
            input_norm=self._vector(weights.input_norm),
            q_norm=None if weights.q_norm is None else self._vector(weights.q_norm),
            k_norm=None if weights.k_norm is None else self._vector(weights.k_norm),
            mlp_norm=self._vector(weights.mlp_norm),
            qkv=self._linear(weights.qkv),
            output=self._linear(weights.output),
            gate_up=self._linear(interleaved),
            down=self._linear(weights.down),
            window=weights.window or 0,
        )

    def _linear(self, linear: LinearWeights) -> _Linear:
        outputs, inputs = linear.weight.shape
        bias = None if linear.bias is None else self._keep(pack_bias(linear.bias))
        if not self._int8_weights:
            return self._bf16_linear(pack_weight(linear.weight), bias, padded(inputs), padded(outputs))
        quantized = quantize_weight(linear.weight)
        values = self._keep(self._weights.copy(quantized.values))
        scales, sums = self._keep(quantized.scales), self._keep(quantized.sums)
        return _Linear(values, None, None, None, scales, sums, bias, padded(inputs, QUANTIZED_STEP), padded(outputs))

    def _bf16_linear(self, packed: torch.Tensor, bias: int | None, num_inputs: int, num_outputs: int) -> _Linear:
        coded = compact(packed, num_inputs * PANEL) if self._compacts else None
        if coded is None:
            weight = self._keep(self._weights.copy(packed))
            return _Linear(weight, None, None, None, None, None, bias, num_inputs, num_outputs)
        weight = self._keep(self._weights.copy(coded.values))
        codes = (self._keep(part) for part in (coded.upper_bytes, coded.patches, coded.patch_starts))
        return _Linear(weight, *codes, None, None, bias, num_inputs, num_outputs)

    def _vector(self, vector: torch.Tensor) -> int:
        return self._keep(vector.float().contiguous())

    def _keep(self, tensor: torch.Tensor) -> int:
        self._kept.append(tensor)
        self.weight_bytes += tensor.nbytes
        return tensor.data_ptr()
