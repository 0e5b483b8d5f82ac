"""What each way to compute costs in precision: its logits beside those of fp32, as a table.

    python -m bench.precision [--checkpoint DIR] [--samples 20] [--environments DIR] [--json]

The first part is random ids through the random weights of a standard shape, where the libraries of `bench.compare`
stand beside our own ways, as far as there are environments of them. The second is the bundled model, or any with its
chat template, on held-out chats: agreement says how often the most likely token is that of fp32, accuracy how often it
is the text's own.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import click
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from bench.checkpoints import SHAPES, cache_folder, checkpoint
from bench.kv_formats import FORMATS, TRUTH, KvFormat
from bench.kv_scorer import Scorer
from bench.peer_logits import peer_logits
from engine.execution.loading import load_model
from kernels.cpu.library import ISAS, load_kernels
from ops.demo_model.corpus import conversation
from ops.demo_model.evaluate import CHECKPOINT
from ops.demo_model.tokenizer import encode_chat

CPU = torch.device("cpu")
CHAT_TOKENS = 1024
RANDOM_TEXTS, RANDOM_TOKENS = 4, 512
SURE = 0.5
"""Probability of the most likely token, from which on a position counts as sure."""

Logits = Callable[[list[int]], torch.Tensor]
"""fp32 [tokens, vocab_size] of a text."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to compute a model's logits."""

    name: str
    dtype: torch.dtype
    kv_format: KvFormat
    isa: str | None
    """None: torch's operations."""
    int8_weights: bool = False

    def over(self, path: Path) -> Logits:
        loaded = load_model(path, dtype=self.dtype, device=CPU, isa=self.isa, int8_weights=self.int8_weights)
        return Scorer(loaded, self.kv_format, self.isa).logits


@dataclass(frozen=True, slots=True)
class Precision:
    """Of one way, against fp32."""

    rms_error: float
    """Of logits, as a part of their own root mean square about each position's mean."""
    kl_nats: float
    """Mean over positions of KL(fp32 ‖ way)."""
    agreement: float
    sure_agreement: float | None
    """Where fp32 gives its most likely token at least `SURE`; None: nowhere."""
    accuracy: float | None = None
    """None, as the next: the text is random."""
    perplexity: float | None = None


def ways() -> list[Way]:
    formats = {each.name: each for each in FORMATS}
    found = [Way("torch, bf16", torch.bfloat16, formats["bf16"], None)]
    isas = ISAS[ISAS.index(load_kernels().isa) :]
    found += [Way(f"native {isa}, bf16", torch.bfloat16, formats["bf16"], isa) for isa in isas]
    best = isas[0]
    found.append(Way(f"native {best}, bf16, FP8 blocks", torch.bfloat16, formats["fp8"], best))
    for name in ("bf16", "fp8"):
        found.append(Way(f"native {best}, int8, {name.upper()} blocks", torch.bfloat16, formats[name], best, True))
    return found


def truth_over(path: Path) -> Logits:
    return Way("fp32", torch.float32, TRUTH, None).over(path)


def transformers_over(path: Path) -> Logits:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    model.eval()  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def logits(ids: list[int]) -> torch.Tensor:
        found: torch.Tensor = model(torch.tensor([ids])).logits[0]
        return found.float()

    return logits


def compare(truth: list[torch.Tensor], found: list[torch.Tensor], targets: list[torch.Tensor] | None) -> Precision:
    """Of logits [tokens, vocab_size] by text; `targets` are the texts' own next tokens."""
    want, got = torch.cat(truth), torch.cat(found)
    log_want, log_got = want.log_softmax(dim=-1), got.log_softmax(dim=-1)
    best, chosen = log_want.max(dim=-1), got.argmax(dim=-1)
    agrees, is_sure = chosen == best.indices, best.values >= math.log(SURE)
    centred = want - want.mean(dim=-1, keepdim=True)
    own = None if targets is None else torch.cat(targets)
    return Precision(
        rms_error=float((got - want).pow(2).mean().sqrt() / centred.pow(2).mean().sqrt()),
        kl_nats=float(F.kl_div(log_got, log_want, log_target=True, reduction="batchmean")),
        agreement=float(agrees.float().mean()),
        sure_agreement=float(agrees[is_sure].float().mean()) if is_sure.any() else None,
        accuracy=None if own is None else float((chosen == own).float().mean()),
        perplexity=None if own is None else math.exp(float(F.nll_loss(log_got, own))),
    )


