"""What the worker remembers of each running sequence between steps, in columns by slot."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from engine.execution.staging import Staging
from engine.sampling import SamplingParams
from engine.scheduling.plan import NewSequence

IntArray = npt.NDArray[np.int64]


class Slots:
    """State of up to `max_seqs` sequences. The token table is on the device, all else on the host.

    Owned and touched by the runner's thread only.
    """

    def __init__(self, max_seqs: int, max_model_tokens: int, block_size: int, staging: Staging) -> None:
        self.max_seqs = max_seqs
        self.max_model_tokens = max_model_tokens
        self.block_size = block_size
        self._staging = staging
        self.tokens = torch.zeros(max_seqs, max_model_tokens, dtype=torch.int32, device=staging.device)
        """int32 [max_seqs, max_model_tokens]: ids known so far; sampled ones are written behind the known ones."""
        self.block_tables = np.zeros((max_seqs, -(-max_model_tokens // block_size)), dtype=np.int32)
        """Entries past a sequence's blocks repeat its first: what reads too far reads no other sequence's bytes."""
        self.num_blocks = [0] * max_seqs
        self.capacity_tokens = np.zeros(max_seqs, dtype=np.int64)
        """What each sequence's blocks hold, at most `max_model_tokens`."""
        self.num_prompt_tokens = np.zeros(max_seqs, dtype=np.int64)
        self.sampling: list[SamplingParams | None] = [None] * max_seqs
        """None: the slot is free."""
        self.num_scoring = 0
        """Slots that ask for log probabilities of either kind."""

    def add(self, sequence: NewSequence) -> None:
        """Take a slot. Raises ValueError where the slot is taken, or the sequence does not fit."""
        slot, num_tokens = sequence.slot, len(sequence.token_ids)
        if not 0 <= slot < self.max_seqs:
            raise ValueError(f"slot {slot} is outside of the worker's {self.max_seqs}")
        if self.sampling[slot] is not None:
            raise ValueError(f"slot {slot} is taken; it must be released before {sequence.request_id} can have it")
        if not 0 < num_tokens <= self.max_model_tokens:
            raise ValueError(
                f"{sequence.request_id} has {num_tokens} tokens; a sequence has 1 to {self.max_model_tokens}"
            )
        self.tokens[slot, :num_tokens] = self._staging.numbers(sequence.token_ids, torch.int32)
        self.num_prompt_tokens[slot] = sequence.num_prompt_tokens
        if sequence.block_ids:
            self.block_tables[slot] = sequence.block_ids[0]
            self.block_tables[slot, : len(sequence.block_ids)] = sequence.block_ids
        self.num_blocks[slot] = len(sequence.block_ids)
        self.capacity_tokens[slot] = min(len(sequence.block_ids) * self.block_size, self.max_model_tokens)
        self.sampling[slot] = sequence.sampling
        self.num_scoring += _scores(sequence.sampling)

    def release(self, slot: int) -> None:
        """Free a slot; releasing a free one does nothing."""
        sampling = self.sampling[slot]
        if sampling is not None:
            self.sampling[slot] = None
            self.num_scoring -= _scores(sampling)

    def release_all(self) -> list[int]:
        """Free every slot that is taken and return them."""
        taken = [slot for slot, sampling in enumerate(self.sampling) if sampling is not None]
        for slot in taken:
            self.release(slot)
        return taken

    def append_blocks(self, slots: Sequence[int], num_new_blocks: Sequence[int], block_ids: Sequence[int]) -> None:
        """Append `num_new_blocks[i]` of the flat `block_ids` to the table of `slots[i]`.

        A plain loop: few rows of a step get a block, and vector operations cost more than those few.
        """
        start = 0
        for slot, count in zip(slots, num_new_blocks, strict=True):
            if not count:
                continue
            table, held = self.block_tables[slot], self.num_blocks[slot]
            ids = block_ids[start : start + count]
            start += count
            if not held:
                table[:] = ids[0]
            table[held : held + count] = ids
            self.num_blocks[slot] = held + count
            self.capacity_tokens[slot] = min((held + count) * self.block_size, self.max_model_tokens)


def _scores(sampling: SamplingParams) -> bool:
    return sampling.logprobs is not None or sampling.prompt_logprobs is not None
