"""Settings of the worker service, `[worker]` in the config file."""

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from services.common.byte_size import ByteSize
from services.common.config import ServiceConfig
from services.common.settings import setting


class Device(enum.StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class CpuKernels(enum.StrEnum):
    """The best instruction set that the native kernels may use."""

    AUTO = "auto"
    AMX = "amx"
    AVX512_BF16 = "avx512bf16"
    AVX512 = "avx512"
    AVX2 = "avx2"
    OFF = "off"


class CudaGraphs(enum.StrEnum):
    AUTO = "auto"
    OFF = "off"


class Dtype(enum.StrEnum):
    AUTO = "auto"
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


class Weights(enum.StrEnum):
    AUTO = "auto"
    INT8 = "int8"


class KvDtype(enum.StrEnum):
    AUTO = "auto"
    FP8 = "fp8"
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig(ServiceConfig):
    role: ClassVar[str] = "worker"
    first_metrics_port: ClassVar[int] = 9484
    model: str = setting("Checkpoint directory, Hugging Face id, or demo.")
    served_model_name: str | None = setting("Name that clients know the model by; default: from --model.", None)
    device: Device = setting("Where the model runs; auto takes CUDA where there is a device.", Device.AUTO)
    dtype: Dtype = setting("Type of weights and activations; auto keeps the checkpoint's.", Dtype.AUTO)
    weights: Weights = setting(
        "Type of the weights of products; auto: --dtype's; int8 rounds them, and activations, on a CPU.", Weights.AUTO
    )
    kv_dtype: KvDtype = setting("Type of cached keys and values; auto takes the activations'.", KvDtype.FP8)
    block_size: int = setting("Tokens per cache block.", 16, minimum=1)
    device_cache: ByteSize | None = setting("Size of the device block pool; default: from the memory.", None)
    host_cache: ByteSize | None = setting(
        "Size of the host tier; 0 switches it and the disk tier off; default: from the memory.", None
    )
    disk_cache: ByteSize | None = setting("Size of the disk tier; 0 switches it off; default: from the space.", None)
    cache_dir: Path | None = setting(
        "Folder of the disk tier, on a local disk; default: tiercel/kv in the user's cache.", None
    )
    disk_read_limit: ByteSize | None = setting("Bytes a second that fetches may read; default: no limit.", None)
    tenant_disk_cache: ByteSize | None = setting("What one tenant may take of the disk tier; default: all.", None)
    max_batched_tokens: int = setting("Tokens that one step computes at most.", 2048, minimum=1)
    max_seqs: int = setting("Sequences that run at once.", 64, minimum=1)
    max_model_len: int | None = setting("Tokens of prompt and output together; default: the model's.", None, minimum=2)
    cpu_kernels: CpuKernels = setting(
        "Best instruction set for the native kernels on a CPU; off: torch's operations.", CpuKernels.AUTO
    )
    cuda_graphs: CudaGraphs = setting(
        "Decode steps as CUDA graphs, captured at start; auto: where the device and the attention allow it.",
        CudaGraphs.AUTO,
    )
    threads: int | None = setting(
        "Threads that torch computes with; default: one per core, within the CPU quota.", None, minimum=1
    )