def random_part(shape: str, environments: Path) -> Iterator[tuple[str, Precision | str]]:
    """By way and by library; of a library that is not there, why."""
    path = checkpoint(SHAPES[shape])
    generator = torch.Generator().manual_seed(7)
    texts = torch.randint(0, SHAPES[shape].vocab_size, (RANDOM_TEXTS, RANDOM_TOKENS), generator=generator).tolist()
    yield from measured(path, texts, None)
    truth = [truth_over(path)(ids) for ids in texts]
    for name, found in peer_logits(path, environments, texts):
        yield name, found if isinstance(found, str) else compare(truth, found, None)


def trained_part(path: Path, samples: int) -> Iterator[tuple[str, Precision | str]]:
    tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(path))
    chats = [
        encode_chat(tokenizer, conversation(seed, CHAT_TOKENS, test=True), CHAT_TOKENS)[0] for seed in range(samples)
    ]
    yield from measured(path, [ids[:-1] for ids in chats], [torch.tensor(ids[1:]) for ids in chats])


def measured(path: Path, texts: list[list[int]], targets: list[torch.Tensor] | None) -> Iterator[tuple[str, Precision]]:
    """By way; fp32 itself comes first, where there is something to say of it."""
    truth = [truth_over(path)(ids) for ids in texts]
    if targets is not None:
        yield "fp32", compare(truth, truth, targets)
    sources: dict[str, Callable[[Path], Logits]] = {"transformers, bf16": transformers_over}
    sources |= {way.name: way.over for way in ways()}
    for name, source in sources.items():
        logits = source(path)
        yield name, compare(truth, [logits(ids) for ids in texts], targets)


def show(console: Console, title: str, rows: dict[str, Precision]) -> None:
    table = Table(
        title, "rms error", "KL, nats", "agreement", f"where p ≥ {SURE}", "accuracy", "perplexity", title_justify="left"
    )
    for name, each in rows.items():
        table.add_row(
            name,
            f"{each.rms_error:.2%}",
            f"{each.kl_nats:.1e}",
            f"{each.agreement:.2%}",
            "" if each.sure_agreement is None else f"{each.sure_agreement:.2%}",
            "" if each.accuracy is None else f"{each.accuracy:.2%}",
            "" if each.perplexity is None else f"{each.perplexity:.4f}",
        )
    console.print(table)


@click.command()
@click.option(
    "--checkpoint",
    "path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=CHECKPOINT,
    help="A trained model with a chat template; default: the bundled one.",
)
@click.option("--shape", type=click.Choice(list(SHAPES)), default="135m", show_default=True, help="Of random weights.")
@click.option("--samples", type=click.IntRange(1), default=20, show_default=True, help="Chats.")
@click.option(
    "--environments",
    type=click.Path(path_type=Path, file_okay=False),
    default=cache_folder() / "peers",
    show_default=True,
    help="Where bench.peer_venvs made the libraries'.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of the tables.")
def main(path: Path, shape: str, samples: int, environments: Path, as_json: bool) -> None:
    """Error of the logits, agreement, accuracy and perplexity by the way to compute."""
    parts: dict[str, dict[str, Precision]] = {}
    missing: dict[str, str] = {}
    with Console(stderr=True).status("measuring") as status:
        sources = {
            f"{shape}, random weights": random_part(shape, environments.absolute()),
            path.name: trained_part(path, samples),
        }
        for title, source in sources.items():
            rows = parts[title] = {}
            for name, precision in source:
                if isinstance(precision, str):
                    missing[name] = precision
                else:
                    rows[name] = precision
                status.update(f"{title}: {name} done")
    if as_json:
        part_objects = {title: {name: asdict(each) for name, each in rows.items()} for title, rows in parts.items()}
        click.echo(json.dumps(part_objects | {"missing": missing}))
        return
    for title, rows in parts.items():
        show(Console(width=max(Console().width, 120)), title, rows)
    for name, why in missing.items():
        click.echo(f"{name} is missing: {why}")


if __name__ == "__main__":
    main()
