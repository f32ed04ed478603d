"""The examples in docstrings."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for top in ("diffusion_gym", "agents", "benchmarks")
    for path in sorted((ROOT / top).rglob("*.py"))
    if re.search(r"^\s*>>> ", path.read_text(), flags=re.MULTILINE)
]


def test_there_are_some() -> None:
    assert len(MODULES) > 3


@pytest.mark.parametrize("name", MODULES)
def test_examples_do_what_they_say(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed
