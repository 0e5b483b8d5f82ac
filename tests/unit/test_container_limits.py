"""A container's limits count, not the machine's, in both versions of control groups."""

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from kvstore.host_memory import available_bytes
from services.worker.cores import usable_cores

MIB = 1 << 20

Memory = Callable[[Path, str, int, int], Path]
Cores = Callable[[Path, str], Path]


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return folder


def memory_v2(folder: Path, limit: str, used_bytes: int, cache_bytes: int) -> Path:
    stat = f"anon {used_bytes - cache_bytes}\nfile {cache_bytes}\nkernel 0"
    return write(folder, {"memory.max": limit, "memory.current": str(used_bytes), "memory.stat": stat})


def memory_v1(folder: Path, limit: str, used_bytes: int, cache_bytes: int) -> Path:
    stat = f"cache 1\ntotal_cache {cache_bytes}\ntotal_rss 7"
    files = {"limit_in_bytes": limit, "usage_in_bytes": str(used_bytes), "stat": stat}
    return write(folder, {f"memory/memory.{name}": text for name, text in files.items()})


@pytest.mark.parametrize("memory", [memory_v1, memory_v2])
def test_memory_is_what_the_limit_leaves_and_page_cache_counts_as_free(tmp_path: Path, memory: Memory) -> None:
    assert available_bytes(memory(tmp_path, str(64 * MIB), 40 * MIB, 10 * MIB)) == 34 * MIB


@pytest.mark.parametrize("memory", [memory_v1, memory_v2])
def test_a_limit_that_is_used_up_leaves_nothing(tmp_path: Path, memory: Memory) -> None:
    assert available_bytes(memory(tmp_path, str(64 * MIB), 65 * MIB, 0)) == 0


@pytest.mark.parametrize(("memory", "limit"), [(memory_v1, str(2**63 - 4096)), (memory_v2, "max")])
def test_without_a_limit_memory_is_the_machines(tmp_path: Path, memory: Memory, limit: str) -> None:
    total = psutil.virtual_memory().total
    assert total // 100 < available_bytes(memory(tmp_path, limit, 40 * MIB, 0)) <= total


def test_where_no_control_group_can_be_read_memory_is_the_machines(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) > MIB
    assert available_bytes(memory_v2(tmp_path, "rubbish", 0, 0)) > MIB


def cores_v2(folder: Path, quota: str) -> Path:
    return write(folder, {"cpu.max": f"{quota.replace('-1', 'max')} 100000"})


def cores_v1(folder: Path, quota: str) -> Path:
    return write(folder, {"cpu/cpu.cfs_quota_us": quota, "cpu/cpu.cfs_period_us": "100000"})


@pytest.mark.parametrize("cores", [cores_v1, cores_v2])
def test_cores_are_the_whole_ones_of_the_quota(tmp_path: Path, cores: Cores) -> None:
    machine = len(os.sched_getaffinity(0))
    assert usable_cores(cores(tmp_path, "100000")) == 1
    assert usable_cores(cores(tmp_path, "199000")) == 1
    assert usable_cores(cores(tmp_path, "30000")) == 1
    assert usable_cores(cores(tmp_path, str(100000 * (machine + 3)))) == machine
    assert usable_cores(cores(tmp_path, "-1")) == machine


def test_where_no_quota_can_be_read_cores_are_the_machines(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))
    assert usable_cores(write(tmp_path, {"cpu.max": "rubbish"})) == len(os.sched_getaffinity(0))
