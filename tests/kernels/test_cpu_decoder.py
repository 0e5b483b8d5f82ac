"""The native decoder: as near to fp32 as bfloat16 weights allow, and the same bits however a step is made up."""

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.execution.loading import load_model
from kernels.attention.native import NativeAttention
from kernels.attention.reference import ReferenceAttention
from kernels.cpu.library import ISAS, load_kernels
from kernels.cpu.packing import interleave_gate_up, pack_weight, padded
from kvstore.layout import BlockLayout
from tests.checkpoints import make_checkpoint
from tests.kernels.attention_cases import CPU, Rows, make_batch

HERE = ISAS[ISAS.index(load_kernels().isa) :]
"""Instruction sets of this machine."""

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen2, windows and biases": ("qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}),
    "odd sizes": ("llama", {"hidden_size": 72, "intermediate_size": 88, "vocab_size": 331, "head_dim": 24}),
    "dynamic rope": ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": 64}),
}


@pytest.fixture(scope="module", params=SHAPES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, config = SHAPES[request.param]
    directory = tmp_path_factory.mktemp("decoder")
    return make_checkpoint(directory, family, dtype=torch.bfloat16, std=0.08, num_hidden_layers=3, **config)


@pytest.fixture(scope="module")
def long_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A product reads its inputs in several parts, and its rows in blocks of 128."""
    directory = tmp_path_factory.mktemp("long-inputs")
    return make_checkpoint(
        directory, "llama", dtype=torch.bfloat16, std=0.08, num_hidden_layers=2, intermediate_size=2080
    )


class Steps:
    """One model over a pool of its own, computed natively or by torch."""

    def __init__(
        self, checkpoint: Path, dtype: torch.dtype, kv_dtype: torch.dtype, isa: str | None, int8_weights: bool = False
    ) -> None:
        loaded = load_model(checkpoint, device=CPU, dtype=dtype, isa=isa, int8_weights=int8_weights)
        config = loaded.config
        layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, 16, kv_dtype)
        kv = layout.pages(layout.allocate(64, CPU))
        self._model = loaded.model
        self._attention = (
            ReferenceAttention(kv, config.windows)
            if isa is None
            else NativeAttention(kv, config.windows, loaded.model.dtype, load_kernels(isa))
        )

    def run(self, rows: Rows, token_ids: torch.Tensor) -> torch.Tensor:
        """Logits [tokens, vocab]. Rows get the same blocks in every call with as many rows."""
        batch = make_batch(rows, 16, 64, seed=1, blocks_per_row=64 // len(rows.starts))
        prompt_lengths = torch.full_like(batch.positions, 5)
        with torch.inference_mode():
            hidden = self._model.hidden(
                token_ids.int(), batch.positions, prompt_lengths, self._attention, self._attention.plan(batch)
            )
            return self._model.logits(hidden).float().clone()


def token_ids(count: int) -> torch.Tensor:
    return torch.randint(0, 331, (count,), generator=torch.Generator().manual_seed(count))


def test_packed_weights_are_where_a_tile_reads_them() -> None:
    weight = torch.arange(70 * 40, dtype=torch.float32).view(70, 40).bfloat16()
    packed = pack_weight(weight).view(padded(70) // 32, padded(40) // 32, 2, 16, 16, 2)
    for output, column in ((0, 0), (17, 1), (31, 39), (69, 33)):
        panel, tile, lane = output // 32, output % 32 // 16, output % 16
        step, pair, odd = column // 32, column % 32 // 2, column % 2
        assert packed[panel, step, tile, pair, lane, odd] == weight[output, column]
    assert packed.count_nonzero() == weight.count_nonzero()


def test_gate_and_up_rows_stand_in_one_panel() -> None:
    merged = torch.cat((torch.arange(24), 100 + torch.arange(24)))[:, None]
    rows = interleave_gate_up(merged)[:, 0].view(-1, 2, 16)
    assert rows[0].tolist() == [list(range(16)), list(range(100, 116))]
    assert rows[1].tolist() == [[*range(16, 24)] + [0] * 8, [*range(116, 124)] + [0] * 8]


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_logits_are_closer_to_fp32_than_those_of_bf16_operations(
    checkpoint: Path, isa: str, kv_dtype: torch.dtype
) -> None:
    rows, ids = Rows([0, 0, 0], [3, 61, 100]), token_ids(164)
    truth = Steps(checkpoint, torch.float32, kv_dtype, None).run(rows, ids)
    torchs = Steps(checkpoint, torch.bfloat16, kv_dtype, None).run(rows, ids)
    ours = Steps(checkpoint, torch.bfloat16, kv_dtype, isa).run(rows, ids)
    assert ours.shape == truth.shape
    # What FP8 blocks round is the same for both.
    share = 0.8 if kv_dtype == torch.bfloat16 else 1.0
    assert (ours - truth).pow(2).mean().sqrt() <= share * (torchs - truth).pow(2).mean().sqrt()


@pytest.mark.parametrize("isa", HERE)
def test_int8_weights_cost_a_few_percent_of_the_logits(checkpoint: Path, isa: str) -> None:
    rows, ids = Rows([0, 0, 0], [3, 61, 100]), token_ids(164)
    truth = Steps(checkpoint, torch.float32, torch.bfloat16, None).run(rows, ids)
    ours = Steps(checkpoint, torch.bfloat16, torch.bfloat16, isa, int8_weights=True).run(rows, ids)
    assert (ours - truth).pow(2).mean().sqrt() <= 0.04 * truth.pow(2).mean().sqrt()


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("int8_weights", [False, True])
def test_how_a_step_is_made_up_changes_no_bit(
    checkpoint: Path, isa: str, kv_dtype: torch.dtype, int8_weights: bool
) -> None:
    lengths = [200, 37, 130]
    prompts = [token_ids(length) for length in lengths]
    whole = (
        Steps(checkpoint, torch.bfloat16, kv_dtype, isa, int8_weights)
        .run(Rows([0, 0, 0], lengths), torch.cat(prompts))
        .split(lengths)
    )
    # The same tokens, in chunks that differ by row and with single tokens among them, on one thread and on two.
    chunks = Steps(checkpoint, torch.bfloat16, kv_dtype, isa, int8_weights)
    done, got = [0, 0, 0], [[], [], []]  # type: tuple[list[int], list[list[torch.Tensor]]]
    cuts = [(1, 5, 33), (60, 1, 1), (17, 30, 1), (121, 0, 94), (1, 1, 1)]
    for number, cut in enumerate(cuts):
        counts = [min(count, length - start) for count, length, start in zip(cut, lengths, done, strict=True)]
        # A row that has nothing to compute computes its last token again: the same K and V to the same place.
        starts = [start if count else start - 1 for start, count in zip(done, counts, strict=True)]
        ids = torch.cat([p[s : s + max(c, 1)] for p, s, c in zip(prompts, starts, counts, strict=True)])
        threads = torch.get_num_threads()
        torch.set_num_threads(1 + number % 2)
        parts = chunks.run(Rows(starts, [max(count, 1) for count in counts]), ids).split([max(c, 1) for c in counts])
        torch.set_num_threads(threads)
        for row, count in enumerate(counts):
            if count:
                got[row].append(parts[row])
                done[row] += count
    assert done == lengths
    for want, parts in zip(whole, got, strict=True):
        assert torch.equal(torch.cat(parts), want)


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("int8_weights", [False, True])
def test_rows_and_threads_of_a_chunk_change_no_bit(long_inputs: Path, isa: str, int8_weights: bool) -> None:
    ids, threads = token_ids(720), torch.get_num_threads()
    whole = Steps(long_inputs, torch.bfloat16, torch.bfloat16, isa, int8_weights).run(Rows([0], [720]), ids)
    # Around the sizes at which products change how they go through rows, on more threads than some have panels.
    chunks, done = Steps(long_inputs, torch.bfloat16, torch.bfloat16, isa, int8_weights), 0
    for number, count in enumerate((16, 17, 32, 33, 48, 64, 80, 96, 129, 160, 45)):
        torch.set_num_threads((2, 3, 5)[number % 3])
        got = chunks.run(Rows([done], [count]), ids[done : done + count])
        torch.set_num_threads(threads)
        assert torch.equal(got, whole[done : done + count])
        done += count
    assert done == len(ids)
