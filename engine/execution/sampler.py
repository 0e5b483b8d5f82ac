"""Choosing the next token of each row, from per-slot parameters that live on the device.

Owned and called by the worker's engine thread. A slot's parameters are written once, when its sequence
arrives; a step then only gathers them. What a batch needs beyond an argmax is decided from host-side flags,
so on the way to a token nothing waits for the device.

Order, as in vLLM: allowed ids, bad words, min_tokens' stop mask, logit bias; repetition, frequency and
presence penalties; temperature; min_p; top_k, then top_p; draw. Log probabilities are of the raw logits.
"""

import enum
from collections.abc import Callable, Sequence

import numpy as np
import torch

from engine.execution import vocab_chunks
from engine.execution.counter_random import stream_key, uniform
from engine.execution.penalties import Penalties, penalised
from engine.execution.staging import Staging
from engine.execution.token_constraints import TokenConstraints
from engine.execution.token_logprobs import token_logprobs
from engine.execution.truncation import settling_on, thresholds
from engine.logprobs import Logprobs
from engine.sampling import SamplingParams

FAULT = vocab_chunks.NO_ID
"""In place of a token id: the row has no finite logit to choose, so its sequence cannot go on."""

COLDEST = 1e-5
"""Temperatures below this are greedy: dividing by them leaves fp32's range."""

_CPU_PASS_ELEMENTS = 1 << 19
"""On the CPU a few rows are taken at a time, so that the passes over them stay in its cache."""


class _Needs(enum.IntFlag):
    """What a slot's rows need beyond an argmax."""

    RANDOM = enum.auto()
    MIN_P = enum.auto()
    TRUNCATION = enum.auto()
    PENALTIES = enum.auto()
    CONSTRAINTS = enum.auto()


_LOGIT_EDITS = _Needs.PENALTIES | _Needs.CONSTRAINTS


