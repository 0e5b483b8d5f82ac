"""Qwen2 (arXiv:2407.10671): Llama with biases on q, k and v, and sliding windows in the upper layers of some."""

from engine.models.llama import LlamaModel


class Qwen2Model(LlamaModel):
    """The biases are `ModelConfig.qkv_bias`, the windows `ModelConfig.windows`; nothing else differs."""
