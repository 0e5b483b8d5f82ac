"""Records moved between a pool and a staging buffer by Triton: exact bytes, and no others."""

import pytest
import torch

from kernels.triton.move_blocks import gather_blocks, scatter_blocks
from tests.kernels import triton_products  # noqa: F401
from tests.kernels.triton_device import DEVICE


def random_bytes(num_records: int, block_bytes: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_records, block_bytes), dtype=torch.uint8, generator=generator).to(DEVICE)


@pytest.mark.parametrize("block_bytes", [64, 4160, 16 << 10, 40_000])
@pytest.mark.parametrize("ids", [[3], [6, 0, 5, 2], []], ids=str)
@pytest.mark.parametrize("id_type", [torch.int32, torch.int64], ids=str)
def test_records_are_gathered_and_scattered_exactly(block_bytes: int, ids: list[int], id_type: torch.dtype) -> None:
    pool, staging = random_bytes(7, block_bytes, 1), random_bytes(5, block_bytes, 2)
    index = torch.tensor(ids, dtype=id_type, device=DEVICE)
    want = staging.clone()
    want[: len(ids)] = pool[ids]
    gather_blocks(pool, index, staging)
    assert torch.equal(staging, want)
    target = random_bytes(7, block_bytes, 3)
    want = target.clone()
    want[ids] = staging[: len(ids)]
    scatter_blocks(staging, index, target)
    assert torch.equal(target, want)


def test_a_staging_buffer_that_is_too_small_is_refused() -> None:
    pool, index = random_bytes(4, 64, 1), torch.tensor([0, 1, 2], device=DEVICE)
    with pytest.raises(ValueError, match=r"3 records of 64 bytes do not fit staging \[2, 64\]"):
        gather_blocks(pool, index, random_bytes(2, 64, 2))
    with pytest.raises(ValueError, match=r"3 records of 64 bytes do not fit staging \[3, 128\]"):
        scatter_blocks(random_bytes(3, 128, 2), index, pool)
