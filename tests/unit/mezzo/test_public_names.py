"""The names that the SDK offers: all can be had, each is what its module has, and nothing else is."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

import mezzo


def test_every_name_can_be_had_and_tools_see_the_same() -> None:
    tree = ast.parse(Path(mezzo.__file__).read_text())
    seen = {
        alias.name: node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mezzo")
        for alias in node.names
    }
    assert set(seen) == set(mezzo.__all__)
    for name, module in seen.items():
        assert getattr(mezzo, name) is getattr(import_module(module), name)
    assert set(mezzo.__all__) <= set(dir(mezzo))


def test_another_is_told_like_any() -> None:
    with pytest.raises(AttributeError, match="module 'mezzo' has no attribute 'Klient'"):
        mezzo.Klient  # noqa: B018
    with pytest.raises(ImportError):
        from mezzo import Klient  # noqa: F401
