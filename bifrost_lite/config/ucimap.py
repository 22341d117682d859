"""The configuration as OpenWrt's UCI says it: `/etc/config/bifrost` to settings, and back.

The schema is the one of TOML; only its shape differs. A section of UCI has one of the types in
`TYPES`; the tables that are there once have a section named after its type. ``[backends.health]
interval`` is ``option health_interval``, a list that is empty is ``list x '-'``, and where the
name of an entry is not said it is that of its section. Some defaults are a router's: `DEFAULTS`.

    main.enabled    whether the init script starts the daemon; not part of the settings
    @lan            an address to listen on, ``@lan:7082`` for the control, ``@wan`` as a device:
                    of the network with that name, see `interfaces`. One that is not there has
                    no address, so nobody listens there, and no device, so the backend waits.
    option address '-'    no listener; without any section `listen` there are two on loopback
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args, get_origin

from msgspec import structs

from ..errors import ConfigError, Fault
from . import schema
from .convert import convert
from .faults import MAX_FAULTS, Path, place, shown
from .interfaces import Interfaces
from .kinds import unwrap
from .uci import Option, Package, Section, UciError, parse

# Where the sections of each type stand in the settings. Those of `LISTS` may be there often.
TYPES: dict[str, tuple[str, ...]] = {
    "main": (),
    "log": ("log",),
    "listen": ("listen",),
    "backend": ("backends",),
    "route": ("routes",),
    "user": ("users",),
    "access": ("access",),
    "limits": ("limits",),
    "http": ("http",),
    "resolver": ("resolver",),
    "control": ("control",),
    "pac": ("pac",),
    "mesh": ("mesh",),
    "mesh_network": ("mesh", "networks"),
}
LISTS: dict[str, type[schema.Section]] = {
    "listen": schema.Listen,
    "backend": schema.Backend,
    "route": schema.Route,
    "user": schema.User,
    "mesh_network": schema.MeshNetwork,
}
# A router has little memory, and whoever does not know of a service shall not offer it.
DEFAULTS: dict[tuple[str, str], object] = {
    ("control", "listen"): ("127.0.0.1:7082",),
    ("control", "max_clients"): 5,
    ("pac", "enabled"): False,
}
NONE = "-"
HEALTH = "health_"
_YES = ("1", "on", "true", "yes", "enabled")
_NO = ("0", "off", "false", "no", "disabled")
_BOOLEAN = "expected 1 or 0 (or on, off, true, false, yes, no, enabled, disabled)"
_NAME_OF_DEVICE = "expected the name of a network device"
_ADDRESS = ', or "@" and the name of a network: "@lan"'
# What may name a network, and what a fault there adds.
NETWORKED = {
    ("listen", "address"): f'{_ADDRESS}, or "-" for none',
    ("control", "listen"): f"{_ADDRESS[:-1]}:7082\"",
    ("backend", "device"): f"{_ADDRESS[:-4]}wan\"",
    ("mesh_network", "device"): f"{_ADDRESS[:-4]}wan\"",
}  # fmt: skip
_network = re.compile(r"@([A-Za-z0-9_]+)(?::([0-9]{1,5}))?").fullmatch
_DEVICE = 15  # characters, IFNAMSIZ less the NUL

_whole = re.compile(r"-?(?:[0-9]{1,20}|0[xX][0-9A-Fa-f]{1,16})").fullmatch
_decimal = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,30})?(?:[eE][-+]?[0-9]{1,3})?").fullmatch
_index = re.compile(r"\[[0-9]+\]$")
_entry = re.compile(r"(control\.)?\b(mesh\.networks|listen|backends|routes|users)(\[[0-9]+\])")


def keys(kind: str) -> dict[str, tuple[tuple[str, ...], structs.FieldInfo]]:
    """The options of a section of this type: where each is in its table, and the schema's field.

    Those of `backend` are of all its types; `main` has ``enabled`` besides.
    """
    found: dict[str, tuple[tuple[str, ...], structs.FieldInfo]] = {}
    for table in tables(kind):
        for field in structs.fields(table):
            if field.type is schema.Health:
                for below in structs.fields(schema.Health):
                    found.setdefault(f"{HEALTH}{below.name}", (("health", below.name), below))
            elif not _holds_tables(field.type) and not (kind == "main" and field.name == "source"):
                found.setdefault(field.name, ((field.name,), field))
    return found


def tables(kind: str) -> list[type[schema.Section]]:
    """The classes of the tables that sections of this type stand for."""
    if kind == "backend":
        return [schema.Backend, *schema.BACKENDS.values()]
    if kind in LISTS:
        return [LISTS[kind]]
    default = schema.Settings()
    return [type(default if kind == "main" else getattr(default, kind))]


def _holds_tables(hint: object) -> bool:
    """Whether the annotation is of a table, or of a list of them."""
    plain = unwrap(hint)[0]
    inner = get_args(plain)[0] if get_origin(plain) is tuple else plain
    return isinstance(inner, type) and issubclass(inner, schema.Section)


def read(raw: bytes, name: str = "bifrost") -> Package:
    """The package in the bytes of a file.

    Raises:
        ConfigError: they are no UCI; one fault
    """
    try:
        return parse(raw, name)
    except UciError as error:
        message = f"is not UCI: {error.reason} (column {error.column})"
        raise ConfigError([Fault("", "", message, error.line)]) from None


def enabled(package: Package) -> bool | None:
    """``main.enabled``, off where it is not said; None where it makes no sense, or there is no
    section `main`, as in a file that was cut off."""
    main = package.find("main")
    if main is None or main.type != "main" or main.anonymous:
        return None
    option = main.get("enabled")
    if option is None:
        return False
    text = option.values[0].decode("utf-8", "replace")
    return text in _YES if text in (*_YES, *_NO) and not option.is_list else None


def names_networks(package: Package) -> bool:
    """Whether any option names one of OpenWrt's networks, so that `Interfaces` are needed."""
    return any(
        value.startswith(b"@")
        for section in package.sections
        for option in section.options
        if (section.type, option.name) in NETWORKED
        for value in option.values
    )


