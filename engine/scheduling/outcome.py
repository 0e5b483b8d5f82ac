"""What the result of a step does to the sequences that took part in it."""

from engine.blocks.tickets import TicketOutcome
from engine.errors import WorkerLost
from engine.ids import SeqSlot
from engine.logprobs import Logprobs
from engine.scheduling.book import RequestBook
from engine.scheduling.plan import StepResult
from engine.scheduling.rates import Rates
from engine.scheduling.request import FinishReason, PromptScored, TokenEvent
from engine.scheduling.scores import iter_scores
from engine.scheduling.sequence import Sequence
from engine.scheduling.step import StepInFlight
from engine.scheduling.timeline import Phase


def apply_outcome(book: RequestBook, rates: Rates, step: StepInFlight, result: StepResult, now_ns: int) -> None:
    """Advance the sequences of a step, publish the blocks that it filled, end what is complete.

    Rows whose sequence has left its slot since then are void; their tokens are dropped. Raises WorkerLost when
    the result does not answer the plan.
    """
    if len(result.slots) != len(result.token_ids):
        raise WorkerLost(f"Step {result.step_id} has {len(result.slots)} slots but {len(result.token_ids)} tokens")
    batch, events, work = book.batch, book.events, step.plan.work
    rates.add_step(work, result)
    sampled = dict(zip(result.slots, result.token_ids, strict=True))
    scores = _take_scores(step, result) if result.logprob_slots else {}
    for i, sequence in enumerate(step.sequences):
        if sequence.epoch != step.epochs[i]:
            continue
        sequence.num_computed += work.num_tokens[i]
        batch.publish(sequence)
        if sequence.stretch is not None:
            _end_chunk(sequence, step, i, result, now_ns)
        if not work.samples[i]:
            continue
        slot = work.slots[i]
        token_id = sampled.get(slot)
        if token_id is None:
            raise WorkerLost(f"Step {result.step_id} has no token for slot {slot}, which it was to sample")
        live = sequence.request
        sequence.token_ids.append(token_id)
        sequence.num_pending -= 1
        live.num_tokens += 1
        if live.first_token_ns is None:
            live.first_token_ns = now_ns
            _report_prompt_scores(book, sequence)
            book.spawn_forks(sequence, now_ns)
        events.append(TokenEvent(live.request.request_id, sequence.index, token_id, scores.get(slot)))
        if token_id in sequence.sampling.stop_token_ids:
            book.end_choice(live, sequence.index, FinishReason.STOP, token_id, now_ns)
        elif len(sequence.token_ids) >= sequence.max_total:
            book.end_choice(live, sequence.index, FinishReason.LENGTH, None, now_ns)
    batch.tickets.close(step.ticket, TicketOutcome.DONE)


def _end_chunk(sequence: Sequence, step: StepInFlight, row: int, result: StepResult, now_ns: int) -> None:
    """Of a prompt that is being computed. The next chunk waits from here on, or decoding begins."""
    work, chunk = step.plan.work, sequence.stretch
    assert chunk is not None
    if not chunk.num_tokens:
        chunk.first_token = work.starts[row]
    chunk.num_tokens += work.num_tokens[row]
    chunk.compute_ns += result.timings.end_ns - result.timings.start_ns
    if work.samples[row]:
        sequence.leave(now_ns)
    else:
        sequence.enter(Phase.PREFILL, now_ns)


def _take_scores(step: StepInFlight, result: StepResult) -> dict[SeqSlot, Logprobs]:
    """Those of sampled tokens, by slot. Those of prompt tokens go to their requests."""
    rows = {slot: i for i, slot in enumerate(step.plan.work.slots)}
    sampled: dict[SeqSlot, Logprobs] = {}
    for slot, position, entry in iter_scores(result):
        row = rows.get(slot)
        if row is None or step.sequences[row].epoch != step.epochs[row]:
            continue
        sequence = step.sequences[row]
        if position >= sequence.num_prompt_tokens:
            sampled[slot] = entry
            continue
        scores = sequence.request.prompt_scores
        # A prompt that is computed again after a preemption is scored again; its first scores stand.
        if scores is not None and position == len(scores) + 1:
            scores.extend(entry)
    return sampled


def _report_prompt_scores(book: RequestBook, leader: Sequence) -> None:
    live = leader.request
    if live.prompt_scores is None:
        return
    if len(live.prompt_scores) != leader.num_prompt_tokens - 1:
        raise WorkerLost(
            f"Request {live.request.request_id} has {len(live.prompt_scores)} prompt log probabilities "
            f"for a prompt of {leader.num_prompt_tokens} tokens"
        )
    live.has_prompt_scored = True
    book.events.append(PromptScored(live.request.request_id, live.prompt_scores))
