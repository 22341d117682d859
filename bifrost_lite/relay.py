"""Moving bytes: one `Half` for each direction between two sockets.

A half reads from its own socket and writes to its peer's. Two ways to move:

- copy: `recv_into` one buffer that the whole process shares, `send` from it. What the peer
  does not take is kept (`pend`) and nothing more is read: backpressure is simply not
  reading. Best for small chunks, and for one fast stream alone.
- splice: through a pipe, bytes stay in the kernel. A direction that has moved 256 KiB is
  bulk; while two or more bulk directions are busy at the same time they splice, since
  copied data would be cold in the cache by the time it is sent.

Bounds: a pipe stays with a half only while its peer is blocked, and there are at most
`PIPES`. Kept copies of all halves together stay under `KEPT_LIMIT` plus 4 KiB for each,
because over the limit reads shrink to that. Work in one turn is bounded by `TURN`; whoever
has more goes to the back of the queue.

Counts are exact: `written` is what the kernel took for the peer.
"""

from __future__ import annotations

import fcntl
import os
from _socket import socket as Socket
from errno import EINVAL, ENOSYS
from mmap import mmap
from socket import SHUT_WR
from typing import Protocol

from .dispatch import END, ERR, HUP, IN, OUT, Dispatcher

BUFFER_SIZE = 256 * 1024
SMALL_READ = 64 * 1024  # before a direction is bulk: bounds what a slow peer leaves behind
BULK_AFTER = 256 * 1024  # bytes after which a direction is bulk
PIPE_SIZE = 256 * 1024  # 64 slots; 16 are too few for packets of a real network card
PIPES = 32
KEPT_LIMIT = 2 * 1024 * 1024
STARVED_READ = 4 * 1024
TURN = 4  # full buffers moved before others have their turn
CROWD_GAP = 0.1  # two bulk directions busy within this many seconds are a crowd...
CROWD_STAYS = 1.0  # ...and are treated as one for this long

_F_SETPIPE_SZ: int = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_SPLICE_FLAGS = 3  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK
_SPLICE_CHUNK = 1 << 20


