"""A request that has been accepted and has not ended: its choices and its times."""

from dataclasses import replace

from engine.blocks.keys import KeyChain, sequence_fields
from engine.ids import BlockId
from engine.logprobs import Logprobs
from engine.sampling import SamplingParams
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.request import CachedTokens, Request, RequestTimes
from engine.scheduling.sequence import Sequence
from engine.scheduling.timeline import Phase, Timeline


class LiveRequest:
    """Mutable state that the choices of one request share, owned by the scheduler.

    With n > 1 one choice leads: it computes the prompt. The others come into being when the leader's first
    token is known, and start from its full prompt blocks. If the leader ends before that, the next one leads.
    """

    def __init__(self, request: Request, arrival: int, submitted_ns: int) -> None:
        self.request = request
        self.arrival = arrival
        self.submitted_ns = submitted_ns
        self.choices: dict[int, Sequence] = {}
        """Choices that exist and have not ended, waiting or running."""
        self.unspawned: list[int] = list(range(request.n))
        """Choices that do not exist yet, in order."""
        self.shared_blocks: list[BlockId] = []
        """The leader's full prompt blocks, one reference each, while a fork has not started."""
        self.unstarted_forks: set[int] = set()
        self.prompt_scores = Logprobs() if request.sampling.prompt_logprobs is not None else None
        self.has_prompt_scored = False
        """Whether the prompt's log probabilities have been reported."""
        self.first_planned_ns: int | None = None
        self.first_token_ns: int | None = None
        self.num_preemptions = 0
        self.num_prefill_chunks = 0
        self.cached = CachedTokens()
        """What it did not have to compute when it started."""
        self.num_tokens = 0
        """Sampled so far."""
        self.timeline = Timeline()

    @property
    def has_started(self) -> bool:
        return self.first_planned_ns is not None

    @property
    def is_over(self) -> bool:
        return not self.choices and not self.unspawned

    @property
    def wants_prompt_scores(self) -> bool:
        return self.prompt_scores is not None and not self.has_prompt_scored

    def spawn(self, config: SchedulerConfig, chain: KeyChain | None = None) -> Sequence:
        """Bring the next choice into being. `chain` already names the prompt's blocks, if it is given."""
        index = self.unspawned.pop(0)
        token_ids = [*self.request.prompt_token_ids, *self.request.resume_token_ids]
        if chain is None:
            chain = key_chain(self.request, config)
            if config.prefix_cache:
                chain.extend(token_ids)
        sequence = Sequence(self, index, token_ids, self._sampling_of(index), chain, config.max_model_tokens)
        self.choices[index] = sequence
        return sequence

    def times(self, now_ns: int) -> RequestTimes:
        """The request is over."""
        self.timeline.close(now_ns)
        planned = now_ns if self.first_planned_ns is None else self.first_planned_ns
        first_token = now_ns if self.first_token_ns is None else self.first_token_ns
        return RequestTimes(
            queue_ns=planned - self.submitted_ns,
            prefill_ns=first_token - planned,
            decode_ns=now_ns - first_token,
            preemptions=self.num_preemptions,
            prefill_chunks=self.num_prefill_chunks,
            fetch_ns=self.timeline.total_ns(Phase.FETCH),
            load_ns=self.timeline.total_ns(Phase.LOAD),
            first_token_ns=self.first_token_ns,
            end_ns=now_ns,
            timeline=self.timeline,
            num_tokens=self.num_tokens,
            cached=self.cached,
        )

    def _sampling_of(self, index: int) -> SamplingParams:
        sampling = self.request.sampling
        return sampling if index == 0 else replace(sampling, seed=(sampling.seed + index) % 2**64)


def key_chain(request: Request, config: SchedulerConfig) -> KeyChain:
    """The chain of the request's keys, empty as yet."""
    num_tokens = len(request.prompt_token_ids)
    is_length_dependent = 0 < config.rope_length_dependent_from < num_tokens
    fields = sequence_fields(request.cache_salt, num_tokens if is_length_dependent else None)
    return KeyChain(config.namespace, config.block_size, fields)
