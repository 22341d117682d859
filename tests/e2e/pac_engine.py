"""Engines of others that evaluate a file for the automatic configuration of browsers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.e2e.program import DEADLINE, environment

_TESTS = Path(__file__).parents[1]
_RUNNER = Path(__file__).with_name("pac_engine.mjs")


class Engine:
    """npm's pac-resolver and a bare ECMAScript 3 in one child process; a context manager."""

    def __enter__(self) -> Engine:
        for name in ("pac-resolver", "@tootallnate/quickjs-emscripten", "eslint"):
            where = _TESTS / "node_modules" / name
            assert where.exists(), f"{name} is missing: npm --prefix tests ci"
        self._process = subprocess.Popen(
            ["node", _RUNNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate(timeout=DEADLINE)

    def ask(
        self, pac: str, asks: Sequence[tuple[str, str]], *, lint: bool = False
    ) -> list[str]:
        """The answers of a file to (url, host), on which all engines agree.

        Args:
            pac: the file
            asks: the questions
            lint: see that it is plain ECMAScript 3 as well

        Raises:
            AssertionError: it is not, it fails, or they do not agree
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"pac": pac, "asks": asks, "lint": lint}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        assert not answer["faults"], answer["faults"]
        verdicts: list[list[str]] = answer["verdicts"]
        for asked, (one, other) in zip(asks, verdicts, strict=True):
            assert one == other, (asked, one, other)
        return [one for one, _ in verdicts]
