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
    num_host_slots: int = 0
    """Records that the host tier holds. 0: there is nothing below the device, neither host nor disk; and without
    `prefix_cache` neither is used."""
    block_bytes: int = 0
    """Size of one record. Needed with a host tier."""
    has_disk: bool = False
    max_pinned_disk_blocks: int = 0
    """Pinned records that the disk keeps whatever else it needs room for; 0: as many as the host tier lets be pinned.
    """
    host_tenant_cap_bytes: int = 0
    """What a tenant with a name may hold in the host tier; 0: no cap."""
    pinned_fraction: float = 0.5
    """Part of the host tier that pinned prefixes may take."""
    spill_ahead_fraction: float = 0.25
    """Part of the device pool that is kept free, or saved below, ahead of need."""
    persist_ahead_fraction: float = 0.25
    """The same for the host tier and the disk."""
    spill_budget_bytes: int = 64 << 20
    """In flight at most; one block always is allowed."""
    persist_budget_bytes: int = 64 << 20
    fetch_budget_bytes: int = 128 << 20
    max_transfer_blocks: int = 64
    """Rows of one transfer. Its result comes when all of it is done."""
    min_fetch_blocks: int = 2
    """Shorter runs on disk are computed."""
    always_bring: bool = False
    """Bring cached blocks from below even where computing them is cheaper: for measurements of the tiers."""
    max_fetch_loss: float = 0.1
    """What waiting for a fetch in vain may cost at most, as a part of the time that computing all would take."""
    fetch_timeout_ns: int = 10_000_000_000
    """After which the worker stops trying. Nobody waits that long; see `max_fetch_loss`."""
    store_timeout_ns: int = 10_000_000_000
    """The same for spills and persists, for which nobody waits at all."""
    min_load_wait_ns: int = 50_000_000
    """A load is waited for as long as computing its blocks would take, and at least this long."""
    max_load_wait_ns: int = 5_000_000_000
    assumed_prefill_tokens_per_s: float = 2000.0
    """Until it is measured, as the three below."""
    assumed_load_bytes_per_s: float = 4e9
    assumed_fetch_bytes_per_s: float = 0.7e9
    assumed_transfer_latency_ns: int = 1_000_000
    measurement_lifetime_ns: int = 60_000_000_000
    """A bandwidth that has not been measured for so long is assumed anew: a disk that was slow gets another chance."""

    def __post_init__(self) -> None:
        for name in (
            "num_blocks",
            "block_size",
            "max_seqs",
            "max_batched_tokens",
            "max_waiting",
            "plans_in_flight",
            "max_scan",
            "max_transfer_blocks",
            "min_fetch_blocks",
            "fetch_timeout_ns",
            "store_timeout_ns",
            "min_load_wait_ns",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in (
            "rope_length_dependent_from",
            "headroom_blocks_per_sequence",
            "max_skips",
            "num_host_slots",
            "host_tenant_cap_bytes",
            "max_pinned_disk_blocks",
            "max_fetch_loss",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.max_model_tokens < 2:
            raise ConfigError(f"max_model_tokens is {self.max_model_tokens}; a prompt and an output take at least 2")
        if self.max_model_tokens > self.num_blocks * self.block_size:
            raise ConfigError(
                f"max_model_tokens is {self.max_model_tokens}, but the pool holds {self.num_blocks} blocks of "
                f"{self.block_size} tokens = {self.num_blocks * self.block_size}; lower it or enlarge the pool"
            )
        if self.num_host_slots and self.block_bytes < 1:
            raise ConfigError(
                f"block_bytes is {self.block_bytes}, but there are {self.num_host_slots} host slots; "
                "say how large a block is, or set num_host_slots to 0"
            )
        if self.has_disk and not self.num_host_slots:
            raise ConfigError(
                "has_disk is set, but num_host_slots is 0; blocks reach the disk through host slots only. "
                "Give the host tier memory, or switch the disk off"
            )
        for name in ("pinned_fraction", "spill_ahead_fraction", "persist_ahead_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        if len(self.namespace) != KEY_BYTES:
            raise ConfigError(f"namespace has {len(self.namespace)} bytes; it must have {KEY_BYTES}")

    @property
    def has_host(self) -> bool:
        """Whether anything below the device is used."""
        return self.num_host_slots > 0 and self.prefix_cache

    @property
    def max_host_slots_per_tenant(self) -> int:
        """0: no cap. A cap below one record still leaves one."""
        return max(1, self.host_tenant_cap_bytes // self.block_bytes) if self.host_tenant_cap_bytes else 0

    @property
    def max_pinned_blocks(self) -> int:
        if not self.has_host:
            return 0
        in_host = int(self.num_host_slots * self.pinned_fraction)
        return min(in_host, self.max_pinned_disk_blocks) if self.is_disk_limit_of_pins else in_host

    @property
    def is_disk_limit_of_pins(self) -> bool:
        """Whether it is the disk rather than the host tier that lets no more be pinned."""
        in_disk = self.max_pinned_disk_blocks
        return self.has_disk and 0 < in_disk < int(self.num_host_slots * self.pinned_fraction)

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)
