"""The documents speak of files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")


def tracked_names() -> set[str]:
    folders = (
        "protos",
        "tiercel",
        "services",
        "engine",
        "kvstore",
        "kernels",
        "bench",
        "ops",
        "tests",
        "examples",
        "docs",
    )
    return {path.name for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    named = re.findall(r"`((?:[\w*<>-]+/)*[\w*<>-]+\.(?:py|proto|md|toml|txt))`", text)
    assert named
    names = tracked_names() | {path.name for path in ROOT.iterdir()}
    for path in named:
        if "*" in path:
            assert list(ROOT.glob(path)), path
        elif "/" in path and (ROOT / path.split("/")[0]).is_dir():
            assert (ROOT / path).exists(), path
        else:
            assert Path(path).name in names, path


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_between_documents_leads_somewhere(document: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / document).read_text()):
        assert (ROOT / target).exists(), target
