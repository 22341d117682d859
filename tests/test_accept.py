"""Listening, and what happens when descriptors run out."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from bifrost_lite import accept
from bifrost_lite.errors import BindError
from tests.control_fixtures import Answer, Daemon, read_all, running

HEALTH = "/api/v1/health"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with running() as daemon:
        yield daemon


def test_several_addresses_are_one_application() -> None:
    with running(listen=("127.0.0.1:0", "127.0.0.1:0", "[::1]:0")) as daemon:
        assert len(daemon.control.addresses) == 3
        assert len({port for _, port in daemon.control.addresses}) == 3
        for host, port in daemon.control.addresses:
            with socket.create_connection((host, port), timeout=5) as sock:
                sock.sendall(
                    b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
                assert len(Answer(read_all(sock)).json["listeners"]) == 4


def test_bind_error_closes_the_others() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=f"127.0.0.1:{port}"), running(
            listen=("127.0.0.1:0", f"127.0.0.1:{port}")
        ):
            raise AssertionError


def test_out_of_descriptors(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Accepting pauses and goes on by itself; a ready listener that fails must not spin."""
    monkeypatch.setattr(accept, "PAUSE", 0.1)
    failures: list[int] = []

    class Failing:
        """The listener of a process without descriptors."""

        def __init__(self, real: socket.socket) -> None:
            self.real = real

        def fileno(self) -> int:
            return self.real.fileno()

        def close(self) -> None:
            self.real.close()

        def accept(self) -> tuple[socket.socket, object]:
            if len(failures) < 3:
                failures.append(1)
                raise OSError(errno.EMFILE, "Too many open files")
            return self.real.accept()

    def fail() -> None:
        acceptor = daemon.control._server._acceptor
        real = acceptor._listeners[0]
        daemon.loop.remove_reader(real.fileno())
        acceptor._listeners[0] = Failing(real)  # type: ignore[call-overload]
        acceptor._resume()

    daemon.do(fail)
    assert daemon.get(HEALTH).status == 200
    assert len(failures) == 3
    assert caplog.text.count("accepts nobody for a moment: Too many open files") == 3


def test_accept_that_fails_otherwise_goes_on(daemon: Daemon) -> None:
    acceptor = daemon.control._server._acceptor

    class Aborted:
        calls = 0

        def accept(self) -> tuple[socket.socket, object]:
            self.calls += 1
            raise OSError(errno.ECONNABORTED, "gone")

    aborted = Aborted()
    acceptor._accept(aborted)  # type: ignore[arg-type]
    assert aborted.calls == 16


def test_stopping_while_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as daemon:
        acceptor = daemon.control._server._acceptor
        for _ in range(2):  # several listeners may fail in one turn
            daemon.do(acceptor._pause, OSError(errno.EMFILE, "x"))
        assert len(daemon.timers()) == 1
