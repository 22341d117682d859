"""What the tests of the dashboard share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.e2e.chromium import chromium
from tests.e2e.origin import Origin


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for a module."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def origin() -> Iterator[Origin]:
    """A target whose held downloads are the test's own."""
    with Origin() as origin:
        yield origin
