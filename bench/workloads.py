"""Workloads: lists of requests with random token ids, so that prefix caches stay cold.

Names and sizes are the project's standard ones (W1: throughput, W2: one stream, W3: prefill, W4: a shared beginning).
Each round of a benchmark draws new prompts from its own seed; lengths are the same in every round.
"""

import random
from dataclasses import dataclass, replace

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

    def first(self, num_requests: int) -> "Workload":
        """The same with no more than its first requests."""
        return replace(self, requests=self.requests[:num_requests])

    def with_output(self, max_tokens: int) -> "Workload":
        """The same prompts with another number of tokens to generate."""
        return replace(self, requests=tuple(replace(request, max_tokens=max_tokens) for request in self.requests))


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
    name = "W3" if prompt_tokens == 2048 else f"W3 {prompt_tokens}"
    return Workload(name, f"one prompt of {prompt_tokens}, 1 out", _draw([(prompt_tokens, 1)], vocab_size, seed), False)


def shared_prefix(
    vocab_size: int,
    seed: int,
    *,
    num_requests: int = 16,
    shared_tokens: int = 2048,
    own_tokens: int = 64,
    max_tokens: int = 16,
) -> Workload:
    """W4: requests in turn that begin alike; the first meets a cold cache."""
    (shared,) = _draw([(shared_tokens, 0)], vocab_size, seed)
    own = _draw([(own_tokens, max_tokens)] * num_requests, vocab_size, seed + 1)
    requests = tuple(BenchRequest(shared.prompt_ids + each.prompt_ids, each.max_tokens) for each in own)
    title = f"{num_requests} requests in turn, {shared_tokens} shared + {own_tokens} own, {max_tokens} out"
    return Workload("W4", title, requests, False)


def steady_decode(vocab_size: int, seed: int, num_running: int, max_tokens: int) -> Workload:
    """`num_running` short prompts at once that decode together for a while."""
    return Workload(
        "gap", f"{num_running} running sequences", _draw([(64, max_tokens)] * num_running, vocab_size, seed), True
    )


def running(vocab_size: int, seed: int, num_running: int, context: int, max_tokens: int) -> Workload:
    """`num_running` sequences at once whose last token is computed at a context of `context`."""
    sizes = [(context - max_tokens, max_tokens)] * num_running
    return Workload("running", f"{num_running} at {context}", _draw(sizes, vocab_size, seed), True)


def _draw(sizes: list[tuple[int, int]], vocab_size: int, seed: int) -> tuple[BenchRequest, ...]:
    ids = random.Random(seed)
    return tuple(
        BenchRequest(tuple(ids.randrange(FIRST_ID, vocab_size) for _ in range(num_in)), num_out)
        for num_in, num_out in sizes
    )
