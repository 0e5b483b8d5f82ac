"""What a step of a model cannot do without: bytes and operations, and the time that a machine's ceilings leave it."""

from dataclasses import dataclass

import torch

from engine.models.config import ModelConfig
from kernels.cpu.library import BF16_ISAS
from kvstore.layout import BlockLayout


@dataclass(frozen=True, slots=True)
class StepWork:
    """Rows of equal length, each with tokens that are there already and new ones."""

    name: str
    num_rows: int
    start: int
    num_new: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step cannot do without."""

    num_bytes: float
    """The weights once, and the K and V that are read."""
    product_flops: float
    """With weights."""
    attention_flops: float
    weight_bytes: float
    """Of a weight as it is stored: 2, 1.5 where bf16 is coded in 12 bits, 1 where they are int8."""

    @property
    def flops(self) -> float:
        return self.product_flops + self.attention_flops

    def least_s(self, bytes_per_s: float, flops_per_s: float) -> float:
        """The roofline where all products have one rate: whichever of the two takes longer."""
        return max(self.num_bytes / bytes_per_s, self.flops / flops_per_s)


def bytes_per_weight(dtype: str, isa: str) -> float:
    """As the native decoder keeps weights of bf16, fp16, fp32 or int8: bf16 in 12 bits where products are of bf16."""
    if dtype == "bf16" and isa in BF16_ISAS:
        return 1.5
    return {"int8": 1, "bf16": 2, "fp16": 2, "fp32": 4}[dtype]


def weights_of_products(config: ModelConfig) -> tuple[int, int]:
    """Of all layers, and of the projection to the vocabulary; a step reads all of them once."""
    query_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = config.hidden_size * (2 * query_size + 2 * kv_size)
    layers = config.num_layers * (attention + 3 * config.hidden_size * config.intermediate_size)
    return layers, config.vocab_size * config.hidden_size


def cost_of(work: StepWork, config: ModelConfig, kv_dtype: torch.dtype, weight_bytes: float = 2) -> Cost:
    """A row's queries see what is before them: half of the new tokens, all of the others."""
    layers, vocabulary = weights_of_products(config)
    num_tokens = work.num_rows * work.num_new
    seen = work.start + (work.num_new + 1) / 2
    layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, 16, kv_dtype)
    context = work.start + work.num_new
    return Cost(
        num_bytes=weight_bytes * (layers + vocabulary) + work.num_rows * context * layout.payload_bytes / 16,
        product_flops=2 * (layers * num_tokens + vocabulary * work.num_rows),
        attention_flops=4 * config.num_layers * config.num_heads * config.head_dim * num_tokens * seen,
        weight_bytes=weight_bytes,
    )
