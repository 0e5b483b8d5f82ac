"""Mistral (arXiv:2310.06825): Llama with a sliding window in every layer, which the attention backend applies."""

from engine.models.llama import LlamaModel


class MistralModel(LlamaModel):
    """The windows are in `ModelConfig.windows`; nothing else differs."""
