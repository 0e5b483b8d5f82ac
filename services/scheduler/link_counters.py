"""What has gone over a link to a worker in this session."""

from collections import deque

from engine.ids import SeqSlot
from engine.scheduling.plan import StepPlan, StepResult

_NUM_GAPS = 4096


class LinkCounters:
    """Cheap enough to be kept on every step."""

    def __init__(self) -> None:
        self.num_prompt_tokens = 0
        """Prompt tokens sent for computing."""
        self.num_completion_tokens = 0
        """Tokens sampled."""
        self.num_back_to_back = 0
        """Steps whose plan was waiting on the worker when the step before ended."""
        self.gaps_ns: deque[int] = deque(maxlen=_NUM_GAPS)
        """Between the end of a step and the start of the next one, of the latest back-to-back steps."""
        self._num_prompt_tokens_of: dict[SeqSlot, int] = {}

    def count_plan(self, plan: StepPlan) -> None:
        prompts = self._num_prompt_tokens_of
        for sequence in plan.new_sequences:
            prompts[sequence.slot] = sequence.num_prompt_tokens
        work = plan.work
        for slot, start, num_tokens in zip(work.slots, work.starts, work.num_tokens, strict=True):
            left = prompts[slot] - start
            if left > 0:
                self.num_prompt_tokens += min(left, num_tokens)

    def count_result(self, result: StepResult) -> None:
        self.num_completion_tokens += len(result.token_ids)
        if result.timings.gap_ns:
            self.num_back_to_back += 1
            self.gaps_ns.append(result.timings.gap_ns)

    def gap_percentiles_ns(self) -> tuple[int, int]:
        """p50 and p99 by nearest rank; zeros when nothing was measured."""
        ordered = sorted(self.gaps_ns)
        if not ordered:
            return 0, 0
        last = len(ordered) - 1
        return ordered[min(last, len(ordered) // 2)], ordered[min(last, int(0.99 * len(ordered)))]
