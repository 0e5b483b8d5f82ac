"""A runner on Triton's kernels: decode steps from refilled buffers give what planned steps give.

The graphs are fake where there is no CUDA device (`tests/fakes/graph_recorder.py`) and real where there is one; plans,
batches, kernels and model are real everywhere.
"""

import pytest
import torch

from engine.execution.graphs import CudaGraphRecorder, GraphRecorder, why_not
from engine.execution.runner import ModelRunner
from engine.execution.staging import Staging, staging_for
from engine.ids import BlockId, SeqSlot, StepId
from engine.models.config import ModelConfig
from engine.models.families import MODELS
from engine.models.llama import LlamaModel
from engine.models.triton_operations import TritonOperations
from engine.models.weights import Checkpoint, load_weights
from engine.sampling import SamplingParams
from engine.scheduling.plan import NewSequence, StepPlan, Work
from kernels.attention.triton import TritonAttention
from kvstore.layout import BlockLayout
from tests.checkpoints import make_checkpoint
from tests.fakes.copied_staging import CopiedStaging
from tests.fakes.graph_recorder import FakeGraphRecorder
from tests.kernels.triton_device import DEVICE

BLOCK_SIZE = 16
MAX_SEQS = 4
NUM_BLOCKS = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LlamaModel:
    directory = make_checkpoint(tmp_path_factory.mktemp("triton"), "qwen3", std=0.1, num_hidden_layers=1)
    config = ModelConfig.from_hf(directory)
    model = MODELS[config.architecture](config, 64, torch.float32, DEVICE, TritonOperations())
    load_weights(Checkpoint(directory), model.targets(), model.aliases(), None)
    return model


def recorder() -> GraphRecorder:
    return CudaGraphRecorder(DEVICE) if DEVICE.type == "cuda" else FakeGraphRecorder()


def staging() -> Staging:
    return staging_for(DEVICE, MAX_SEQS) if DEVICE.type == "cuda" else CopiedStaging()


def run(model: LlamaModel, kv_dtype: torch.dtype, *, has_graphs: bool) -> tuple[list[list[int]], torch.Tensor]:
    """Sampled ids by step, rows in the order of slots, and the pool."""
    config = model.config
    layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, BLOCK_SIZE, kv_dtype)
    # What is not written must reach nobody: NaN as E4M3, as bfloat16 and as float32.
    pool = torch.full((NUM_BLOCKS, layout.block_bytes), 0xFF, dtype=torch.uint8, device=DEVICE)
    attention = TritonAttention(layout.pages(pool), config.windows, torch.float32)
    assert why_not(model, attention) is None
    runner = ModelRunner(
        model,
        attention,
        block_size=BLOCK_SIZE,
        max_seqs=MAX_SEQS,
        max_model_tokens=48,
        staging=staging(),
        recorder=recorder() if has_graphs else None,
    )
    assert (pool == 0xFF).all(), "recording writes nothing"
    lengths = [5, 14, 20]
    params = SamplingParams(temperature=0.0)
    added = [
        NewSequence(SeqSlot(slot), f"r{slot}", list(range(slot, slot + length)), length, params, [])
        for slot, length in enumerate(lengths)
    ]
    plans = [plan_of(0, [(slot, 0, length) for slot, length in enumerate(lengths)], added)]
    plans += [plan_of(step, [(slot, n + step - 1, 1) for slot, n in enumerate(lengths)], []) for step in range(1, 4)]
    plans += [plan_of(4, [(1, lengths[1] + 3, 1)], [])]
    found = []
    for plan in plans:
        result = runner.execute(plan)
        assert not runner.void_slots
        found.append([token for _, token in sorted(zip(result.slots, result.token_ids, strict=True))])
    return found, pool.cpu()


def plan_of(step: int, rows: list[tuple[int, int, int]], added: list[NewSequence]) -> StepPlan:
    work = Work()
    for slot, start, count in rows:
        first, last = -(-start // BLOCK_SIZE), -(-(start + count) // BLOCK_SIZE)
        work.slots.append(SeqSlot(slot))
        work.starts.append(start)
        work.num_tokens.append(count)
        work.samples.append(True)
        work.num_new_blocks.append(last - first)
        work.new_block_ids.extend(BlockId(NUM_BLOCKS - 1 - slot - 3 * number) for number in range(first, last))
    return StepPlan(StepId(step), [], added, work)


@pytest.mark.parametrize("kv_dtype", [torch.float8_e4m3fn, torch.bfloat16], ids=str)
def test_steps_from_refilled_buffers_are_the_planned_ones(model: LlamaModel, kv_dtype: torch.dtype) -> None:
    planned, pool = run(model, kv_dtype, has_graphs=False)
    replayed, other_pool = run(model, kv_dtype, has_graphs=True)
    assert replayed == planned
    assert [len(ids) for ids in planned] == [3, 3, 3, 3, 1]
    # Padding and idle programs have left alone whatever no row owns.
    is_written = (pool != 0xFF).any(dim=1)
    assert torch.equal(is_written, (other_pool != 0xFF).any(dim=1))
    assert 3 <= int(is_written.sum()) < NUM_BLOCKS
