"""Coroutine tests run on a fresh loop each; the tokenizer is a real one, trained for the session."""

import asyncio
import inspect
import json
from pathlib import Path

import pytest

from tests.checkpoints import make_tokenizer

VOCAB_SIZE = 512


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests with `asyncio.run`."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint's text half: tokenizer, config.json, no weights."""
    directory = tmp_path_factory.mktemp("text_model")
    tokenizer = make_tokenizer(directory, VOCAB_SIZE)
    config = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 512, "eos_token_id": tokenizer.eos_token_id}
    (directory / "config.json").write_text(json.dumps(config))
    return directory
