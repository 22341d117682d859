"""Network namespaces with devices between them, made and thrown away by a test.

A namespace has no name: it lives as long as something holds it, so that nothing is left of it
when its test has ended, however that ended. It needs root; without it a test fails.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import shutil
import socket
import socketserver
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from tests.e2e.nameserver import NameServer

FOUR, SIX = "203.0.113.7", "2001:db8:7::7"  # the far addresses, in every world
FAR = "far.example"  # has both

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_OWN = "/proc/thread-self/ns/net"
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)} (network namespaces need root)")


class Namespace:
    """A network namespace with a loopback device; a context manager."""

    def __init__(self) -> None:
        before = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.unshare(_CLONE_NEWNET))
            self.fd = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            _libc.setns(before, _CLONE_NEWNET)
            os.close(before)

    def __enter__(self) -> Namespace:
        self.ip("link set lo up")
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)

    @property
    def path(self) -> str:
        """What other processes find it by."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread, and the processes it starts, be in the namespace."""
        before = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(self.fd, _CLONE_NEWNET))
            try:
                yield
            finally:
                _check(_libc.setns(before, _CLONE_NEWNET))
        finally:
            os.close(before)

    def run(self, *argv: str, text: str | None = None) -> str:
        """Run a command in it; answers what it prints."""
        assert shutil.which(argv[0]), f"{argv[0]} is missing"
        with self.inside():
            done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
        return done.stdout

    def ip(self, words: str) -> str:
        """Run `ip` with these words."""
        return self.run("ip", *words.split())

    def veth(self, device: str, other: Namespace, peer: str) -> None:
        """A cable from `device` here to `peer` in the other namespace, both ends up."""
        self.ip(f"link add name {device} type veth peer name {peer} netns {other.path}")
        self.ip(f"link set {device} up")
        other.ip(f"link set {peer} up")

    def give(self, device: str, other: Namespace) -> None:
        """Move a device to the other namespace."""
        self.ip(f"link set {device} netns {other.path}")

    def address(self, device: str, *addresses: str) -> None:
        """Give a device addresses with prefixes, to be used at once."""
        for address in addresses:
            self.ip(f"address add {address} dev {device}{' nodad' if ':' in address else ''}")

    def count(self, device: str) -> None:
        """Count from now on what leaves through a device; see `counted`."""
        self.run(
            "nft",
            "-f",
            "-",
            text=f"""table inet count_{device} {{
                counter sent {{ }}
                counter strays {{ }}
                chain out {{
                    type filter hook postrouting priority 0
                    oifname != "{device}" return
                    tcp flags & rst == rst counter name strays return
                    icmp type destination-unreachable counter name strays return
                    icmpv6 type destination-unreachable counter name strays return
                    meta l4proto {{ tcp, udp }} counter name sent
                }}
            }}""",
        )

    def counted(self, device: str, name: str = "sent") -> int:
        """How many packets left through a device.

        Args:
            device: where `count` counts
            name: ``sent``: all of TCP and UDP but the ``strays``, with which the kernel answers
                packets for sockets that are closed already
        """
        words = self.run("nft", "list", "counter", "inet", f"count_{device}", name).split()
        return int(words[words.index("packets") + 1])

    def tun(self, device: str) -> Tun:
        """Hold a tun device here, which is made unless it is there."""
        with self.inside():
            return Tun(device)