class Sampler:
    """Samples for up to `max_seqs` slots over a vocabulary of `vocab_size` ids on the device of `staging`."""

    def __init__(
        self,
        vocab_size: int,
        max_seqs: int,
        max_model_tokens: int,
        staging: Staging,
        best_ids: Callable[[torch.Tensor], torch.Tensor] = vocab_chunks.best_ids,
    ) -> None:
        """`best_ids` is that of `vocab_chunks`, or a kernel's of the same answers."""
        device = staging.device
        self._best_ids = best_ids
        self._staging = staging
        self._vocab_size = vocab_size
        self._max_model_tokens = max_model_tokens
        # Columns of the two tables: see `add`.
        self._reals = torch.zeros(max_seqs, 6, dtype=torch.float32, device=device)
        self._integers = torch.zeros(max_seqs, 3, dtype=torch.int64, device=device)
        self._needs = np.zeros(max_seqs, dtype=np.int64)
        self._top_k = np.zeros(max_seqs, dtype=np.int64)
        self._constraints: dict[int, TokenConstraints] = {}
        self._on_cpu = device.type == "cpu"
        self._settle = settling_on(device)

    def add(self, slot: int, params: SamplingParams, num_prompt_tokens: int) -> None:
        """Set the parameters of a slot, whatever it held before. Output starts at position `num_prompt_tokens`."""
        self.release(slot)
        greedy = params.temperature < COLDEST or params.top_k == 1
        top_k = params.top_k if 0 < params.top_k < self._vocab_size else 0
        needs = _Needs(0)
        if not greedy:
            needs |= _Needs.RANDOM
            if params.min_p > 0:
                needs |= _Needs.MIN_P
            if top_k or params.top_p < 1:
                needs |= _Needs.TRUNCATION
        if params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0:
            needs |= _Needs.PENALTIES
        constraints = TokenConstraints.build(params, self._staging)
        if constraints is not None:
            needs |= _Needs.CONSTRAINTS
            self._constraints[slot] = constraints
        self._needs[slot] = needs
        self._top_k[slot] = top_k
        reals = (
            # A greedy row in a mixed batch is drawn too and the draw is then not used; 1 keeps it harmless.
            1.0 if greedy else params.temperature,
            params.top_p,
            params.min_p,
            params.presence_penalty,
            params.frequency_penalty,
            params.repetition_penalty,
        )
        self._reals[slot] = self._staging.numbers(reals, torch.float32)
        integers = (top_k, stream_key(params.seed), num_prompt_tokens)
        self._integers[slot] = self._staging.numbers(integers, torch.int64)

    def release(self, slot: int) -> None:
        """Forget a slot. Releasing a free one is allowed."""
        self._constraints.pop(slot, None)
        self._needs[slot] = 0
        self._top_k[slot] = 0

    def sample(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        tokens: torch.Tensor,
        slots_host: Sequence[int],
        longest: int | None = None,
    ) -> torch.Tensor:
        """One token id per row, int64 [rows] on the device; `FAULT` where a row has no finite logit to choose.

        logits: floats [rows, vocab], left as they are. slots: int64 [rows], and `slots_host` the same on the
        host. positions: int64 [rows], the position of the token to be sampled, which is the number of tokens
        before it. tokens: int32 [max_seqs, max_model_tokens], each slot's known tokens; read only for rows
        with penalties or bad words. longest: the largest of `positions`, or more; None: the device is asked for it
        where it is needed.
        """
        assert logits.shape == (len(slots_host), self._vocab_size)
        if not slots_host:
            return torch.empty(0, dtype=torch.int64, device=logits.device)
        host_slots = np.asarray(slots_host, dtype=np.int64)
        row_needs = self._needs[host_slots]
        needs = int(np.bitwise_or.reduce(row_needs))

        # A row with a NaN, with +inf or of -inf alone is no distribution, before it is edited or after.
        greedy = self._best_ids(logits)
        if needs & _LOGIT_EDITS:
            logits = self._edited(logits, slots, positions, tokens, host_slots, row_needs, longest)
            greedy = torch.where(greedy == FAULT, FAULT, self._best_ids(logits))
        if not needs & _Needs.RANDOM:
            return greedy

        uniforms = uniform(self._integers[slots, 1], positions)
        rows = len(host_slots)
        rows_per_pass = max(1, _CPU_PASS_ELEMENTS // self._vocab_size) if self._on_cpu else rows
        passes = [slice(start, start + rows_per_pass) for start in range(0, rows, rows_per_pass)]
        drawn = torch.cat([self._drawn(logits[p], slots[p], uniforms[p], host_slots[p], row_needs[p]) for p in passes])
        random = row_needs & _Needs.RANDOM != 0
        if not random.all():
            drawn = torch.where(self._staging.numbers(random.tolist(), torch.bool), drawn, greedy)
        return torch.where(greedy == FAULT, FAULT, drawn)

    def logprobs(self, logits: torch.Tensor, token_ids: torch.Tensor, num_top: Sequence[int]) -> Logprobs:
        """Log probabilities of `token_ids` (int64 [rows], on the device) and of the `num_top[row]` likeliest ids.

        Of the raw distribution: logits as the model gave them, floats [rows, vocab]. Rank 1 is the likeliest id,
        and among equals the lower id comes first. A row of a `FAULT` token has an entry without meaning. Waits
        for the device.
        """
        rows_per_pass = max(1, _CPU_PASS_ELEMENTS * (1 if self._on_cpu else 64) // self._vocab_size)
        result = Logprobs()
        for start in range(0, len(num_top), rows_per_pass):
            part = slice(start, start + rows_per_pass)
            result.extend(token_logprobs(logits[part], token_ids[part], num_top[part]))
        return result

    def _drawn(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        uniforms: torch.Tensor,
        host_slots: np.ndarray[tuple[int], np.dtype[np.int64]],
        row_needs: np.ndarray[tuple[int], np.dtype[np.int64]],
    ) -> torch.Tensor:
        """Random draws for some rows, int64 [rows]; `FAULT` where the weights are not finite."""
        temperature, top_p, min_p, *_ = self._reals[slots].unbind(dim=1)
        probabilities = torch.softmax(logits.to(torch.float32) / temperature[:, None], dim=-1)
        if (row_needs & _Needs.MIN_P).any():
            # A plain row's threshold is 0, and nothing is below it.
            lowest = probabilities.amax(dim=-1) * min_p
            probabilities.masked_fill_(probabilities < lowest[:, None], 0.0)
        truncated = np.flatnonzero(row_needs & _Needs.TRUNCATION)
        if len(truncated):
            rows = self._staging.numbers(truncated.tolist(), torch.int64)
            chosen = probabilities if len(truncated) == len(row_needs) else probabilities[rows]
            top_k = self._integers[slots[rows], 0]
            lowest = torch.zeros_like(temperature)
            host_top_k = self._top_k[host_slots[truncated]].tolist()
            lowest[rows] = thresholds(chosen, top_k, top_p[rows], host_top_k, self._settle)
            probabilities.masked_fill_(probabilities < lowest[:, None], 0.0)
        return vocab_chunks.draw(probabilities, uniforms)

    def _edited(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        tokens: torch.Tensor,
        host_slots: np.ndarray[tuple[int], np.dtype[np.int64]],
        row_needs: np.ndarray[tuple[int], np.dtype[np.int64]],
        longest: int | None,
    ) -> torch.Tensor:
        """A float32 copy of the logits with masks, bias and penalties applied where a slot asks for them."""
        logits = logits.to(torch.float32, copy=True)
        num_prompt_tokens = self._integers[slots, 2]
        for row in np.flatnonzero(row_needs & _Needs.CONSTRAINTS).tolist():
            slot = int(host_slots[row])
            self._constraints[slot].apply(logits[row], tokens[slot], positions[row], num_prompt_tokens[row])
        penalties = np.flatnonzero(row_needs & _Needs.PENALTIES)
        if len(penalties):
            rows = self._staging.numbers(penalties.tolist(), torch.int64)
            _, _, _, presence, frequency, repetition = self._reals[slots[rows]].unbind(dim=1)
            num_tokens = positions[rows]
            # All of a long context would be costly.
            length = min(int(num_tokens.max()) if longest is None else longest, self._max_model_tokens)
            logits[rows] = penalised(
                logits[rows],
                Penalties(presence, frequency, repetition),
                tokens[slots[rows], :length],
                num_tokens,
                num_prompt_tokens[rows],
            )
        return logits
