"""Train the demo model from nothing: ``python -m ops.demo_model.train --out DIR``."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ops.demo_model.corpus import conversation
from ops.demo_model.muon import Muon
from ops.demo_model.probes import recall_probe
from ops.demo_model.tokenizer import CONTEXT, VOCABULARY, encode_chat, save_tokenizer, train_tokenizer

CONTEXT_WEIGHT = 0.1
"""Loss weight of a token that the assistant does not say; codes stated by the user cannot be predicted."""


@dataclass(frozen=True)
class Stage:
    """A stretch of the run, ``share`` of its tokens, at one sequence length (tokens)."""

    length: int
    share: float


STAGES = (Stage(128, 0.22), Stage(256, 0.22), Stage(512, 0.20), Stage(1024, 0.16), Stage(2048, 0.20))


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
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=5,
        pad_token_id=0,
    )


def batches(tokenizer: PreTrainedTokenizerFast, stage: int, length: int, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (ids, weights), each [rows, length]: one chat to a row, cut at ``length``."""
    seed = 0
    while True:
        ids: list[list[int]] = []
        weights: list[list[float]] = []
        while len(ids) < rows:
            row, said = encode_chat(tokenizer, conversation(f"{stage}-{seed}", length), length)
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
    return min(1.0, done / 0.01 + 0.02) * min(1.0, (1.0 - done) / 0.5 + 0.01)


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


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the checkpoint.")
@click.option("--tokens", default=10_000_000, show_default=True, help="Tokens to train on.")
@click.option(
    "--minutes", default=math.inf, help="Fit the whole schedule into this wall time, if tokens do not end it."
)
@click.option("--batch-tokens", default=4096, show_default=True, help="Tokens per step.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option("--start", type=click.Path(path_type=Path), help="Checkpoint to start from, at its own tokenizer.")
@click.option("--first-stage", default=0, show_default=True, help="Skip the stages before this one.")
@click.option("--matrix-rate", default=0.02, show_default=True, help="Peak learning rate of the matrices.")
def main(
    out: Path,
    tokens: int,
    minutes: float,
    batch_tokens: int,
    threads: int,
    start: Path | None,
    first_stage: int,
    matrix_rate: float,
) -> None:
    """Train the demo model and write its checkpoint to OUT."""
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    tokenizer = train_tokenizer()
    model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32) if start else LlamaForCausalLM(model_config())
    model.train()
    print(json.dumps({"parameters": sum(p.numel() for p in model.parameters())}), flush=True)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = Muon(matrices, lr=matrix_rate)
    adam = torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    total_share = sum(s.share for s in STAGES[first_stage:])
    seen, started, step, average = 0, time.monotonic(), 0, math.nan
    done = stage_end = 0.0
    for number, stage in enumerate(STAGES):
        if number < first_stage:
            continue
        source = batches(tokenizer, number, stage.length, max(1, batch_tokens // stage.length))
        stage_end += stage.share / total_share
        while done < stage_end - 1e-9:
            ids, weights = next(source)
            scale = learning_rate_scale(done)
            for group in (*muon.param_groups, *adam.param_groups):
                group["lr"] = group.setdefault("peak", group["lr"]) * scale
            with torch.autocast("cpu", torch.bfloat16):
                loss, said = weighted_loss(model, ids, weights)
            loss.backward()  # type: ignore[no-untyped-call]
            muon.step()
            adam.step()
            muon.zero_grad()
            adam.zero_grad()
            average = said.item() if math.isnan(average) else 0.95 * average + 0.05 * said.item()
            seen += ids.numel()
            step += 1
            done = max(seen / tokens, (time.monotonic() - started) / (60 * minutes))
            if step % 20 == 0:
                seconds = time.monotonic() - started
                line: dict[str, object] = {
                    "step": step,
                    "tokens": seen,
                    "length": stage.length,
                    "seconds": round(seconds),
                    "tokens_per_s": round(seen / seconds),
                    "answer_loss": round(average, 4),
                }
                if step % 200 == 0:
                    line["recall"] = recall_probe(model, tokenizer, stage.length)
                print(json.dumps(line), flush=True)
            if step % 200 == 0:
                save(model, tokenizer, out)
    save(model, tokenizer, out)
    print(json.dumps({"wall_s": round(time.monotonic() - started), "tokens": seen, "steps": step}), flush=True)


if __name__ == "__main__":
    main()
