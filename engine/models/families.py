"""The one place that knows which class runs an architecture."""

from collections.abc import Mapping

from engine.models.llama import LlamaModel
from engine.models.mistral import MistralModel
from engine.models.qwen2 import Qwen2Model
from engine.models.qwen3 import Qwen3Model

MODELS: Mapping[str, type[LlamaModel]] = {
    "LlamaForCausalLM": LlamaModel,
    "MistralForCausalLM": MistralModel,
    "Qwen2ForCausalLM": Qwen2Model,
    "Qwen3ForCausalLM": Qwen3Model,
}
"""By the `architectures` entry of config.json, as in `engine.models.config.ARCHITECTURES`."""
