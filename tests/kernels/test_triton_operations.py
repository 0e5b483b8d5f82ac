"""Whole decoders on the Triton operations, beside torch's and to what fp64 gives."""

from pathlib import Path

import pytest
import torch

from engine.models.config import ModelConfig
from engine.models.families import MODELS
from engine.models.llama import LlamaModel
from engine.models.operations import Operations, TorchOperations, choose_operations
from engine.models.triton_operations import TritonOperations
from engine.models.weights import Checkpoint, load_weights
from kernels.attention.choice import choose_attention
from kvstore.layout import BlockLayout
from tests.checkpoints import make_checkpoint
from tests.kernels.attention_cases import Rows, make_batch
from tests.kernels.triton_device import DEVICE, error, moved

CPU = torch.device("cpu")


def logits(directory: Path, operations: Operations, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Of a prefill of two rows, [tokens, vocab]."""
    config = ModelConfig.from_hf(directory)
    model: LlamaModel = MODELS[config.architecture](config, 64, dtype, device, operations)
    load_weights(Checkpoint(directory), model.targets(), model.aliases(), None)
    layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, 16, dtype)
    attention = choose_attention(layout.pages(layout.allocate(8, device)), config.windows, dtype, "torch")
    batch = moved(make_batch(Rows([0, 0], [9, 4]), 16, 8, seed=1), device)
    ids = torch.randint(0, 512, (13,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        hidden = model.hidden(ids.to(device), batch.positions, None, attention, attention.plan(batch))
        out = torch.empty(13, config.vocab_size, dtype=dtype, device=device)
        model.logits_into(hidden, out)
        assert torch.equal(out, model.logits(hidden))
        return out.cpu()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_decoder_on_triton_is_as_accurate_as_on_torch(family: str, tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, family, std=0.08)
    exact = logits(directory, TorchOperations(), torch.float32, CPU)
    assert error(logits(directory, TritonOperations(), torch.float32, DEVICE), exact) < 1e-5
    theirs = error(logits(directory, TorchOperations(), torch.bfloat16, CPU), exact)
    ours = error(logits(directory, TritonOperations(), torch.bfloat16, DEVICE), exact)
    assert 0 < ours < 1.5 * theirs


def test_the_device_decides_whose_operations_a_model_has() -> None:
    assert choose_operations(CPU).name == "torch"
    assert choose_operations(torch.device("cuda")).name == "triton"
