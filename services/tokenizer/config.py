"""Settings of the tokenizer service, `[tokenizer]` in the config file."""

from dataclasses import dataclass
from typing import ClassVar

from services.common.config import ServiceConfig
from services.common.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig(ServiceConfig):
    role: ClassVar[str] = "tokenizer"
    first_metrics_port: ClassVar[int] = 9464
    model: str = setting("Checkpoint directory, Hugging Face id, or demo; only its tokenizer is read.")
    served_model_name: str | None = setting("Name that clients know the model by; default: from --model.", None)
    scheduler: str = setting("Address of the scheduler, HOST:PORT.")
    max_concurrent: int = setting("Generate calls that may be open at once.", 2048, minimum=1)
    encode_threads: int = setting("Threads that encode long texts.", 2, minimum=1)
    max_reports: int = setting("Reports of finished requests that are remembered.", 4096, minimum=1)
    metrics_tenants: int = setting("Tenants that have metrics of their own; the rest is other.", 20, minimum=0)
