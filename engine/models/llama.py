"""The Llama decoder: pre-norm attention with RoPE and grouped key/value heads, and a gated MLP.

Mistral, Qwen2 and Qwen3 are this decoder with other switches of `ModelConfig`; a family with a different
structure overrides `build_layer`.
"""

import torch
import torch.nn.functional as F

from engine.models.config import ModelConfig
from engine.models.layers import GatedMlp, RmsNorm
from engine.models.linear import Linear, can_pack
from engine.models.rope import RotaryEmbedding, rotate
from kernels.attention.native import NativeAttention, NativePlan
from kernels.attention.protocol import AttentionBackend, AttnPlan
from kernels.cpu.decoder import CpuDecoder, DecoderShape, LayerWeights
from kernels.cpu.library import CpuKernels


class LlamaLayer:
    """One decoder layer. q, k and v are rows of one projection."""

    def __init__(self, config: ModelConfig, index: int, dtype: torch.dtype, device: torch.device) -> None:
        self._index = index
        self._hidden_size = config.hidden_size
        self._head_dim = config.head_dim
        self._num_heads = config.num_heads
        self._num_kv_heads = config.num_kv_heads
        q_rows, kv_rows = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self._qkv_rows = {"q_proj": q_rows, "k_proj": kv_rows, "v_proj": kv_rows}
        self._input_norm = RmsNorm(config.hidden_size, config.rms_norm_eps, dtype, device)
        self._qkv = Linear(config.hidden_size, q_rows + 2 * kv_rows, config.qkv_bias, dtype, device)
        self._output = Linear(q_rows, config.hidden_size, config.output_bias, dtype, device)
        self._mlp_norm = RmsNorm(config.hidden_size, config.rms_norm_eps, dtype, device)
        self._mlp = GatedMlp(config, dtype, device)

    def targets(self, prefix: str) -> dict[str, torch.Tensor]:
        return {
            f"{prefix}.input_layernorm.weight": self._input_norm.weight,
            f"{prefix}.post_attention_layernorm.weight": self._mlp_norm.weight,
            **self._qkv.targets({f"{prefix}.self_attn.{name}": rows for name, rows in self._qkv_rows.items()}),
            **self._output.targets({f"{prefix}.self_attn.o_proj": self._hidden_size}),
            **self._mlp.targets(f"{prefix}.mlp"),
        }

    def __call__(
        self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attention: AttentionBackend, plan: AttnPlan
    ) -> torch.Tensor:
        """`hidden` [tokens, hidden_size] with attention and MLP added; `hidden` itself may be overwritten."""
        first_k, first_v = self._num_heads, self._num_heads + self._num_kv_heads
        qkv = self._qkv(self._input_norm(hidden)).view(hidden.shape[0], -1, self._head_dim)
        self._normalise_heads(qkv)
        rotate(qkv[:, :first_v], cos, sin)
        attended = attention.run(qkv[:, :first_k], qkv[:, first_k:first_v], qkv[:, first_v:], self._index, plan)
        hidden = self._output.added(attended.view(hidden.shape[0], -1), hidden)
        return self._mlp.added(self._mlp_norm(hidden), hidden)

    def plain(self, window: int | None) -> LayerWeights:
        """The loaded weights, for a decoder that computes whole layers."""
        gate_up, down = self._mlp.plain()
        return LayerWeights(
            input_norm=self._input_norm.weight,
            qkv=self._qkv.plain(),
            q_norm=None,
            k_norm=None,
            output=self._output.plain(),
            mlp_norm=self._mlp_norm.weight,
            gate_up=gate_up,
            down=down,
            window=window,
        )

    def pack(self) -> None:
        """Re-lay the loaded weights."""
        self._qkv.pack()
        self._output.pack()
        self._mlp.pack()

    def _normalise_heads(self, qkv: torch.Tensor) -> None:
        """Hook, before RoPE, on q, k and v heads `[tokens, heads, head_dim]`, in place."""


