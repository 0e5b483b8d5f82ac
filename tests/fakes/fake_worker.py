"""A worker without a model, and with a memory that notices every wrong block.

It keeps the contract of step plans as a real worker does: released slots, then new sequences, then work. Instead of
K and V, each place of each block holds a digest of the token ids up to that position, and before a row is computed,
everything that it would attend to is compared with what ought to be there. A block that was handed out too early,
shared by mistake or never filled raises PlanViolation in the step that would have read it.

Tokens depend on the ids so far, the position and the seed alone, so an output does not depend on the batch,
and `expected_output` tells it without any scheduler.
"""

from dataclasses import dataclass
from hashlib import blake2b

from engine.ids import BlockId, SeqSlot
from engine.sampling import SamplingParams
from engine.scheduling.plan import NewSequence, StepPlan, StepResult

Digest = bytes

EMPTY: Digest = b""


class PlanViolation(AssertionError):
    """The plan breaks the contract between scheduler and worker."""


def extend_digest(digest: Digest, token_id: int) -> Digest:
    """The digest of a sequence of ids that is one longer."""
    return blake2b(digest + token_id.to_bytes(4, "little"), digest_size=12).digest()


def digest_of(token_ids: list[int]) -> Digest:
    digest = EMPTY
    for token_id in token_ids:
        digest = extend_digest(digest, token_id)
    return digest


def sample(digest: Digest, num_generated: int, sampling: SamplingParams, vocab_size: int) -> int:
    """The token after the ids with this digest. Stop tokens are masked until `min_tokens` were generated."""
    seed = b"" if sampling.is_greedy else sampling.seed.to_bytes(8, "little")
    token_id = int.from_bytes(blake2b(digest + seed, digest_size=4).digest(), "little") % vocab_size
    if num_generated < sampling.min_tokens:
        assert len(set(sampling.stop_token_ids)) < vocab_size
        while token_id in sampling.stop_token_ids:
            token_id = (token_id + 1) % vocab_size
    return token_id


def expected_output(
    prompt_token_ids: list[int], sampling: SamplingParams, vocab_size: int, max_model_tokens: int
) -> list[int]:
    """What an undisturbed run of one sequence generates, its stop token included."""
    digest = digest_of(prompt_token_ids)
    output: list[int] = []
    while len(output) < sampling.max_tokens and len(prompt_token_ids) + len(output) < max_model_tokens:
        token_id = sample(digest, len(output), sampling, vocab_size)
        output.append(token_id)
        digest = extend_digest(digest, token_id)
        if token_id in sampling.stop_token_ids:
            break
    return output


@dataclass(slots=True)
class _Slot:
    token_ids: list[int]
    digests: list[Digest]
    """Entry p is the digest of tokens `[0, p]`, for every known token."""
    num_prompt_tokens: int
    sampling: SamplingParams
    blocks: list[BlockId]
    num_computed: int

    def append(self, token_id: int) -> None:
        self.digests.append(extend_digest(self.digests[-1] if self.digests else EMPTY, token_id))
        self.token_ids.append(token_id)


