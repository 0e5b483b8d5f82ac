"""Workloads: lists of requests with random token ids, so that prefix caches stay cold.

Names and sizes are the project's standard ones (W1: throughput, W2: one stream, W3: prefill). Each round of a
benchmark draws new prompts from its own seed; lengths are the same in every round.
"""

import random
from dataclasses import dataclass

FIRST_ID = 16  # below are special tokens


@dataclass(frozen=True, slots=True)
class BenchRequest:
    prompt_ids: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests that are sent all at once (`at_once`) or one after the other. Greedy, EOS ignored."""

    name: str
    title: str
    requests: tuple[BenchRequest, ...]
    at_once: bool

    @property
    def prompt_tokens(self) -> int:
        return sum(len(request.prompt_ids) for request in self.requests)

    @property
    def output_tokens(self) -> int:
        return sum(request.max_tokens for request in self.requests)


def throughput(vocab_size: int, seed: int, num_requests: int = 32) -> Workload:
    """W1: 32 requests at once, 32-512 tokens in, 32-128 out, uniform."""
    lengths = random.Random(1)
    sizes = [(lengths.randint(32, 512), lengths.randint(32, 128)) for _ in range(num_requests)]
    return Workload(
        "W1", f"{num_requests} requests at once, 32-512 in, 32-128 out", _draw(sizes, vocab_size, seed), True
    )


def one_stream(vocab_size: int, seed: int) -> Workload:
    """W2: one stream, 128 in, 128 out."""
    return Workload("W2", "one stream, 128 in, 128 out", _draw([(128, 128)], vocab_size, seed), False)


def prefill(vocab_size: int, seed: int, prompt_tokens: int = 2048) -> Workload:
    """W3: one prompt, one token out."""
    return Workload("W3", f"one prompt of {prompt_tokens}, 1 out", _draw([(prompt_tokens, 1)], vocab_size, seed), False)


def steady_decode(vocab_size: int, seed: int, num_running: int, max_tokens: int) -> Workload:
    """`num_running` short prompts at once that decode together for a while."""
    return Workload(
        "gap", f"{num_running} running sequences", _draw([(64, max_tokens)] * num_running, vocab_size, seed), True
    )


def _draw(sizes: list[tuple[int, int]], vocab_size: int, seed: int) -> tuple[BenchRequest, ...]:
    ids = random.Random(seed)
    return tuple(
        BenchRequest(tuple(ids.randrange(FIRST_ID, vocab_size) for _ in range(num_in)), num_out)
        for num_in, num_out in sizes
    )
