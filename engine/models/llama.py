"""The Llama decoder: pre-norm attention with RoPE and grouped key/value heads, and a gated MLP.

Mistral, Qwen2 and Qwen3 are this decoder with other switches of `ModelConfig`; a family with a different
structure overrides `build_layer`.
"""

import torch
import torch.nn.functional as F

from engine.models.config import ModelConfig
from engine.models.layers import GatedMlp
from engine.models.linear import Linear, can_pack
from engine.models.operations import HeadNorms, Operations, RmsNorm, choose_operations
from engine.models.rope import RotaryEmbedding
from kernels.attention.native import NativeAttention, NativePlan
from kernels.attention.protocol import AttentionBackend, AttnPlan
from kernels.cpu.best_ids import NativeBestIds
from kernels.cpu.decoder import CpuDecoder, DecoderShape, LayerWeights
from kernels.cpu.library import CpuKernels


class LlamaLayer:
    """One decoder layer. q, k and v are rows of one projection."""

    def __init__(
        self, config: ModelConfig, index: int, dtype: torch.dtype, device: torch.device, operations: Operations
    ) -> None:
        self._index = index
        self._operations = operations
        self._hidden_size = config.hidden_size
        self._head_dim = config.head_dim
        self._num_heads = config.num_heads
        self._num_kv_heads = config.num_kv_heads
        q_rows, kv_rows = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self._qkv_rows = {"q_proj": q_rows, "k_proj": kv_rows, "v_proj": kv_rows}
        self.input_norm = RmsNorm(config.hidden_size, config.rms_norm_eps, dtype, device)
        self._qkv = Linear(config.hidden_size, q_rows + 2 * kv_rows, config.qkv_bias, dtype, device)
        self._output = Linear(q_rows, config.hidden_size, config.output_bias, dtype, device)
        self._mlp_norm = RmsNorm(config.hidden_size, config.rms_norm_eps, dtype, device)
        self._mlp = GatedMlp(config, dtype, device, operations)
        self._head_norms: HeadNorms | None = None
        """Set by families that have them."""

    def targets(self, prefix: str) -> dict[str, torch.Tensor]:
        return {
            f"{prefix}.input_layernorm.weight": self.input_norm.weight,
            f"{prefix}.post_attention_layernorm.weight": self._mlp_norm.weight,
            **self._qkv.targets({f"{prefix}.self_attn.{name}": rows for name, rows in self._qkv_rows.items()}),
            **self._output.targets({f"{prefix}.self_attn.o_proj": self._hidden_size}),
            **self._mlp.targets(f"{prefix}.mlp"),
        }

    def __call__(
        self,
        residual: torch.Tensor,
        normed: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        attention: AttentionBackend,
        plan: AttnPlan,
        next_norm: RmsNorm,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`residual` [tokens, hidden_size] with attention and MLP added, and `next_norm` of it.

        `normed` is `input_norm` of `residual`, which may be overwritten. A norm follows each sum, so it is the layer
        before that computes it, in the same pass.
        """
        first_k, first_v = self._num_heads, self._num_heads + self._num_kv_heads
        qkv = self._qkv(normed).view(residual.shape[0], -1, self._head_dim)
        self._operations.rotate(qkv[:, :first_v], self._num_heads, cos, sin, self._head_norms)
        attended = attention.run(qkv[:, :first_k], qkv[:, first_k:first_v], qkv[:, first_v:], self._index, plan)
        attended = attended.view(residual.shape[0], -1)
        residual, normed = self._operations.project_add_norm(attended, self._output, residual, self._mlp_norm)
        return self._mlp.add_norm(normed, residual, next_norm)

    def plain(self, window: int | None) -> LayerWeights:
        """The loaded weights, for a decoder that computes whole layers."""
        gate_up, down = self._mlp.plain()
        return LayerWeights(
            input_norm=self.input_norm.weight,
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


class LlamaModel:
    """Embedding, layers, final norm and the projection to the vocabulary.

    Built with uninitialised parameters in their final dtype and place; `engine.models.weights` fills them. Runs
    on one thread at a time, under `torch.inference_mode`.
    """

    def __init__(
        self,
        config: ModelConfig,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
        operations: Operations | None = None,
    ) -> None:
        """`max_tokens` bounds the positions that RoPE tables cover; `operations` default to those of the device."""
        self.config = config
        self.dtype = dtype
        self.device = device
        self._max_tokens = max_tokens
        self._native: CpuDecoder | None = None
        self.best_ids: NativeBestIds | None = None
        """A kernel for greedy choices among `logits`, where there is one."""
        self.weight_bytes = 0
        """In memory, once `pack` has laid them out."""
        self._operations = operations or choose_operations(device)
        self.rope = RotaryEmbedding(config, max_tokens, self._operations.rope_dtype(dtype), device)
        self._embedding = torch.empty(config.vocab_size, config.hidden_size, dtype=dtype, device=device)
        self._layers = [
            self.build_layer(config, index, dtype, device, self._operations) for index in range(config.num_layers)
        ]
        self._norm = RmsNorm(config.hidden_size, config.rms_norm_eps, dtype, device)
        self._lm_head = (
            Linear.sharing(self._embedding)
            if config.tie_word_embeddings
            else Linear(config.hidden_size, config.vocab_size, False, dtype, device)
        )

    @property
    def arithmetic(self) -> str:
        """Whose operations compute the layers; results differ in their rounding."""
        return self._operations.name if self._native is None else f"native-{self._native.arithmetic}"

    def build_layer(
        self, config: ModelConfig, index: int, dtype: torch.dtype, device: torch.device, operations: Operations
    ) -> LlamaLayer:
        return LlamaLayer(config, index, dtype, device, operations)

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
            self.best_ids = NativeBestIds(kernels)
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
        """What `logits` takes, `[tokens, hidden_size]`, for flat token ids and positions int64.

        The final norm's output in the model's dtype; where the layers are computed natively the float32 residual
        stream before that norm.
        """
        if self._native is not None:
            assert isinstance(attention, NativeAttention)
            assert isinstance(plan, NativePlan)
            cos, sin, rows = self.rope.tables(positions, num_prompt_tokens)
            return self._native.hidden(token_ids.int(), cos, sin, rows, attention, plan)
        residual = F.embedding(token_ids, self._embedding)
        cos, sin = self.rope.cos_sin(positions, num_prompt_tokens)
        norms = [layer.input_norm for layer in self._layers] + [self._norm]
        normed = self._operations.norm(residual, norms[0])
        for layer, next_norm in zip(self._layers, norms[1:], strict=True):
            residual, normed = layer(residual, normed, cos, sin, attention, plan, next_norm)
        return normed

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[rows, vocab_size]` for the rows of `hidden` that are wanted, in the model's dtype or float32 if native."""
        if self._native is not None:
            return self._native.logits(hidden)
        return self._lm_head(hidden)

    def logits_into(self, hidden: torch.Tensor, out: torch.Tensor) -> None:
        """`logits` into `out`, `[rows, vocab_size]` in the model's dtype. Not where layers are computed natively."""
        assert self._native is None
        self._lm_head.into(hidden, out)

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