class Tun:
    """A tun device that this process holds: it has a carrier until `close`."""

    def __init__(self, device: str) -> None:
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            request = struct.pack("16sH14x", device.encode(), _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(self.fd, _TUNSETIFF, request)
        except OSError:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Let go of it; a device that was not there before goes."""
        os.close(self.fd)


class Pump:
    """What a VPN does: carries packets from one tun device to another, and back.

    A context manager; leaving it lets go of both devices.

    Args:
        here, there: the devices
        delay: seconds that each packet is under way
    """

    def __init__(self, here: Tun, there: Tun, delay: float = 0.0) -> None:
        self._ends = {here.fd: there.fd, there.fd: here.fd}
        self._tuns = (here, there)
        self._delay = delay
        self._stop, self._stopping = os.pipe()
        self._thread = threading.Thread(target=self._carry)

    def __enter__(self) -> Pump:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._stopping)
        self._thread.join()
        os.close(self._stop)
        for tun in self._tuns:
            tun.close()

    def _carry(self) -> None:
        under_way: deque[tuple[float, int, bytes]] = deque()
        while True:
            wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
            ready, _, _ = select.select([self._stop, *self._ends], [], [], wait)
            if self._stop in ready:
                return
            now = time.monotonic()
            with suppress(OSError):  # a device that is down takes and gives nothing
                for fd in ready:
                    under_way.append((now + self._delay, self._ends[fd], os.read(fd, 65536)))
            with suppress(OSError):
                while under_way and under_way[0][0] <= now:
                    _, fd, packet = under_way.popleft()
                    os.write(fd, packet)


class World:
    """What is behind a way out: the far addresses, and who answers there; a context manager.

    TCP port 80 says the name of the world and then echoes, except to who says ``flood``; port
    53 is a name server.

    Attributes:
        namespace: where it is
        visitors: addresses that connected
        asked: names that were asked for
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.visitors: list[str] = []
        self._connections: list[socket.socket] = []
        self._stack = ExitStack()

    @property
    def asked(self) -> set[str]:
        return {name for name, _ in self._names.asked}

    def __enter__(self) -> World:
        with ExitStack() as stack:
            self.namespace = stack.enter_context(Namespace())
            self.namespace.address("lo", f"{FOUR}/32", f"{SIX}/128")
            with self.namespace.inside():
                self._names = _Names({FAR: (FOUR, SIX)}, FOUR)
                stack.enter_context(self._names)
                server = _Server(("::", 80), self._handler())
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(self._hang_up)  # a connection whose device is gone does not end
            stack.callback(server.shutdown)
            thread.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _hang_up(self) -> None:
        for connection in self._connections:
            with suppress(OSError):  # it has ended already
                connection.shutdown(socket.SHUT_RDWR)

    def _handler(self) -> type[socketserver.BaseRequestHandler]:
        world = self

        class Handler(socketserver.BaseRequestHandler):
            request: socket.socket

            def handle(self) -> None:
                world.visitors.append(self.client_address[0])
                world._connections.append(self.request)
                with suppress(OSError):  # the client may break it
                    self.request.sendall(world.name.encode())
                    while data := self.request.recv(65536):
                        self.request.sendall(data)
                        while data == b"flood":
                            self.request.sendall(bytes(65536))

        return Handler


class _Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6  # and IPv4 with it
    allow_reuse_address = True


class _Names(NameServer):
    """A name server that others reach."""

    def __init__(self, zone: Mapping[str, Sequence[str]], address: str) -> None:
        super().__init__(zone)
        self._server.server_close()
        self._server = socketserver.UDPServer((address, 53), self._server.RequestHandlerClass)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))


class Crossing:
    """A router with two ways out, `wan0` and `vpn0`; a context manager.

    Behind each way is a world with the same far addresses, so that a packet that takes the
    wrong way arrives and is answered. The default route is by `wan0`.

    Attributes:
        router: where the proxy is
        wan, vpn: what is behind the devices; `router0` is their end of the cable
    """

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Crossing:
        with ExitStack() as stack:
            self.router = stack.enter_context(Namespace())
            self.wan = stack.enter_context(World("wan"))
            self.vpn = stack.enter_context(World("vpn"))
            self.router.veth("wan0", self.wan.namespace, "router0")
            self.wan.namespace.address("router0", "192.0.2.1/24", "2001:db8:1::1/64")
            self.router.address("wan0", "192.0.2.2/24", "2001:db8:1::2/64")
            self.router.ip("route add default via 192.0.2.1")
            self.router.ip("route add default via 2001:db8:1::1")
            self.router.count("wan0")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def plug(self) -> None:
        """Let `vpn0` be there, up, with default routes that are worse than the others."""
        self.router.veth("vpn0", self.vpn.namespace, "router0")
        self.vpn.namespace.address("router0", "198.51.100.1/24", "2001:db8:2::1/64")
        self.configure()

    def unplug(self) -> None:
        """Delete `vpn0`."""
        self.router.ip("link delete vpn0")

    def configure(self) -> None:
        """Give `vpn0` its addresses and routes, most of which go when it is down."""
        self.router.ip("address flush dev vpn0 scope global")
        self.router.address("vpn0", "198.51.100.2/24", "2001:db8:2::2/64")
        self.router.ip("route replace default via 198.51.100.1 metric 999")
        self.router.ip("-6 route replace default via 2001:db8:2::1 metric 9999")

    def tunnel(self, delay: float = 0.0) -> Pump:
        """Let `vpn0` be a tun device with a VPN program behind it, which is the result."""
        pump = Pump(self.router.tun("vpn0"), self.vpn.namespace.tun("router0"), delay)
        self.vpn.namespace.ip("link set router0 up")
        self.vpn.namespace.address("router0", "198.51.100.1/24", "2001:db8:2::1/64")
        self.router.ip("link set vpn0 up")
        self.configure()
        return pump

    def rule(self) -> None:
        """Let what has an address of `vpn0` leave by it, as a router should have it."""
        for family, address, gateway in (
            ("-4", "198.51.100.2", "198.51.100.1"),
            ("-6", "2001:db8:2::2", "2001:db8:2::1"),
        ):
            self.router.ip(f"{family} route replace default via {gateway} table 100")
            self.router.ip(f"{family} rule add from {address} lookup 100")

    def leaked(self, name: str = "sent") -> int:
        """Packets that left by `wan0`; see `Namespace.counted`."""
        return self.router.counted("wan0", name)