class Pipe:
    """A pipe that carries spliced bytes."""

    __slots__ = ("read", "write")

    def __init__(self) -> None:
        self.read, self.write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(self.write, _F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:  # over the user's soft limit: it works with 64 KiB as well
            return

    def close(self) -> None:
        """Give both descriptors back, and what is in the pipe."""
        os.close(self.read)
        os.close(self.write)


class Shared:
    """What all halves of the process share beside the buffer: pipes, bounds, who is busy."""

    __slots__ = (
        "bulk_fd", "bulk_seen", "crowd_until", "free_pipes", "kept", "pipes", "splice",
    )  # fmt: skip

    def __init__(self) -> None:
        self.free_pipes: list[Pipe] = []
        self.pipes = 0  # pipes in being, free or not
        self.kept = 0  # bytes of all kept copies
        self.splice = hasattr(os, "splice")
        self.bulk_fd = -1  # the bulk direction that was busy last, and when
        self.bulk_seen = 0.0
        self.crowd_until = 0.0

    def take_pipe(self) -> Pipe | None:
        """An empty pipe, or None when there is none to be had."""
        if self.free_pipes:
            return self.free_pipes.pop()
        if self.pipes >= PIPES:
            return None
        try:
            pipe = Pipe()
        except OSError:  # out of descriptors: the copying path needs none
            return None
        self.pipes += 1
        return pipe

    def drop_pipe(self, pipe: Pipe) -> None:
        """Close a pipe that still has bytes in it."""
        self.pipes -= 1
        pipe.close()

    def release_pipes(self) -> None:
        """Close the free pipes: nothing is bulk any more."""
        while self.free_pipes:
            self.drop_pipe(self.free_pipes.pop())

    def crowded(self, fd: int, now: float) -> bool:
        """Whether another bulk direction than that of `fd` is busy too."""
        if self.bulk_fd != fd:
            if now - self.bulk_seen < CROWD_GAP:
                self.crowd_until = now + CROWD_STAYS
            self.bulk_fd = fd
        self.bulk_seen = now
        return now < self.crowd_until


_buffer = mmap(-1, BUFFER_SIZE)  # costs no memory before bytes move
_view = memoryview(_buffer)
shared = Shared()


def read_size() -> int:
    """Bytes to read at once before a direction is bulk: few while much is kept already."""
    return SMALL_READ if shared.kept <= KEPT_LIMIT else STARVED_READ


class HalfOwner(Protocol):
    """Who decides what the end of a direction means."""

    def half_ended(self, half: Half) -> None:
        """The half's source sent FIN; everything before it was written."""

    def half_moved(self, half: Half) -> None:
        """The half moved all that `left` allowed."""

    def half_broken(self, half: Half, reading: bool, error: OSError | None) -> None:
        """Reading from the half's socket, or else writing to its peer's, failed."""

    def crash(self) -> None:
        """A handler of the half raised: close everything."""


class Half:
    """One direction of a connection: what `sock` sends goes to `peer.sock`.

    Attributes:
        sock, fd: the source
        peer: the half of the other direction, whose socket is this one's destination
        owner: told of ends and faults
        left: bytes it may still move, -1 for until the source ends, 0 to rest
        count: bytes read from the source for the peer
        ended: the source sent FIN
        pend: read but not yet taken by the peer: bytes, or a pipe with `pend_size` in it
    """

    __slots__ = (
        "count", "dispatcher", "ended", "fd", "left", "owner", "peer", "pend", "pend_size",
        "queued", "sock",
    )  # fmt: skip

    peer: Half

    def __init__(self, dispatcher: Dispatcher, owner: HalfOwner, sock: Socket, fd: int) -> None:
        self.dispatcher = dispatcher
        self.owner = owner
        self.sock = sock
        self.fd = fd
        self.left = 0
        self.count = 0
        self.ended = False
        self.queued = False
        self.pend: bytes | Pipe | None = None
        self.pend_size = 0

    @property
    def written(self) -> int:
        """Bytes of this direction that the kernel took for the peer; `count` are those read."""
        return self.count - self.pend_size

    # Events.

    def on_event(self, mask: int) -> None:
        """The handler of the half's own socket."""
        if mask & OUT:
            incoming = self.peer
            if incoming.pend is not None and incoming.flush() and incoming.left:
                incoming.pump(END)  # it stopped reading when its peer blocked
        if mask & ~OUT and self.left and self.pend is None:
            self.pump(mask)
        elif mask & (ERR if self.pend is not None else ERR | HUP):
            # While its peer is blocked, HUP may be no more than a FIN each way.
            self.owner.half_broken(self, True, None)

    def wants(self, fd: int) -> int:
        """For the portable selector."""
        return (IN if self.left and self.pend is None and not self.ended else 0) | (
            OUT if self.peer.pend is not None else 0
        )

    def crash(self) -> None:
        """A handler raised."""
        self.owner.crash()

    def resume(self) -> None:
        """Go on after others had their turn."""
        self.queued = False
        if self.left and self.pend is None:
            self.pump(END)

    # Moving.

    def pump(self, mask: int) -> None:
        """Move what there is, within a turn.

        Args:
            mask: the event; with any of `END` in it, a short read does not mean drained
        """
        size = SMALL_READ
        if self.count >= BULK_AFTER:
            if shared.splice and shared.crowded(self.fd, self.dispatcher.now):
                pipe = shared.take_pipe()
                if pipe is not None:
                    self._splice(pipe, mask)
                    return  # else all pipes are with blocked peers: copy
            else:
                size = BUFFER_SIZE
        if shared.kept > KEPT_LIMIT:
            size = STARVED_READ
        sock, peer = self.sock, self.peer.sock
        for _ in range(TURN):
            left = self.left
            if 0 <= left < size:
                if not left:
                    return
                size = left
            try:
                got = sock.recv_into(_buffer, size)
            except BlockingIOError:
                return
            except OSError as error:
                self.owner.half_broken(self, True, error)
                return
            if not got:
                self.ended = True
                self.left = 0
                self.owner.half_ended(self)
                return
            self.count += got
            try:
                sent = peer.send(_view[:got])
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._lose(got, error)
                return
            if left > 0:
                self.left = left = left - got
            if sent < got:
                self._keep(bytes(_view[sent:got]))
                return
            if not left:
                self.owner.half_moved(self)
                return
            if got < size and not mask & END:
                return
        self._queue()

    def _splice(self, pipe: Pipe, mask: int) -> None:
        """The same through an empty pipe."""
        splice, target = os.splice, self.peer.fd
        for _ in range(TURN):
            left = self.left
            size = left if 0 <= left < _SPLICE_CHUNK else _SPLICE_CHUNK
            try:
                got = splice(self.fd, pipe.write, size, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                shared.free_pipes.append(pipe)
                return
            except OSError as error:
                shared.free_pipes.append(pipe)
                if error.errno in (EINVAL, ENOSYS):  # this kernel cannot splice sockets
                    shared.splice = False
                    self.pump(mask)
                else:
                    self.owner.half_broken(self, True, error)
                return
            if not got:
                shared.free_pipes.append(pipe)
                self.ended = True
                self.left = 0
                self.owner.half_ended(self)
                return
            self.count += got
            if left > 0:
                self.left = left = left - got
            try:
                sent = splice(pipe.read, target, got, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                shared.drop_pipe(pipe)
                self._lose(got, error)
                return
            if sent < got:
                self.pend = pipe
                self.pend_size = got - sent
                return
            if not left:
                shared.free_pipes.append(pipe)
                self.owner.half_moved(self)
                return
        shared.free_pipes.append(pipe)
        self._queue()

    def push(self, data: bytes) -> bool:
        """Send `data` to the peer as part of this direction, or keep what it does not take.
        False when that broke. Not for a direction with bytes in a pipe, which is bulk."""
        assert not isinstance(self.pend, Pipe)
        self.count += len(data)
        sent = 0
        try:
            if self.pend is None:  # else there are others before it
                sent = self.peer.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lose(len(data), error)
            return False
        if sent < len(data):
            self._keep(data[sent:])
        return True

    def flush(self) -> bool:
        """The peer takes bytes again: write what was kept. True when all of it went."""
        pend = self.pend
        try:
            if isinstance(pend, bytes):
                sent = self.peer.sock.send(pend)
                shared.kept -= sent
                if sent < len(pend):
                    self.pend = pend[sent:]
                    self.pend_size -= sent
                    return False
            elif pend is not None:
                while self.pend_size:
                    self.pend_size -= os.splice(
                        pend.read, self.peer.fd, self.pend_size, flags=_SPLICE_FLAGS
                    )
                shared.free_pipes.append(pend)
        except BlockingIOError:
            return False
        except OSError as error:
            self.owner.half_broken(self, False, error)
            return False
        self.pend = None
        self.pend_size = 0
        if not self.left and not self.ended:
            self.owner.half_moved(self)
        return True

    def _keep(self, data: bytes) -> None:
        # A caller may add to what is kept already: HTTP writes a head, then a body.
        if isinstance(self.pend, bytes):
            data = self.pend + data
            shared.kept -= self.pend_size
        self.pend = data
        self.pend_size = len(data)
        shared.kept += self.pend_size

    def _lose(self, size: int, error: OSError) -> None:
        """So many bytes were read and cannot be written."""
        self.pend_size = size
        self.owner.half_broken(self, False, error)

    def _queue(self) -> None:
        if not self.queued:
            self.queued = True
            self.dispatcher.again(self.resume)

    def drop(self) -> None:
        """The direction is over: give back what was kept, which was never written."""
        pend = self.pend
        if pend is not None:
            if isinstance(pend, bytes):
                shared.kept -= self.pend_size
            else:
                shared.drop_pipe(pend)
            self.pend = None
        self.left = 0

    def finish_peer(self) -> None:
        """Pass the FIN on: the peer will get no more.

        Raises:
            OSError: the peer is gone
        """
        self.peer.sock.shutdown(SHUT_WR)
