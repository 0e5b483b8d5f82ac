"""What only a CUDA device can show: that nothing waits before the ids, that copies are where they should be."""

import pytest
import torch

from engine.execution.graphs import CudaGraphRecorder
from engine.execution.runner import ModelRunner
from engine.execution.staging import PinnedStaging
from engine.ids import BlockId, SeqSlot, StepId
from engine.models.config import ModelConfig
from engine.models.families import MODELS
from engine.models.llama import LlamaModel
from engine.models.weights import Checkpoint, load_weights
from engine.sampling import SamplingParams
from engine.scheduling.plan import NewSequence, StepPlan, Work
from kernels.attention.choice import choose_attention
from kvstore.copier import BlockCopier
from kvstore.layout import BlockLayout
from kvstore.slab import HostSlab
from kvstore.streams import CudaStream
from kvstore.transfer import MoveKind
from tests.checkpoints import make_checkpoint

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda", 0)
BLOCK_SIZE = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LlamaModel:
    directory = make_checkpoint(tmp_path_factory.mktemp("cuda"), "qwen3", std=0.1, dtype=torch.bfloat16)
    config = ModelConfig.from_hf(directory)
    found = MODELS[config.architecture](config, 256, torch.bfloat16, CUDA)
    load_weights(Checkpoint(directory), found.targets(), found.aliases(), None)
    return found


def plan_of(step: int, rows: list[tuple[int, int, int]], added: list[NewSequence]) -> StepPlan:
    work = Work()
    for slot, start, count in rows:
        first, last = -(-start // BLOCK_SIZE), -(-(start + count) // BLOCK_SIZE)
        work.slots.append(SeqSlot(slot))
        work.starts.append(start)
        work.num_tokens.append(count)
        work.samples.append(True)
        work.num_new_blocks.append(last - first)
        work.new_block_ids.extend(BlockId(slot + 8 * number) for number in range(first, last))
    return StepPlan(StepId(step), [], added, work)


@pytest.mark.parametrize("has_graphs", [True, False], ids=["graphs", "eager"])
@pytest.mark.parametrize(
    "params", [SamplingParams(temperature=0.0), SamplingParams(top_k=5, seed=1), SamplingParams(presence_penalty=0.5)]
)
def test_torch_sees_no_wait_within_a_step(model: LlamaModel, params: SamplingParams, has_graphs: bool) -> None:
    config = model.config
    layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, BLOCK_SIZE, torch.float8_e4m3fn)
    attention = choose_attention(layout.pages(layout.allocate(64, CUDA)), config.windows, torch.bfloat16)
    runner = ModelRunner(
        model,
        attention,
        block_size=BLOCK_SIZE,
        max_seqs=8,
        max_model_tokens=128,
        recorder=CudaGraphRecorder(CUDA) if has_graphs else None,
    )
    added = [
        NewSequence(SeqSlot(slot), f"r{slot}", list(range(1, 12 + slot)), 11 + slot, params, []) for slot in (0, 1)
    ]
    plans = [plan_of(0, [(0, 0, 11), (1, 0, 12)], added)]
    plans += [plan_of(step, [(0, 10 + step, 1), (1, 11 + step, 1)], []) for step in range(1, 9)]
    runner.execute(plans[0])
    runner.reset()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [runner.execute(plan).token_ids for plan in plans]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(len(ids) == 2 for ids in found)
    assert not runner.void_slots


def test_pinned_staging_brings_numbers_there_and_back() -> None:
    staging = PinnedStaging(CUDA, 8)
    numbers = staging.numbers([3, 1, 2], torch.int64)
    assert numbers.device == CUDA
    assert staging.fetch(numbers * 2) == [6, 2, 4]
    host = staging.memory((2, 4), torch.int64)
    assert host.is_pinned()
    host.copy_(torch.arange(8).view(2, 4))
    there = staging.send(host)
    host.add_(1)
    staging.refill(there, host)
    assert staging.fetch(there.flatten()) == list(range(1, 9))


def test_blocks_go_to_the_slab_and_back_behind_the_compute() -> None:
    layout = BlockLayout(4, 2, 64, BLOCK_SIZE, torch.float8_e4m3fn)
    pool = layout.allocate(32, CUDA)
    slab = HostSlab(32, layout.block_bytes, CUDA)
    assert slab.is_pinned, slab.pin_failure
    copier = BlockCopier(pool, slab.tensor, CudaStream(CUDA))
    pool.random_(0, 256)
    wanted = pool.cpu()
    blocks, slots = [5, 6, 7, 30, 2], [1, 2, 3, 9, 0]
    pool[2].fill_(17)
    assert copier.copy(MoveKind.SPILL, blocks, slots, copier.stream.fence()) == 3
    wanted[2] = 17
    assert torch.equal(slab.tensor[slots], wanted[blocks])
    pool.zero_()
    copier.copy(MoveKind.LOAD, blocks, slots, copier.stream.fence())
    assert torch.equal(pool.cpu()[blocks], wanted[blocks])
    slab.close()
