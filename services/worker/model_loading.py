"""From the worker's settings to a model that is ready to run. The one file of the services that knows torch."""

from collections.abc import Callable

import torch

from engine.errors import ConfigError
from engine.execution.graphs import CudaGraphRecorder, why_not
from engine.execution.loading import LoadedModel, default_device_cache_bytes, load_model, num_blocks_for
from engine.execution.runner import ModelRunner
from engine.models.fingerprint import namespace
from kernels.attention.choice import choose_attention
from kernels.attention.protocol import AttentionBackend
from kvstore.courtesy import ComputeGauge
from kvstore.host_memory import available_bytes
from kvstore.layout import BlockLayout
from services.common import logs
from services.common.model_path import CHECKPOINT_FILES, resolve_model
from services.worker.config import CpuKernels, CudaGraphs, Device, Dtype, KvDtype, Weights, WorkerConfig
from services.worker.cores import usable_cores
from services.worker.gauged_executor import GaugedExecutor
from services.worker.loaded_engine import LoadedEngine, LoadProgress, TierNews, WorkerFacts
from services.worker.tiers import open_tiers

_log = logs.get_logger(__name__)

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_KV_DTYPES = {**_DTYPES, "fp8": torch.float8_e4m3fn}
_NAMES = {dtype: name for name, dtype in _KV_DTYPES.items()}


def load_engine(config: WorkerConfig, progress: LoadProgress, tell: Callable[[TierNews], None]) -> LoadedEngine:
    """Load weights, size and allocate the pool, build the runner. Runs on the engine's thread, for seconds to minutes.

    Raises ConfigError for whatever in the settings or the checkpoint is unusable.
    """
    device = _device(config.device)
    torch.set_num_threads(config.threads or min(torch.get_num_threads(), usable_cores()))
    path = resolve_model(config.model, config.served_model_name, CHECKPOINT_FILES)
    loaded = load_model(
        path.directory,
        dtype=None if config.dtype is Dtype.AUTO else _DTYPES[config.dtype],
        device=device,
        max_model_tokens=config.max_model_len,
        progress=progress,
        isa=_isa(config.cpu_kernels),
        int8_weights=config.weights is Weights.INT8,
    )
    dtype = loaded.model.dtype
    kv_dtype = dtype if config.kv_dtype is KvDtype.AUTO else _KV_DTYPES[config.kv_dtype]
    layout = BlockLayout(
        num_layers=loaded.config.num_layers,
        num_kv_heads=loaded.config.num_kv_heads,
        head_dim=loaded.config.head_dim,
        block_size=config.block_size,
        dtype=kv_dtype,
    )
    num_blocks = _num_blocks(config, loaded, layout, device)
    pool = layout.allocate(num_blocks, device)
    backend = "torch" if config.cpu_kernels is CpuKernels.OFF and device.type == "cpu" else None
    isa = _isa(config.cpu_kernels) or ""
    attention = choose_attention(layout.pages(pool), loaded.config.windows, dtype, backend, isa)
    arithmetic = f"{loaded.model.arithmetic}/{attention.name}"
    runner = ModelRunner(
        loaded.model,
        attention,
        block_size=config.block_size,
        max_seqs=config.max_seqs,
        max_model_tokens=loaded.max_model_tokens,
        recorder=_graph_recorder(config.cuda_graphs, loaded, attention),
    )
    if device.type == "cuda":
        runner.warm_up(min(config.max_batched_tokens, loaded.max_model_tokens - 1))
    cache_namespace = namespace(
        loaded.config,
        loaded.weights_digest,
        dtype=dtype,
        arithmetic=arithmetic,
        kv_dtype=kv_dtype,
        scale_mode=layout.scale_mode,
        block_size=config.block_size,
    )
    gauge = ComputeGauge()
    tiers = open_tiers(config, pool, cache_namespace, gauge, progress, tell)
    facts = WorkerFacts(
        model=path.name,
        fingerprint=loaded.fingerprint,
        namespace=cache_namespace,
        block_size_tokens=config.block_size,
        block_bytes=layout.block_bytes,
        num_blocks=num_blocks,
        max_seqs=config.max_seqs,
        max_model_tokens=loaded.max_model_tokens,
        max_batched_tokens=config.max_batched_tokens,
        vocab_size=loaded.config.vocab_size,
        device=_device_name(device),
        dtype=_NAMES[dtype],
        kv_dtype=_NAMES[kv_dtype],
        attention_backend=attention.name,
        weights="int8" if config.weights is Weights.INT8 else _NAMES[dtype],
        weight_bytes=loaded.model.weight_bytes,
        rope_length_dependent_from_tokens=loaded.model.rope.length_dependent_from,
        num_host_slots=tiers.num_host_slots,
        host_is_pinned=tiers.host_is_pinned,
        disk_id=tiers.disk_id,
        disk_capacity_bytes=tiers.disk_capacity_bytes,
        host_note=tiers.host_note,
        disk_note=tiers.disk_note,
        max_pinned_disk_blocks=tiers.max_pinned_disk_blocks,
    )
    return LoadedEngine(
        GaugedExecutor(runner, gauge), facts, tiers.mover, None if tiers.mover is None else tiers.mover.keeper
    )


def _isa(asked: CpuKernels) -> str | None:
    match asked:
        case CpuKernels.AUTO:
            return ""
        case CpuKernels.OFF:
            return None
        case _:
            return str(asked)


def _graph_recorder(asked: CudaGraphs, loaded: LoadedModel, attention: AttentionBackend) -> CudaGraphRecorder | None:
    device = loaded.model.device
    if device.type != "cuda" or asked is CudaGraphs.OFF:
        return None
    if reason := why_not(loaded.model, attention):
        _log.warning("decode steps run without CUDA graphs", extra=logs.fields(reason=reason))
        return None
    return CudaGraphRecorder(device)


def _device(asked: Device) -> torch.device:
    if asked is Device.CUDA and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no CUDA device here; use --device cpu or auto")
    if asked is Device.CPU or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _num_blocks(config: WorkerConfig, loaded: LoadedModel, layout: BlockLayout, device: torch.device) -> int:
    per_sequence = layout.block_bytes * -(-loaded.max_model_tokens // config.block_size)
    size = config.device_cache
    if size is None:
        cache_bytes = default_device_cache_bytes(
            device,
            available_bytes(),
            min_bytes=per_sequence,
            max_bytes=per_sequence * config.max_seqs,
        )
    else:
        cache_bytes = size
    num_blocks = num_blocks_for(
        cache_bytes,
        block_bytes=layout.block_bytes,
        block_size=config.block_size,
        max_model_tokens=loaded.max_model_tokens,
        max_seqs=config.max_seqs,
    )
    num_bytes = num_blocks * layout.block_bytes
    if device.type == "cpu" and num_bytes > (available := available_bytes()):
        raise ConfigError(
            f"a device cache of {num_bytes} bytes does not fit into the {available} bytes of memory that are free; "
            f"give --device-cache less"
        )
    return num_blocks
