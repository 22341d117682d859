"""Addresses of mesh networks: what is handed out, to whom again, and that none is lost."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bifrost_lite.mesh.ipam import Pool, parse_cidr


def everything(pool: Pool) -> list[str]:
    """All that it has left."""
    found = []
    while (address := pool.allocate()) is not None:
        found.append(address)
    return found


@pytest.mark.parametrize(
    ("cidr", "canonical", "gateway", "first"),
    [
        ("10.100.0.0/16", "10.100.0.0/16", "10.100.0.1", "10.100.0.2"),
        ("10.0.0.5/24", "10.0.0.0/24", "10.0.0.1", "10.0.0.2"),
        ("10.255.255.255/8", "10.0.0.0/8", "10.0.0.1", "10.0.0.2"),
        ("192.168.7.130/25", "192.168.7.128/25", "192.168.7.129", "192.168.7.130"),
        ("fd00::/64", "fd00::/64", "fd00::1", "fd00::2"),
        ("FD00:0:0:1::abcd/64", "fd00:0:0:1::/64", "fd00:0:0:1::1", "fd00:0:0:1::2"),
        ("2001:db8::ff/112", "2001:db8::/112", "2001:db8::1", "2001:db8::2"),
    ],
)
def test_masked_with_the_gateway_first(
    cidr: str, canonical: str, gateway: str, first: str
) -> None:
    pool = Pool(cidr)
    assert (pool.cidr, pool.gateway, pool.allocate()) == (canonical, gateway, first)


@pytest.mark.parametrize(
    ("cidr", "addresses"),
    [
        ("10.0.0.0/30", ["10.0.0.2"]),
        ("10.0.0.8/29", ["10.0.0.10", "10.0.0.11", "10.0.0.12", "10.0.0.13", "10.0.0.14"]),
        ("fd00::/126", ["fd00::2", "fd00::3"]),  # IPv6 has no broadcast
    ],
)
def test_small_networks_to_their_end(cidr: str, addresses: list[str]) -> None:
    pool = Pool(cidr)
    assert pool.size == len(addresses)
    assert everything(pool) == addresses
    assert pool.allocate() is None
    pool.release(addresses[-1])
    assert everything(pool) == addresses[-1:]


@pytest.mark.parametrize(
    "cidr",
    [
        "", "10.0.0.0", "10.0.0.0/", "/24", "10.0.0.0/7", "10.0.0.0/31", "10.0.0.0/32",
        "10.0.0.0/024", "10.0.0.0/+24", "10.0.0.0/24/24", "10.0.0/24", "10.0.0.0/2४", "a/24",
        "fd00::/63", "fd00::/127", "fd00::/128", "fd00::/0", "fd00::%eth0/64", "[fd00::]/64",
        "::ffff:10.0.0.0/104", "10.0.0.0 /24", "10.0.0.0/24\n", "0x0a.0.0.0/8", "010.0.0.0/8",
        "10.0.0.0/99999999999", "\x00/24", "10.0.0.0/1e1",
    ],
)  # fmt: skip
def test_no_networks(cidr: str) -> None:
    with pytest.raises(ValueError, match=r"^no network "):
        parse_cidr(cidr)


v4 = st.tuples(st.ip_addresses(v=4), st.integers(8, 30))
v6 = st.tuples(
    st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None), st.integers(64, 126)
)


@given(v4 | v6)
def test_as_the_standard_library_sees_it(network: tuple[object, int]) -> None:
    address, length = network
    known = ipaddress.ip_network(f"{address}/{length}", strict=False)
    pool = Pool(f"{address}/{length}")
    assert ipaddress.ip_network(pool.cidr) == known
    assert ipaddress.ip_address(pool.gateway) == known[1]
    reserved = 3 if known.version == 4 else 2
    assert pool.size == known.num_addresses - reserved
    first = pool.allocate()
    assert first is not None
    assert ipaddress.ip_address(first) == known[2]


def test_the_greatest_network_costs_what_its_peers_cost() -> None:
    """Nothing is listed that was never taken, and the mark stays low."""
    for cidr in ("10.0.0.0/8", "fd00::/64"):
        pool = Pool(cidr)
        for _ in range(10_000):
            held = [pool.allocate() for _ in range(3)]
            for address in held:
                assert address is not None
                pool.release(address)
        assert pool._mark - pool._first == 3
        assert len(pool._given_back) == 3
        assert len(pool) == 0


def test_the_longest_given_back_comes_first() -> None:
    pool = Pool("10.0.0.0/24")
    first, second, third = (str(pool.allocate()) for _ in range(3))
    for address in (second, third, first):
        pool.release(address)
    assert [pool.allocate() for _ in range(4)] == [second, third, first, "10.0.0.5"]


@pytest.mark.parametrize(
    "address",
    ["10.0.0.0", "10.0.0.1", "10.0.0.255", "10.0.1.2", "fd00::2", "", "x", "::ffff:10.0.0.9"],
)
def test_what_cannot_be_taken(address: str) -> None:
    assert not Pool("10.0.0.0/24").take(address)


@pytest.mark.parametrize("address", ["FD00::5", "fd00::0005", "fd00:0:0::5"])
def test_another_spelling_cannot_be_taken(address: str) -> None:
    """Peers and their events tell the text of an address, and compare it."""
    assert not Pool("fd00::/64").take(address)
    assert Pool("fd00::/64").take("fd00::5")


def test_taken_ahead_is_passed() -> None:
    pool = Pool("10.0.0.0/29")
    assert pool.take("10.0.0.3")
    assert pool.take("10.0.0.6")
    assert not pool.take("10.0.0.3")
    assert everything(pool) == ["10.0.0.2", "10.0.0.4", "10.0.0.5"]
    pool.release("10.0.0.3")
    assert pool.take("10.0.0.3")
    pool.release("10.0.0.6")
    assert pool.allocate() == "10.0.0.6"


class PoolMachine(RuleBasedStateMachine):
    """Any order of everything: no address twice, none outside, none lost."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool("192.0.2.32/28")
        self.all = {f"192.0.2.{number}" for number in range(34, 47)}
        self.used: set[str] = set()

    @rule()
    def allocate(self) -> None:
        address = self.pool.allocate()
        if address is None:
            assert self.used == self.all
        else:
            assert address in self.all - self.used
            self.used.add(address)

    @rule(number=st.integers(31, 49))
    def take(self, number: int) -> None:
        address = f"192.0.2.{number}"
        assert self.pool.take(address) == (address in self.all - self.used)
        self.used |= {address} & self.all

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(sorted(self.used)))
        self.pool.release(address)
        self.used.remove(address)

    @invariant()
    def counts(self) -> None:
        assert len(self.pool) == len(self.used)

    def teardown(self) -> None:
        """What nobody uses can all be had."""
        assert set(everything(self.pool)) == self.all - self.used
        assert len(self.pool) == self.pool.size


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
