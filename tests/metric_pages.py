"""The tables of docs/metrics.md, from the declarations. `python -m tests.metric_pages` writes them into the page."""

from pathlib import Path

from services.common.metric_spec import MetricSpec
from services.common.metrics import COMMON_SPECS
from services.scheduler.metrics import SPECS as SCHEDULER_SPECS
from services.tokenizer.metrics import SPECS as TOKENIZER_SPECS
from services.worker.metrics import SPECS as WORKER_SPECS

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"

TABLES = {
    "tokenizer": TOKENIZER_SPECS,
    "scheduler": SCHEDULER_SPECS,
    "worker": WORKER_SPECS,
    "common": COMMON_SPECS,
}


def table(specs: tuple[MetricSpec, ...]) -> str:
    rows = ["| metric | kind | unit | labels | meaning |", "| --- | --- | --- | --- | --- |"]
    for spec in specs:
        labels = ", ".join(f"`{label}`" for label in spec.prometheus_labels)
        rows.append(f"| `{spec.prometheus_name}` | {spec.kind} | {spec.unit} | {labels} | {spec.help} |")
    return "\n".join(rows)


def vllm_table() -> str:
    rows = ["| vLLM | here |", "| --- | --- |"]
    for specs in TABLES.values():
        for spec in specs:
            if spec.vllm:
                names = ", ".join(f"`{name}`" for name in spec.vllm.split(", "))
                rows.append(f"| {names} | `{spec.prometheus_name}` |")
    return "\n".join(rows)


def with_tables(page: str) -> str:
    tables = {name: table(specs) for name, specs in TABLES.items()} | {"vllm": vllm_table()}
    for name, text in tables.items():
        start = page.find(f"<!-- {name} -->\n")
        end = page.find("<!-- end -->", start)
        assert 0 <= start < end, f"docs/metrics.md needs the marks <!-- {name} --> and <!-- end -->"
        page = f"{page[:start]}<!-- {name} -->\n{text}\n{page[end:]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
