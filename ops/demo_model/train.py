"""Train the demo model from nothing: ``python -m ops.demo_model.train --out DIR``."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import click
import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ops.demo_model.corpus import Message, conversation
from ops.demo_model.drills import DRILLS
from ops.demo_model.muon import Muon
from ops.demo_model.probes import recall_probe
from ops.demo_model.tokenizer import CONTEXT, VOCABULARY, encode_chat, save_tokenizer, train_tokenizer

CONTEXT_WEIGHT = 0.1
"""Loss weight of a token that the assistant does not say; codes stated by the user cannot be predicted."""


@dataclass(frozen=True)
class Stage:
    """A stretch of the run: ``share`` of its tokens at one sequence length (tokens), drawn from a mix of texts."""

    length: int
    batch_tokens: int
    share: float
    mix: dict[str, float]
    """Share of the rows by drill; "chat" is a conversation."""


STAGES = (
    Stage(128, 2048, 0.05, {"pairs": 1.0}),
    Stage(128, 2048, 0.10, {"pairs": 0.10, "retelling": 0.40, "questions": 0.30, "sums": 0.20}),
    Stage(256, 4096, 0.20, {"retelling": 0.25, "questions": 0.20, "sums": 0.20, "chat": 0.35}),
    Stage(512, 4096, 0.20, {"retelling": 0.20, "questions": 0.20, "sums": 0.15, "chat": 0.45}),
    Stage(1024, 4096, 0.20, {"retelling": 0.20, "questions": 0.20, "sums": 0.15, "chat": 0.45}),
    Stage(2048, 4096, 0.25, {"retelling": 0.20, "questions": 0.20, "sums": 0.10, "chat": 0.50}),
)


def model_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=5,
        pad_token_id=0,
    )


def new_model() -> LlamaForCausalLM:
    """Random weights, but each query head equals its key head, so that at first like tokens attend to each other.

    The look-up by name forms sooner from there ("Mimetic Initialization of Self-Attention Layers", Trockman and
    Kolter, 2023).
    """
    model = LlamaForCausalLM(model_config())
    with torch.no_grad():
        for layer in model.model.layers:
            attention = layer.self_attn
            attention.k_proj.weight.mul_(3.0)
            heads = attention.k_proj.weight.unflatten(0, (-1, attention.head_dim))
            group = attention.num_key_value_groups
            attention.q_proj.weight.copy_(heads.repeat_interleave(group, 0).flatten(0, 1))
    return model


def text(seed: str, stage: Stage) -> Iterator[Message]:
    """One chat or drill for a row of ``stage``; the same seed gives the same text."""
    rng = Random(f"row/{seed}")
    kind = rng.choices(list(stage.mix), list(stage.mix.values()))[0]
    return conversation(seed, stage.length) if kind == "chat" else DRILLS[kind](rng, stage.length)


def batches(tokenizer: PreTrainedTokenizerFast, number: int, stage: Stage) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (ids, weights), each [rows, length]: one text to a row, cut at the stage's length."""
    seed, length = 0, stage.length
    while True:
        ids: list[list[int]] = []
        weights: list[list[float]] = []
        while len(ids) < stage.batch_tokens // length:
            row, said = encode_chat(tokenizer, text(f"{number}-{seed}", stage), length)
            seed += 1
            # A short row is padded with the end-of-turn id at weight zero.
            gap = length - len(row)
            ids.append(row + [tokenizer.eos_token_id] * gap)
            weights.append([1.0 if s else CONTEXT_WEIGHT for s in said] + [0.0] * gap)
        yield torch.tensor(ids), torch.tensor(weights)


@torch.compile(dynamic=False)
def token_losses(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """Loss of every token but the first of each row, in nats, [rows * (length - 1)]. Compiled once per length."""
    logits = model.lm_head(model.model(ids[:, :-1], use_cache=False).last_hidden_state)
    return functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")


def weighted_loss(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(weighted mean loss, mean loss over the assistant's tokens), in nats."""
    losses = token_losses(model, ids)
    w = weights[:, 1:].flatten()
    said = (w == 1.0).float()
    return (losses * w).sum() / w.sum(), (losses * said).sum().detach() / said.sum()


def learning_rate_scale(done: float) -> float:
    """Schedule over the share ``done`` of the run in 0..1: warm-up, flat, then down over the last half."""
    return min(1.0, done / 0.002 + 0.02) * min(1.0, (1.0 - done) / 0.5 + 0.01)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the checkpoint in bfloat16; the model in memory stays as it is."""
    save_tokenizer(tokenizer, out)
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.tie_weights()
    copy.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    copy.bfloat16().save_pretrained(out)


@dataclass
class Log:
    """The run's progress, one JSON object a line. ``started`` is a monotonic time in seconds."""

    started: float
    tokens: int = 0
    steps: int = 0
    answer_loss: float = math.nan
    """Running mean over some 20 steps of the loss of the assistant's tokens, in nats."""

    def step(self, tokens: int, loss: float) -> None:
        self.tokens += tokens
        self.steps += 1
        self.answer_loss = loss if math.isnan(self.answer_loss) else 0.95 * self.answer_loss + 0.05 * loss

    def show(self, length: int, recall: dict[int, float] | None = None) -> None:
        seconds = time.monotonic() - self.started
        line: dict[str, object] = {
            "step": self.steps,
            "tokens": self.tokens,
            "length": length,
            "seconds": round(seconds),
            "tokens_per_s": round(self.tokens / seconds),
            "answer_loss": round(self.answer_loss, 4),
        }
        print(json.dumps(line | ({"recall": recall} if recall else {})), flush=True)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the checkpoint.")
@click.option("--tokens", default=22_000_000, show_default=True, help="Tokens to train on.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
def main(out: Path, tokens: int, threads: int) -> None:
    """Train the demo model and write its checkpoint to OUT."""
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    tokenizer = train_tokenizer()
    model = new_model()
    model.train()
    print(json.dumps({"parameters": sum(p.numel() for p in model.parameters())}), flush=True)
    muon = Muon([p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n], lr=0.004)
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    adam = torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    log = Log(time.monotonic())
    stage_end = 0.0
    for number, stage in enumerate(STAGES):
        source = batches(tokenizer, number, stage)
        stage_end += stage.share
        while log.tokens < (stage_end - 1e-9) * tokens:
            ids, weights = next(source)
            scale = learning_rate_scale(log.tokens / tokens)
            for group in (*muon.param_groups, *adam.param_groups):
                group["lr"] = group.setdefault("peak", group["lr"]) * scale
            with torch.autocast("cpu", torch.bfloat16):
                loss, said = weighted_loss(model, ids, weights)
            loss.backward()  # type: ignore[no-untyped-call]
            muon.step()
            adam.step()
            muon.zero_grad()
            adam.zero_grad()
            log.step(ids.numel(), said.item())
            if log.steps % 500 == 0:
                log.show(stage.length, recall_probe(model, tokenizer, stage.length))
                save(model, tokenizer, out)
            elif log.steps % 50 == 0:
                log.show(stage.length)
    save(model, tokenizer, out)
    log.show(STAGES[-1].length)


if __name__ == "__main__":
    main()
