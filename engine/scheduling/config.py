"""The limits that a scheduler keeps: those of its worker, and those of its operator."""

from dataclasses import dataclass

from engine.blocks.keys import KEY_BYTES
from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Checked when made; raises ConfigError."""

    num_blocks: int
    block_size: int
    """Tokens per block."""
    max_seqs: int
    """Slots on the worker: sequences that run at once."""
    max_batched_tokens: int
    """Tokens that one step computes at most, over all sequences."""
    max_model_tokens: int
    """Prompt and output of one sequence. At most what the pool holds, so that a sequence alone always fits."""
    namespace: bytes
    """32 bytes where the chains of block keys start."""
    max_waiting: int = 1024
    """Requests that may wait for their first step."""
    prefix_cache: bool = True
    plans_in_flight: int = 2
    rope_length_dependent_from: int = 0
    """Prompts longer than this many tokens share blocks only with prompts of the same length; 0: no such limit."""
    headroom_blocks_per_sequence: int = 1
    """Blocks left for each running sequence to grow into when another one is admitted beside them."""
    max_scan: int = 16
    """Waiting sequences that one plan looks at."""
    max_skips: int = 64
    """Sequences that may pass the first of the queue while it does not fit; then all others wait for it."""

    def __post_init__(self) -> None:
        for name in (
            "num_blocks",
            "block_size",
            "max_seqs",
            "max_batched_tokens",
            "max_waiting",
            "plans_in_flight",
            "max_scan",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("rope_length_dependent_from", "headroom_blocks_per_sequence", "max_skips"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.max_model_tokens < 2:
            raise ConfigError(f"max_model_tokens is {self.max_model_tokens}; a prompt and an output take at least 2")
        if self.max_model_tokens > self.num_blocks * self.block_size:
            raise ConfigError(
                f"max_model_tokens is {self.max_model_tokens}, but the pool holds {self.num_blocks} blocks of "
                f"{self.block_size} tokens = {self.num_blocks * self.block_size}; lower it or enlarge the pool"
            )
        if len(self.namespace) != KEY_BYTES:
            raise ConfigError(f"namespace has {len(self.namespace)} bytes; it must have {KEY_BYTES}")

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)
