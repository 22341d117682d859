"""A network between two ends that can stall and break."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from tests.e2e.daemon import Address


class Relay:
    """Forwards TCP connections to `target`; a context manager.

    Args:
        target: where to

    Attributes:
        address: where it listens, also after a cut
    """

    def __init__(self, target: Address) -> None:
        self._target = target
        self._flowing = threading.Event()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._broken = False
        self._threads: list[threading.Thread] = []
        self.address = Address("127.0.0.1", 0)

    def __enter__(self) -> Relay:
        self.mend()
        return self

    def __exit__(self, *exc: object) -> None:
        self.cut()

    def stall(self) -> None:
        """Connections stay and are taken on, and no byte moves."""
        self._flowing.clear()

    def mend(self) -> None:
        """Let flow what waits, and listen again after a cut."""
        self._flowing.set()
        if not self._threads:
            self._broken = False
            self._listener = socket.create_server(self.address)
            self.address = Address(*self._listener.getsockname())
            self._run(self._accept, self._listener)

    def cut(self) -> None:
        """End all connections and refuse new ones."""
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes its thread, which a close does not
        with self._lock:
            self._broken = True
            for sock in self._sockets:
                with suppress(OSError):  # its peer was first
                    sock.shutdown(socket.SHUT_RDWR)
        self._flowing.set()
        while self._threads:
            self._threads.pop().join()

    def _run(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)
        thread.start()
        self._threads.append(thread)

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:  # cut
                    return
                self._run(self._carry, near)

    def _carry(self, near: socket.socket) -> None:
        with near, suppress(OSError), socket.create_connection(self._target) as far:
            with self._lock:
                if self._broken:
                    return
                self._sockets |= {near, far}
            back = threading.Thread(target=self._pump, args=(far, near))
            back.start()
            self._pump(near, far)
            back.join()
            with self._lock:
                self._sockets -= {near, far}

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        """One direction, until either end has had enough."""
        with suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