class LlamaModel:
    """Embedding, layers, final norm and the projection to the vocabulary.

    Built with uninitialised parameters in their final dtype and place; `engine.models.weights` fills them. Runs
    on one thread at a time, under `torch.inference_mode`.
    """

    def __init__(self, config: ModelConfig, max_tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        """`max_tokens` bounds the positions that RoPE tables cover."""
        self.config = config
        self.dtype = dtype
        self.device = device
        self._max_tokens = max_tokens
        self._native: CpuDecoder | None = None
        self.weight_bytes = 0
        """In memory, once `pack` has laid them out."""
        self.rope = RotaryEmbedding(config, max_tokens, dtype, device)
        self._embedding = torch.empty(config.vocab_size, config.hidden_size, dtype=dtype, device=device)
        self._layers = [self.build_layer(config, index, dtype, device) for index in range(config.num_layers)]
        self._norm = RmsNorm(config.hidden_size, config.rms_norm_eps, dtype, device)
        self._lm_head = (
            Linear.sharing(self._embedding)
            if config.tie_word_embeddings
            else Linear(config.hidden_size, config.vocab_size, False, dtype, device)
        )

    @property
    def arithmetic(self) -> str:
        """Whose operations compute the layers; results differ in their rounding."""
        return "torch" if self._native is None else f"native-{self._native.arithmetic}"

    def build_layer(self, config: ModelConfig, index: int, dtype: torch.dtype, device: torch.device) -> LlamaLayer:
        return LlamaLayer(config, index, dtype, device)

    def targets(self) -> dict[str, torch.Tensor]:
        """Checkpoint names and the parameters (or rows of them) that they fill."""
        found = {"model.embed_tokens.weight": self._embedding, "model.norm.weight": self._norm.weight}
        if not self.config.tie_word_embeddings:
            found.update(self._lm_head.targets({"lm_head": self.config.vocab_size}))
        for index, layer in enumerate(self._layers):
            found.update(layer.targets(f"model.layers.{index}"))
        return found

    def aliases(self) -> dict[str, str]:
        """Names that a checkpoint may hold beside the tensor that they equal."""
        return {"lm_head.weight": "model.embed_tokens.weight"} if self.config.tie_word_embeddings else {}

    def pack(self, kernels: CpuKernels | None, *, int8_weights: bool = False) -> None:
        """Once the weights are loaded: re-lay them where that makes products faster.

        With `kernels` all layers are computed natively from then on, and only attention of the same kernels will do.
        A tied projection to the vocabulary becomes a copy of the embedding then, which lookups read row by row.
        `int8_weights`, which needs kernels, rounds the weights of all products.
        """
        self.weight_bytes = sum(target.nbytes for target in self.targets().values())
        if kernels is not None:
            self._native = self._native_decoder(kernels, int8_weights)
            self.weight_bytes = self._native.weight_bytes
            self.rope = RotaryEmbedding(self.config, self._max_tokens, torch.float32, self.device)
        elif can_pack(self.dtype, self.device):
            for layer in self._layers:
                layer.pack()
            if self.config.tie_word_embeddings:
                self.weight_bytes += self._embedding.nbytes
            self._lm_head.pack()

    def hidden(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        num_prompt_tokens: torch.Tensor | None,
        attention: AttentionBackend,
        plan: AttnPlan,
    ) -> torch.Tensor:
        """Hidden states `[tokens, hidden_size]` before the final norm, for flat token ids and positions int64.

        In the model's dtype, or float32 where the layers are computed natively, whose residual stream that is.
        """
        if self._native is not None:
            assert isinstance(attention, NativeAttention)
            assert isinstance(plan, NativePlan)
            cos, sin, rows = self.rope.tables(positions, num_prompt_tokens)
            return self._native.hidden(token_ids.int(), cos, sin, rows, attention, plan)
        hidden = F.embedding(token_ids, self._embedding)
        cos, sin = self.rope.cos_sin(positions, num_prompt_tokens)
        for layer in self._layers:
            hidden = layer(hidden, cos, sin, attention, plan)
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[rows, vocab_size]` for the rows of `hidden` that are wanted, in their dtype."""
        if self._native is not None:
            return self._native.logits(hidden)
        return self._lm_head(self._norm(hidden))

    def _native_decoder(self, kernels: CpuKernels, int8_weights: bool) -> CpuDecoder:
        config = self.config
        shape = DecoderShape(
            hidden_size=config.hidden_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            intermediate_size=config.intermediate_size,
            vocab_size=config.vocab_size,
            norm_eps=config.rms_norm_eps,
        )
        # Packed one by one, and dropped, so that the weights are in memory once and a layer.
        layers = (self._layers.pop(0).plain(window) for window in config.windows)
        lm_head = self._lm_head.plain().weight
        return CpuDecoder(
            kernels, shape, layers, self._norm.weight, self._embedding, lm_head, int8_weights=int8_weights
        )
