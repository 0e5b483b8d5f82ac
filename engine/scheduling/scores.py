"""The log probability columns of a step's result, by slot."""

from collections.abc import Iterator

from engine.ids import SeqSlot
from engine.logprobs import Logprobs
from engine.scheduling.plan import StepResult


def iter_scores(result: StepResult) -> Iterator[tuple[SeqSlot, int, Logprobs]]:
    """(slot, position, one entry) for each token that the step scored, in the worker's order."""
    columns = result.logprobs
    top = 0
    for i, (slot, position) in enumerate(zip(result.logprob_slots, result.logprob_positions, strict=True)):
        end = top + columns.num_top[i]
        entry = Logprobs(
            [columns.token_ids[i]],
            [columns.logprobs[i]],
            [columns.ranks[i]],
            [columns.num_top[i]],
            columns.top_token_ids[top:end],
            columns.top_logprobs[top:end],
        )
        yield slot, position, entry
        top = end
