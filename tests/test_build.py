"""From settings to the rules in force, and what a reload keeps of those before."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bifrost_lite import build, passwd, wireguard
from bifrost_lite.backends.block import Block
from bifrost_lite.backends.direct import Direct
from bifrost_lite.backends.group import Group
from bifrost_lite.backends.http_proxy import HttpProxy
from bifrost_lite.backends.interface import Interface
from bifrost_lite.backends.socks5_proxy import Socks5Proxy
from bifrost_lite.build import SPARE_DESCRIPTORS, Builder, prepare
from bifrost_lite.condition import DOWN, SUSPECT, UP, WAITING, Condition
from bifrost_lite.config.convert import convert
from bifrost_lite.config.schema import Settings
from bifrost_lite.dispatch import EpollDispatcher
from bifrost_lite.errors import ConfigError, Reason
from bifrost_lite.plane import Policy
from bifrost_lite.relay import PIPES
from bifrost_lite.resolve import Resolver
from bifrost_lite.target import pack
from tests.passwd_kit import hash_of

OWN = bytes((192, 0, 2, 1))


class Workshop:
    """A builder, and the configurations that it makes one after another.

    Attributes:
        told: changes of conditions: the backend and its state
        policy: the rules in force
    """

    def __init__(self) -> None:
        self.dispatcher = EpollDispatcher()
        self.told: list[tuple[str, str]] = []
        self.builder = Builder(
            self.dispatcher, OWN.__eq__, self.changed, self.told_name, self.told_name
        )
        self.names: list[str] = []
        self.resolvers: list[Resolver] = []
        self.settings: Settings | None = None
        self.policy: Policy | None = None

    def changed(self, name: str, condition: Condition) -> None:
        self.told.append((name, condition.state))

    def told_name(self, name: str) -> None:
        self.names.append(name)

    def aside(self, sections: Mapping[str, Any]) -> tuple[Settings, Policy]:
        """Make rules that are not in force."""
        settings = convert(sections)
        if self.settings is None or settings.resolver != self.settings.resolver:
            self.resolvers.append(Resolver(self.dispatcher))
        prepared = prepare(settings, None)
        resolver = self.resolvers[-1]
        return settings, self.builder.policy(prepared, resolver, self.policy, self.settings)

    def adopt(self, **sections: Any) -> Policy:
        """Make rules and put them in force."""
        settings, policy = self.aside(sections)
        old, self.policy, self.settings = self.policy, policy, settings
        if old is not None:
            self.builder.retire(old, policy)
        return policy

    def close(self) -> None:
        if self.policy is not None:
            self.builder.retire(self.policy, None)
        self.builder.close()
        for resolver in self.resolvers:
            resolver.close()
        assert not self.dispatcher.handlers
        self.dispatcher.close()


@pytest.fixture
def shop() -> Iterator[Workshop]:
    shop = Workshop()
    yield shop
    shop.close()


def item(name: str, type: str = "direct", **keys: Any) -> dict[str, Any]:
    return {"name": name, "type": type, **keys}


LO = item("lo", "interface", device="lo", resolver=["127.0.0.1:9"])
NOWHERE = item("nowhere", "interface", device="nowhere0")
PASSIVE = {"type": "passive"}


# Reading what settings name.


def faults(sections: dict[str, Any], path: str | None = None) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        prepare(convert(sections), path)
    return [(fault.section, fault.field) for fault in caught.value.faults]


def test_lists_are_read_and_asked(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("a.example\n", "utf-8")
    settings = convert({"routes": [{"name": "few", "list": "names", "backend": "direct"}]})
    prepared = prepare(settings, str(tmp_path / "config.toml"))
    assert prepared.settings is settings
    assert list(prepared.lists) == ["few"]
    assert prepared.router.find("a.example", None, 80, OWN) is not None
    assert prepared.router.find("b.example", None, 80, OWN) is None


def test_all_that_this_machine_cannot_do_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(wireguard, "can_mark", lambda: False)
    monkeypatch.setattr(wireguard, "can_read_wireguard", lambda: False)
    monkeypatch.setattr(passwd, "too_costly", lambda users, clock: [(1, 3.5)])
    health = {"type": "wireguard"}
    sections = {
        "backends": [
            item("here"),
            item("wg0", "interface", device="wg0", fwmark=7, health=health),
            item("tun0", "interface", device="tun0"),
        ],
        "users": [
            {"name": name, "password_hash": str(hash_of(b"sesame"))} for name in ("me", "you")
        ],
        "routes": [{"name": "few", "list": "not-there", "backend": "here"}],
        "mesh": {
            "networks": [
                {"id": "home", "cidr": "10.0.0.0/24"},
                {"id": "wg", "source": "wireguard", "device": "wg0"},
            ]
        },
    }
    assert faults(sections, str(tmp_path / "config.toml")) == [
        ("backends[1]", "fwmark"),
        ("backends[1].health", "type"),
        ("mesh.networks[1]", "source"),
        ("users[1]", "password_hash"),
        ("routes[0]", "list"),
    ]


def test_what_this_machine_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wireguard, "can_mark", lambda: True)
    monkeypatch.setattr(wireguard, "can_read_wireguard", lambda: True)
    health = {"type": "wireguard"}
    wg0 = item("wg0", "interface", device="wg0", fwmark=7, health=health)
    users = [{"name": "me", "password_hash": str(hash_of(b"sesame"))}]
    mesh = {"networks": [{"id": "wg", "source": "wireguard", "device": "wg0"}]}
    sections = {"backends": [wg0], "users": users, "mesh": mesh}
    assert prepare(convert(sections), None).lists == {}


# Building.


def test_every_type_of_backend(shop: Workshop) -> None:
    policy = shop.adopt(
        backends=[
            item("best", "group", members=["lo", "direct"]),  # before its members
            LO,
            item("direct", family="4", source="127.0.0.1"),
            item("http", "http_proxy", address="127.0.0.1:3128", username="me"),
            item("socks", "socks5_proxy", address="proxy.test:1080"),
            item("no", "block"),
        ]
    )
    types = {name: type(backend) for name, backend in policy.backends.items()}
    assert list(types.items()) == [
        ("best", Group), ("lo", Interface), ("direct", Direct), ("http", HttpProxy),
        ("socks", Socks5Proxy), ("no", Block),
    ]  # fmt: skip
    best = policy.backends["best"]
    assert best.members == (policy.backends["lo"], policy.backends["direct"])
    assert [way.name for way in best.carriers(OWN)] == ["lo", "direct"]
    direct = policy.backends["direct"]
    assert isinstance(direct, Direct)
    assert (direct.dialler.source, direct.prober.source) == ("127.0.0.1", "127.0.0.1")
    assert direct.dialler.way is direct.way
    assert direct.prober.way is None
    assert direct.prober.guard(OWN, 80) is None
    assert direct.dialler.guard(OWN, 80) is Reason.TARGET_DENIED


def test_a_device_and_its_mark_are_for_checks_too(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wireguard, "can_mark", lambda: True)
    backend = shop.adopt(backends=[LO | {"fwmark": 7}]).backends["lo"]
    assert isinstance(backend, Interface)
    for dialler in (backend.dialler, backend.prober):
        assert (dialler.device, dialler.mark) == (b"lo", 7)
    assert backend.dialler.resolver is not shop.resolvers[0]


def test_without_name_servers_of_its_own_a_device_has_those_of_all(shop: Workshop) -> None:
    backend = shop.adopt(backends=[NOWHERE]).backends["nowhere"]
    assert isinstance(backend, Interface)
    assert backend.dialler.resolver is shop.resolvers[0]
    assert backend.condition.state == WAITING
    backend.lost()
    backend.addressed()
    assert shop.names == [backend.way, "nowhere"]


@pytest.mark.parametrize(
    ("allow_local", "address", "port", "expected"),
    [
        (False, "198.51.100.1", 7080, None),
        (False, "127.0.0.1", 80, Reason.TARGET_DENIED),
        (False, "192.0.2.1", 80, Reason.TARGET_DENIED),
        (True, "192.0.2.1", 80, None),
        (True, "127.0.0.1", 7080, Reason.LOOP),
        (True, "198.51.100.1", 7080, None),
    ],
)
def test_guard(
    shop: Workshop, allow_local: bool, address: str, port: int, expected: Reason | None
) -> None:
    guard = shop.builder.guard(allow_local)
    shop.builder.ports = frozenset((7080,))
    packed = pack(address)
    assert packed is not None
    assert guard(packed, port) is expected


def test_descriptors(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spare = SPARE_DESCRIPTORS + 2 * PIPES
    limits = [64, 4096]
    refused = False

    def raise_limit(what: int, wanted: tuple[int, int]) -> None:
        if refused:
            raise ValueError
        limits[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda what: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", raise_limit)
    caplog.set_level(logging.WARNING)
    assert shop.adopt(limits={"max_connections": 100}).max_connections == 100
    assert limits == [200 + spare, 4096]
    assert shop.adopt(limits={"max_connections": 50}).max_connections == 50
    assert limits == [200 + spare, 4096]  # never lowered: connections live on
    assert not caplog.messages
    assert shop.adopt(limits={"max_connections": 9999}).max_connections == (4096 - spare) // 2
    assert limits == [4096, 4096]
    assert len(caplog.messages) == 1
    limits[:] = [64, resource.RLIM_INFINITY]
    assert shop.adopt(limits={"max_connections": 9999}).max_connections == 9999
    limits[:] = [64, 4096]
    refused = True
    assert shop.adopt(limits={"max_connections": 100}).max_connections == 8


# Over reloads.


def test_what_no_change_concerns_is_kept(shop: Workshop) -> None:
    users = [{"name": "me", "password_hash": str(hash_of(b"sesame"))}]
    before = shop.adopt(backends=[LO], users=users)
    after = shop.adopt(
        backends=[LO],
        users=users,
        access={"deny": ["192.0.2.0/24"]},
        http={"via": True},
        routes=[{"name": "all", "backend": "lo"}],
    )
    assert after is not before
    assert after.backends is before.backends
    assert after.users is before.users
    assert after.via
    assert not after.admits(OWN)


def test_a_backend_lives_through_a_change_of_another(shop: Workshop) -> None:
    """Its name server is being asked for a client: that goes on."""
    before = shop.adopt(backends=[LO, item("old", "block")])
    backend = before.backends["lo"]
    assert isinstance(backend, Interface)
    answers: list[Reason | None] = []
    lookup = backend.dialler.resolver.lookup(
        "a.example", "auto", lambda found, reason, done: answers.append(reason)
    )
    after = shop.adopt(backends=[LO, item("new", "block")])
    assert after.backends["lo"] is backend
    assert not answers
    assert list(after.backends) == ["lo", "new", "direct"]
    assert lookup is not None
    lookup.cancel()


CHANGES: list[dict[str, Any]] = [
    {"backends": [LO | {"connect_timeout": "9s"}]},
    {"backends": [LO], "resolver": {"timeout": "9s"}},
    {"backends": [LO], "access": {"allow_local": True}},
    {"backends": [LO, item("some", "group", members=["lo"])]},  # so it is watched now
]


@pytest.mark.parametrize("sections", CHANGES)
def test_a_backend_is_made_anew_where_it_would_be_another(
    sections: dict[str, Any], shop: Workshop
) -> None:
    before = shop.adopt(backends=[LO]).backends["lo"]
    after = shop.adopt(**sections).backends["lo"]
    assert after is not before
    assert isinstance(before, Interface)
    assert isinstance(after, Interface)
    assert after.way.counters is before.way.counters
    kept = "resolver" in sections or "access" in sections
    assert (after.condition is before.condition) == kept


def test_members_of_groups_are_watched(shop: Workshop) -> None:
    def watched(**sections: Any) -> dict[str, tuple[bool, bool]]:
        backends = shop.adopt(**sections).backends
        return {n: (b.condition.watched, b.condition.passive) for n, b in backends.items()}

    plain, tcp = item("plain"), {"type": "tcp", "target": "192.0.2.1:80"}
    checked = item("checked", health=tcp)
    group = item("some", "group", members=["plain", "checked", "no"])
    backends = [plain, checked, item("no", "block")]
    expected = {"checked": (True, False), "no": (False, False), "direct": (False, False)}
    assert watched(backends=backends) == expected | {"plain": (False, False)}
    assert watched(backends=[*backends, group]) == expected | {
        "plain": (True, True),
        "some": (False, False),
    }


def test_the_condition_of_an_unchanged_backend_is_kept(shop: Workshop) -> None:
    backends = [item("a", health=PASSIVE | {"fall": 1}), item("b", health=PASSIVE)]
    before = shop.adopt(backends=backends).backends["a"].condition
    before.dial_failed("", "x.test:80", shop.dispatcher.now)
    assert before.state == DOWN
    backends[1] = item("b", "block")
    assert shop.adopt(backends=backends).backends["a"].condition is before
    backends[0] = item("a", health=PASSIVE | {"fall": 2})
    fresh = shop.adopt(backends=backends).backends["a"].condition
    assert (fresh.state, fresh.fall) == (UP, 2)


def test_groups_follow_their_members_even_into_new_rules(shop: Workshop) -> None:
    fragile = PASSIVE | {"fall": 1}
    backends = [
        item("outer", "group", members=["inner"]),
        item("inner", "group", members=["a", "b"]),
        item("a", health=fragile),
        item("b", health=fragile),
    ]
    policy = shop.adopt(backends=backends)

    def fail(name: str) -> None:
        shop.told.clear()
        policy.backends[name].condition.dial_failed("", "x.test:80", shop.dispatcher.now)

    fail("a")
    assert shop.told == [("a", DOWN)]  # the groups have b
    fail("b")
    assert shop.told == [("b", DOWN), ("inner", DOWN), ("outer", DOWN)]
    shop.told.clear()
    policy = shop.adopt(backends=[*backends[:3], item("b")])
    assert shop.told == [("inner", UP), ("outer", UP)]
    fail("b")
    assert shop.told == [("b", SUSPECT), ("inner", SUSPECT), ("outer", SUSPECT)]


def test_rules_that_come_to_nothing_leave_nothing(shop: Workshop) -> None:
    sections: dict[str, Any] = {
        "backends": [LO, item("some", "group", members=["lo"])],
        "users": [{"name": "me", "password_hash": str(hash_of(b"sesame"))}],
    }
    policy = shop.adopt(**sections)
    before = len(shop.dispatcher.deadlines)
    changed = sections | {"backends": [LO, NOWHERE | {"resolver": ["127.0.0.1:9"]}], "users": []}
    _, aside = shop.aside(changed)
    assert len(shop.dispatcher.deadlines) > before
    shop.told.clear()
    shop.builder.retire(aside, policy)
    assert len(shop.dispatcher.deadlines) == before
    condition = policy.backends["lo"].condition
    condition.absent("", shop.dispatcher.now)
    assert shop.told == [("lo", WAITING), ("some", WAITING)]  # groups follow as before
    condition.present(shop.dispatcher.now)


def test_counters_outlive_backends_that_carry_something(shop: Workshop) -> None:
    def counters(policy: Policy) -> dict[str, object]:
        return {n: b.carriers(OWN)[0].counters for n, b in policy.backends.items()}

    both = [item("idle", "block"), item("busy", "block")]
    before = counters(shop.adopt(backends=both))
    busy = before["busy"]
    assert isinstance(busy, build.Counters)
    busy.active = 1
    shop.adopt()
    after = counters(shop.adopt(backends=both))
    assert after["busy"] is busy
    assert after["idle"] is not before["idle"]
    assert after["direct"] is before["direct"]
