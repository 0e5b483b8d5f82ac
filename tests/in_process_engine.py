"""Scheduler and model runner in one process, without any service: what the worker computes, driven as it is driven."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from engine.errors import InferError
from engine.execution.loading import LoadedModel, load_model
from engine.execution.runner import ModelRunner
from engine.logprobs import Logprobs
from engine.models.fingerprint import namespace
from engine.sampling import SamplingParams
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.plan import StepPlan
from engine.scheduling.request import Finished, FinishReason, PromptScored, Refused, Request, Started, TokenEvent
from engine.scheduling.scheduler import Scheduler
from kernels.attention.choice import choose_attention
from kvstore.layout import BlockLayout

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """How the same requests are cut into steps and blocks."""

    block_size: int = 16
    num_blocks: int = 1024
    max_seqs: int = 32
    max_batched_tokens: int = 512
    prefix_cache: bool = True
    plans_in_flight: int = 2
    attention: str | None = None


@dataclass(slots=True)
class Answer:
    token_ids: list[int] = field(default_factory=list)
    logprobs: Logprobs = field(default_factory=Logprobs)
    prompt_logprobs: Logprobs | None = None
    reason: FinishReason | None = None
    cached_tokens: int = 0
    preemptions: int = 0
    error: InferError | None = None


class InProcessEngine:
    """Runs requests to their end. Time stands still: nothing here depends on it."""

    def __init__(
        self,
        checkpoint: Path | LoadedModel,
        setup: EngineSetup,
        *,
        dtype: torch.dtype | None = None,
        kv_dtype: torch.dtype | None = None,
        max_model_tokens: int | None = None,
    ) -> None:
        if not isinstance(checkpoint, LoadedModel):
            checkpoint = load_model(
                checkpoint,
                dtype=dtype,
                device=CPU,
                max_model_tokens=max_model_tokens,
                isa="" if setup.attention in (None, "cpu") else None,
            )
        loaded, config = checkpoint, checkpoint.config
        kv_dtype = kv_dtype or loaded.model.dtype
        layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, setup.block_size, kv_dtype)
        self.pool = layout.allocate(setup.num_blocks, CPU)
        attention = choose_attention(layout.pages(self.pool), config.windows, loaded.model.dtype, setup.attention)
        limit = min(loaded.max_model_tokens, setup.num_blocks * setup.block_size)
        self.runner = ModelRunner(
            loaded.model, attention, block_size=setup.block_size, max_seqs=setup.max_seqs, max_model_tokens=limit
        )
        self.scheduler = Scheduler(
            SchedulerConfig(
                num_blocks=setup.num_blocks,
                block_size=setup.block_size,
                max_seqs=setup.max_seqs,
                max_batched_tokens=setup.max_batched_tokens,
                max_model_tokens=limit,
                namespace=namespace(
                    config,
                    loaded.weights_digest,
                    dtype=loaded.model.dtype,
                    arithmetic=loaded.model.arithmetic,
                    kv_dtype=kv_dtype,
                    scale_mode=layout.scale_mode,
                    block_size=setup.block_size,
                ),
                prefix_cache=setup.prefix_cache,
                plans_in_flight=setup.plans_in_flight,
                rope_length_dependent_from=loaded.model.rope.length_dependent_from,
            )
        )
        self.num_steps = 0

    def run(self, prompts: Sequence[list[int]], sampling: SamplingParams | Sequence[SamplingParams]) -> list[Answer]:
        """Submit all prompts at once and run until nothing is left."""
        params = [sampling] * len(prompts) if isinstance(sampling, SamplingParams) else sampling
        answers = {f"request-{index}": Answer() for index in range(len(prompts))}
        for request_id, prompt, each in zip(answers, prompts, params, strict=True):
            self.scheduler.submit(Request(request_id, prompt, each), 0)
        in_flight: deque[StepPlan] = deque()
        while not self.scheduler.is_idle or in_flight:
            while (plan := self.scheduler.plan(0)) is not None:
                in_flight.append(plan)
            if not in_flight:
                raise AssertionError("the scheduler has work but makes no plan")
            result = self.runner.execute(in_flight.popleft())
            self.num_steps += 1
            assert not self.runner.void_slots
            self.scheduler.apply(result, 0)
            self._note(answers)
        self._note(answers)
        return list(answers.values())

    def _note(self, answers: dict[str, Answer]) -> None:
        for event in self.scheduler.take_events():
            answer = answers[event.request_id]
            match event:
                case Started():
                    answer.cached_tokens = event.cached.device
                case TokenEvent():
                    answer.token_ids.append(event.token_id)
                    if event.logprobs is not None:
                        answer.logprobs.extend(event.logprobs)
                case PromptScored():
                    answer.prompt_logprobs = event.logprobs
                case Finished():
                    answer.reason = event.reason
                    answer.preemptions = event.times.preemptions if event.times is not None else 0
                case Refused():
                    answer.error = event.error
