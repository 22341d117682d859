"""The copies of the examples are the user's own, but for indentation."""

from __future__ import annotations

import ast

import pytest

from tests.seed.examples import SEED, example

PAGE = (SEED / "websocket-api.txt").read_text(encoding="utf-8").splitlines()
CLIENTS = 210  # line of the page on which the client examples begin, from 0


def stripped(name: str) -> list[str]:
    return [line.strip() for line in (SEED / name).read_text(encoding="utf-8").splitlines()]


def test_the_keepalive_snippet_is_the_pages() -> None:
    copy = stripped("keepalive.js")
    start = PAGE.index(copy[0])
    assert PAGE[start : start + len(copy)] == copy
    assert PAGE[start - 1] == PAGE[start + len(copy)] == ""


def test_the_clients_are_the_rest_of_the_page() -> None:
    copies = [stripped(f"events.{kind}") for kind in ("ts", "py", "go")]
    copies += [[""], stripped("logs.js"), stripped("logs.tsx")]
    assert [line for copy in copies for line in copy] == PAGE[CLIENTS:]


def test_the_python_indentation_is_such_that_python_takes_it() -> None:
    tree = ast.parse((SEED / "events.py").read_text(encoding="utf-8"))
    names = [type(node).__name__ for node in tree.body]
    assert names == ["Import"] * 3 + ["ClassDef", "AsyncFunctionDef", "Expr"]
    methods = [node.name for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
    assert sorted(methods) == ["_handle_message", "_heartbeat", "connect", "main"]


def test_a_substitution_that_does_not_happen_is_an_error() -> None:
    with pytest.raises(AssertionError, match="0 times"):
        example("events.py", {"ws://elsewhere": "x"})
    with pytest.raises(AssertionError, match="2 times"):
        example("events.go", {"localhost:7082": "x"})