class Reading:
    """What a package says, taken apart; ask for its `settings`.

    Args:
        package: all of it
        interfaces: the networks that are up

    Attributes:
        enabled: see `enabled`
        data: what a TOML parser would give for the same configuration
    """

    def __init__(self, package: Package, interfaces: Interfaces) -> None:
        self.enabled = enabled(package)
        self.data: dict[str, object] = {"source": "uci"}
        self._interfaces = interfaces
        self._faults: list[Fault] = []
        # By the place of a fault in TOML: its section and option here, and the line.
        self._places: dict[tuple[str, str], tuple[str, str, int]] = {}
        self._heads: dict[str, tuple[str, str, int]] = {}
        self._known_bad: set[tuple[str, str]] = set()  # places whose fault is told already
        self._hints: dict[tuple[str, str], str] = {}
        self._keys: dict[str, dict[str, tuple[tuple[str, ...], structs.FieldInfo]]] = {}
        counts: dict[str, int] = {}
        for section in package.sections:
            number = counts[section.type] = counts.get(section.type, -1) + 1
            label = f"@{section.type}[{number}]" if section.anonymous else section.name
            self._section(section, label)
        for (table, key), value in DEFAULTS.items():
            plain = list(value) if isinstance(value, tuple) else value
            self._table((table,)).setdefault(key, plain)

    def settings(self) -> schema.Settings:
        """They.

        Raises:
            ConfigError: with all faults; their sections and fields are sections and options of
                UCI as ``uci`` would name them
        """
        faults = list(self._faults)
        settings = schema.Settings()
        try:
            settings = convert(self.data)
        except ConfigError as error:
            bad = self._known_bad
            faults += self.told([fault for fault in error.faults if fault[:2] not in bad])
        if faults:
            raise ConfigError(_ordered(faults))
        return settings

    def told(self, faults: Sequence[Fault]) -> list[Fault]:
        """Faults of the settings, at their places in UCI, each once."""
        return list(dict.fromkeys(map(self._at_home, faults)))

    def _at_home(self, fault: Fault) -> Fault:
        spot = (fault.section, fault.field)
        if spot == ("", ""):
            return fault  # how many there are besides
        whole = (fault.section, _index.sub("", fault.field))
        found = self._places.get(spot) or self._places.get(whole)
        if found is None:
            # What nobody wrote, so of a section that may not be there either.
            section, prefix, line = self._heads.get(fault.section, (fault.section, "", 0))
            found = section, prefix + whole[1], line
        message = self._in_words(fault.message)
        hint = self._hints.get(whole)
        if hint and "expected" in message:
            message += hint
        return Fault(found[0], found[1], message, found[2])

    def _in_words(self, message: str) -> str:
        """A message about TOML as one about UCI."""
        if message.endswith("expected true or false"):
            return message.replace("expected true or false", _BOOLEAN)
        if message.startswith("got "):
            return message  # it repeats what stood there
        message = message.replace("is not a key of", "is no option of")
        return _entry.sub(self._entry_name, message)

    def _entry_name(self, found: re.Match[str]) -> str:
        """What an entry of a list is called here."""
        if found[1]:
            return f"{found[1]}{found[2]}"
        head = self._heads.get(f"{found[2]}{found[3]}")
        return head[0] if head else found[0]

    # Taking apart.

    def _fault(self, section: str, option: str, message: str, line: int) -> None:
        if len(self._faults) <= MAX_FAULTS:
            self._faults.append(Fault(section, option, message, line))

    def _table(self, path: Path) -> dict[str, object]:
        """The table at a path of keys, made where it is not there."""
        table = self.data
        for key in path:
            below = table.setdefault(str(key), {})
            assert isinstance(below, dict)
            table = below
        return table

    def _section(self, section: Section, label: str) -> None:
        kind = section.type
        where = TYPES.get(kind)
        if where is None:
            message = f"got a section of type {shown(kind)}, expected one of {', '.join(TYPES)}"
            self._fault(label, "", message, section.line)
            return
        if kind not in LISTS and (section.anonymous or section.name != kind):
            message = f"expected its name to be its type: config {kind} '{kind}'"
            self._fault(label, "", message, section.line)
            return
        if kind not in self._keys:
            self._keys[kind] = keys(kind)
        texts = dict(self._texts(section, label))
        if kind == "main":
            self._main(texts.pop("enabled", None), section)
        if kind not in LISTS:
            self._fill(self._table(where), where, section, label, texts)
            return
        entries = self._table(where[:-1]).setdefault(where[-1], [])
        assert isinstance(entries, list)
        name = "id" if kind == "mesh_network" else "name"
        if not section.anonymous:
            texts.setdefault(name, section.name)
        for number, text in enumerate(self._addresses(texts) if kind == "listen" else [None], 1):
            if text is not None:
                texts["address"] = text
            own = dict(texts)
            if number > 1 and isinstance(texts.get(name), str):
                own[name] = f"{texts[name]}-{number}"
            entry: dict[str, object] = {}
            self._fill(entry, (*where, len(entries)), section, label, own)
            entries.append(entry)

    def _texts(self, section: Section, label: str) -> Iterator[tuple[str, str | list[str] | None]]:
        """The options of a section as text; None for those that have a fault already."""
        known = self._keys[section.type]
        for option in section.options:
            name = option.name
            if section.type == "main" and name == "enabled":
                listed = False
            elif name not in known:
                names = [*(["enabled"] if section.type == "main" else []), *known]
                message = f"is no option of a section {section.type}, expected {', '.join(names)}"
                self._fault(label, name, message, option.line)
                continue
            else:
                listed = get_origin(unwrap(known[name][1].type)[0]) is tuple
            try:
                texts = [value.decode() for value in option.values]
            except UnicodeDecodeError:
                self._fault(label, name, "is not UTF-8", _line_of_bad(option))
                yield name, None
                continue
            if listed and not option.is_list:
                self._fault(label, name, f"is a list: write list {name} '...'", option.line)
                yield name, None
            elif option.is_list and not listed:
                self._fault(label, name, f"is no list: write option {name} '...'", option.line)
                yield name, None
            else:
                yield name, texts if listed else texts[0]

    def _main(self, text: str | list[str] | None, section: Section) -> None:
        option = section.get("enabled")
        if option and self.enabled is None and text is not None:
            self._fault("main", "enabled", f"got {shown(text)}, {_BOOLEAN}", option.line)

    def _addresses(self, texts: Mapping[str, str | list[str] | None]) -> list[str | None]:
        """Where the listener of a section listens; one None where that is the default."""
        text = texts.get("address")
        if text == NONE:
            return []
        found = _network(text) if isinstance(text, str) else None
        if found is None or found[2]:
            return [None]
        network = self._interfaces.get(found[1])
        return list(network.addresses) if network else []

    def _fill(
        self,
        table: dict[str, object],
        path: Path,
        section: Section,
        label: str,
        texts: Mapping[str, str | list[str] | None],
    ) -> None:
        """Put the options of a section into its table, and note where they are from."""
        known = self._keys[section.type]
        head = ".".join(part for part in place(path) if part)
        self._heads[head] = (label, "", section.line)
        if section.type == "backend":
            self._heads[f"{head}.health"] = (label, HEALTH, section.line)
        for name, text in texts.items():
            below, field = known[name]
            option = section.get(name)
            line = option.line if option else section.line
            spot = place((*path, *below))
            self._places[spot] = (label, name, line)
            hint = NETWORKED.get((section.type, name))
            if hint:
                self._hints[spot] = hint
            value = self._value(section.type, name, text, field.type) if text is not None else None
            if value is None:
                # The schema takes no None anywhere, so no rule judges by a default instead.
                self._known_bad.add(spot)
                if text is not None:
                    self._fault(label, name, f"got {shown(text)}, {_NAME_OF_DEVICE}{hint}", line)
            elif option and isinstance(value, list) and len(value) == len(option.lines):
                for index, number in enumerate(option.lines):
                    self._places[place((*path, *below, index))] = (label, name, number)
            inner = table
            for key in below[:-1]:
                inner = inner.setdefault(key, {})  # type: ignore[assignment]
            inner[below[-1]] = value

    def _value(self, kind: str, name: str, text: str | list[str], hint: object) -> object:
        """An option as a TOML parser would have given it; what makes no sense stays text, or is
        None where even the schema would take that."""
        plain, metas = unwrap(hint)
        if isinstance(text, list):
            entries = [] if text == [NONE] else text
            if (kind, name) == ("control", "listen"):
                entries = [one for entry in entries for one in self._endpoints(entry)]
            inner = get_args(plain)[0]
            return [_scalar(entry, *unwrap(inner)) for entry in entries]
        if (kind, name) in NETWORKED and name == "device":
            return self._device(text)
        return _scalar(text, plain, metas)

    def _endpoints(self, text: str) -> list[str]:
        found = _network(text)
        if found is None or not found[2]:
            return [text]
        network = self._interfaces.get(found[1])
        return [
            f"[{one}]:{found[2]}" if ":" in one else f"{one}:{found[2]}"
            for one in (network.addresses if network else ())
        ]

    def _device(self, text: str) -> str | None:
        """The device of a network, None for what names none. While there is no device it goes by
        the network's own name, which is that of no device: whoever needs it waits."""
        if not text.startswith("@"):
            return text
        found = _network(text)
        if found is None or found[2]:
            return None
        network = self._interfaces.get(found[1])
        return (network.device if network else "") or text[:_DEVICE]


def _line_of_bad(option: Option) -> int:
    for value, line in zip(option.values, option.lines, strict=True):
        if value.decode("utf-8", "replace").encode() != value:
            return line
    return option.line


def _scalar(text: str, hint: object, metas: tuple[object, ...]) -> object:
    if hint is bool and text in (*_YES, *_NO):
        return text in _YES
    if hint is int and _whole(text):
        return int(text, 16 if "x" in text.lower() else 10)
    if hint is float and _decimal(text):
        return float(text) if any(sign in text for sign in ".eE") else int(text)
    return text


def _ordered(faults: list[Fault]) -> list[Fault]:
    """By line, those without one last; no more than a person reads."""
    faults.sort(key=lambda fault: (not fault.line, fault.line))
    if len(faults) <= MAX_FAULTS:
        return faults
    return [*faults[:MAX_FAULTS], Fault("", "", "and more faults")]
