"""The text format of Prometheus, version 0.0.4; values in, text out.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
COUNTER, GAUGE = "counter", "gauge"

Number = int | float
# The values of the labels, and what is measured.
Sample = tuple[Sequence[str], Number]

_plain = re.compile(r'[^\\"\n]*').fullmatch


class Page:
    """Metrics, in the order in which they are added."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: list[str] = []

    def one(self, kind: str, name: str, help: str, value: Number) -> None:
        """A metric without labels.

        Args:
            kind: `COUNTER`, which never goes down, or `GAUGE`
            name: its name, with its base unit at the end; of a counter ``_total`` behind it
            help: one sentence
            value: what is measured
        """
        self.many(kind, name, help, (), [((), value)])

    def many(
        self, kind: str, name: str, help: str, labels: Sequence[str], samples: Iterable[Sample]
    ) -> None:
        """A metric with labels.

        Args:
            kind, name, help: as for `one`
            labels: their names
            samples: none twice with the same values
        """
        lines = self._lines
        lines.append(f"# HELP {name} {_line(help)}")
        lines.append(f"# TYPE {name} {kind}")
        form = name
        if labels:
            form += "{" + ",".join(f'{label}="%s"' for label in labels) + "}"
        form += " %s"
        lines += [form % (*map(_quoted, values), value) for values, value in samples]

    def encode(self) -> bytes:
        """All of it, as the body of an answer."""
        return "".join(f"{line}\n" for line in self._lines).encode()


def _line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    if _plain(text):
        return text
    return _line(text).replace('"', '\\"')
