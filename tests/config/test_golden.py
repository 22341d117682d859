"""Pairs of files: a configuration, and all faults that it has, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from bifrost_lite.errors import ConfigError
from bifrost_lite.load import load

DATA = Path(__file__).parents[1] / "data" / "config"
CASES = sorted(path.stem for path in DATA.glob("*.toml"))


def test_the_cases_are_there_in_pairs() -> None:
    assert len(CASES) > 25
    assert sorted(path.stem for path in DATA.glob("*.faults")) == CASES


@pytest.mark.parametrize("case", CASES)
def test_faults(case: str) -> None:
    try:
        load(str(DATA / f"{case}.toml"))
        found = ""
    except ConfigError as error:
        found = "".join(f"{fault}\n" for fault in error.faults)
    assert found == (DATA / f"{case}.faults").read_text()