class FakeWorker:
    """Executes plans in order, at once. `max_batched_tokens` None: not checked."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        max_seqs: int,
        vocab_size: int = 64,
        max_batched_tokens: int | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.num_steps = 0
        self._block_size = block_size
        self._num_blocks = num_blocks
        self._max_seqs = max_seqs
        self._max_batched_tokens = max_batched_tokens
        self._content: list[list[Digest]] = [[EMPTY] * block_size for _ in range(num_blocks)]
        self._slots: dict[SeqSlot, _Slot] = {}

    @property
    def busy_slots(self) -> set[SeqSlot]:
        return set(self._slots)

    def execute(self, plan: StepPlan) -> StepResult:
        """Run one plan and answer it. Raises PlanViolation."""
        self.num_steps += 1
        self._check(plan.step_id == self.num_steps, f"step {plan.step_id} comes where {self.num_steps} is due")
        for slot in plan.released_slots:
            self._check(slot in self._slots, f"slot {slot} is released but empty")
            del self._slots[slot]
        for new in plan.new_sequences:
            self._introduce(new)
        work = plan.work
        self._check(len(set(work.slots)) == len(work), "a slot has two rows")
        self._check(sum(work.num_new_blocks) == len(work.new_block_ids), "new block ids and their numbers differ")
        if self._max_batched_tokens is not None:
            self._check(work.total_tokens <= self._max_batched_tokens, f"{work.total_tokens} tokens in one step")
        result = StepResult(plan.step_id)
        next_block = 0
        for i, slot in enumerate(work.slots):
            new_blocks = work.new_block_ids[next_block : next_block + work.num_new_blocks[i]]
            next_block += len(new_blocks)
            self._write(slot, work.starts[i], work.num_tokens[i], new_blocks)
        # As in a model's layer, all rows write before any row reads.
        for i, slot in enumerate(work.slots):
            self._read(slot)
            self._answer(result, slot, work.starts[i], work.samples[i])
        return result

    def read_block(self, block: BlockId) -> tuple[Digest, ...]:
        """What the block holds, for a copy out of it."""
        return tuple(self._content[block])

    def write_block(self, block: BlockId, content: tuple[Digest, ...]) -> None:
        """A copy into the block has ended."""
        self._content[block] = list(content)

    def spoil(self, block: BlockId) -> None:
        """A copy into the block has begun: until it ends, nobody may read anything there."""
        self._content[block] = [b"in motion"] * self._block_size

    def _introduce(self, new: NewSequence) -> None:
        self._check(0 <= new.slot < self._max_seqs, f"slot {new.slot} does not exist")
        self._check(new.slot not in self._slots, f"slot {new.slot} is taken")
        self._check(0 < new.num_prompt_tokens <= len(new.token_ids), "the prompt is not within the ids")
        num_held = len(new.block_ids) * self._block_size
        self._check(num_held < len(new.token_ids), "nothing is left to compute")
        state = _Slot([], [], new.num_prompt_tokens, new.sampling, list(new.block_ids), num_held)
        for token_id in new.token_ids:
            state.append(token_id)
        self._slots[new.slot] = state

    def _write(self, slot: SeqSlot, start: int, count: int, new_blocks: list[BlockId]) -> None:
        self._check(slot in self._slots, f"slot {slot} has a row but no sequence")
        state, size = self._slots[slot], self._block_size
        end = start + count
        for block in new_blocks:
            self._check(0 <= block < self._num_blocks, f"block {block} does not exist")
        state.blocks.extend(new_blocks)
        self._check(len(set(state.blocks)) == len(state.blocks), f"slot {slot} has a block twice")
        self._check(count > 0, f"slot {slot} has an empty row")
        self._check(start == state.num_computed, f"slot {slot} goes on at {start}, not {state.num_computed}")
        self._check(end <= len(state.token_ids), f"slot {slot} computes up to {end} of {len(state.token_ids)} ids")
        self._check(end <= len(state.blocks) * size, f"slot {slot} has no block for position {end - 1}")
        for position in range(start, end):
            self._content[state.blocks[position // size]][position % size] = state.digests[position]
        state.num_computed = end

    def _read(self, slot: SeqSlot) -> None:
        state, size = self._slots[slot], self._block_size
        for position in range(state.num_computed):
            held = self._content[state.blocks[position // size]][position % size]
            self._check(held == state.digests[position], f"slot {slot} reads wrong content at position {position}")

    def _answer(self, result: StepResult, slot: SeqSlot, start: int, samples: bool) -> None:
        state = self._slots[slot]
        end = state.num_computed
        self._check(samples == (end == len(state.token_ids)), f"slot {slot} samples at the wrong place")
        if state.sampling.prompt_logprobs is not None:
            for position in range(start + 1, min(end + 1, state.num_prompt_tokens)):
                _score(result, slot, position, state.token_ids[position], state.sampling.prompt_logprobs)
        if samples:
            num_generated = len(state.token_ids) - state.num_prompt_tokens
            token_id = sample(state.digests[-1], num_generated, state.sampling, self.vocab_size)
            result.slots.append(slot)
            result.token_ids.append(token_id)
            if state.sampling.logprobs is not None:
                _score(result, slot, end, token_id, state.sampling.logprobs)
            state.append(token_id)

    @staticmethod
    def _check(holds: bool, message: str) -> None:
        if not holds:
            raise PlanViolation(message)


def _score(result: StepResult, slot: SeqSlot, position: int, token_id: int, num_top: int) -> None:
    result.logprob_slots.append(slot)
    result.logprob_positions.append(position)
    top = [token_id + i for i in range(num_top)]
    result.logprobs.append(token_id, fake_logprob(token_id, position), 1, top, [-0.5 - i for i in range(num_top)])


def fake_logprob(token_id: int, position: int) -> float:
    """The log probability that the fake gives to a token at a position."""
    return -(1 + token_id % 7) - position / 1024
