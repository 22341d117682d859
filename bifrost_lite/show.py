"""Text for a terminal: tables, sizes, events, log entries.

Host names, client addresses and messages are other people's words. A terminal obeys control
characters and turns text around at bidirectional marks, so nothing leaves here unescaped.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from .errors import Fault

_plain = re.compile(r"[ -~]*").fullmatch
Object = dict[str, object]

CUT = 20  # characters of a text that are left at least


def printable(text: str) -> str:
    """`text` with everything escaped that does not simply show: controls, marks, surrogates."""
    if _plain(text):
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def objects(rows: object) -> list[Object]:
    """The objects in what should be a list of them."""
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def json_text(value: object) -> str:
    """One line of JSON, as harmless as `printable`, and still JSON."""
    text = msgspec.json.encode(value).decode()
    if _plain(text):
        return text
    # What does not show stands within strings only, and there \\u is the escape (RFC 8259).
    return "".join(char if char.isprintable() else _json_escape(char) for char in text)


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def size(count: float) -> str:
    """Bytes for people: ``517 B``, ``4.2 KiB``."""
    if count < 1024:
        return f"{count:.0f} B"
    unit = "KiB"
    count /= 1024
    for larger in ("MiB", "GiB", "TiB", "PiB"):
        if count < 1023.95:
            break
        count /= 1024
        unit = larger
    return f"{count:.1f} {unit}"


def span(seconds: float) -> str:
    """A length of time for people: ``0.3 s``, ``42 s``, ``5 m 02 s``, ``2 d 01 h``."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} m"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Collection[int] = (),
    spare: Sequence[int] = (),
    width: int = 0,
) -> str:
    """Aligned columns, two spaces apart.

    Args:
        head: their headings, () for none
        rows: the cells
        right: numbers of those that are flush right: they are never cut
        spare: of those that may be left out where there is no room, the first one first
        width: characters that a line may have; 0 for any number
    """
    lines = [tuple(head)] if head else []
    lines += [tuple(printable(cell) for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [*range(len(widths))]
    if width:
        least = [full if at in right else min(full, CUT) for at, full in enumerate(widths)]
        for column in spare:
            if _across(shown, least) > width:
                shown.remove(column)
        while _across(shown, widths) > width:
            widest = max(shown, key=lambda at: widths[at] - least[at])
            if widths[widest] == least[widest]:
                break  # the terminal will have to break the lines
            widths[widest] -= 1
    return "\n".join(
        "  ".join(
            cell.rjust(widths[at]) if at in right else cut(cell, widths[at]).ljust(widths[at])
            for at, cell in enumerate(line)
            if at in shown
        ).rstrip()
        for line in lines
    )


def listing(rows: object, columns: Mapping[str, str], spare: str = "", width: int = 0) -> str:
    """Objects of an answer as a table; numbers are flush right.

    Args:
        rows: what should be a list of them
        columns: the key of each by its heading
        spare: headings of the columns that may be left out, the first one first
        width: as for `table`
    """
    found = objects(rows)
    head, keys = [*columns], [*columns.values()]
    numbers = {key for row in found for key in keys if isinstance(row.get(key), int | float)}
    right = [at for at, key in enumerate(keys) if key in numbers]
    cells = ([value(row.get(key), key) for key in keys] for row in found)
    return table(head, cells, right, [head.index(name) for name in spare.split()], width)


def _across(columns: Sequence[int], widths: Sequence[int]) -> int:
    """How long a line with these columns is."""
    return sum(widths[at] for at in columns) + 2 * max(len(columns) - 1, 0)


def cut(text: str, width: int) -> str:
    """`text` in no more than `width` characters, two at least. Of a sentence the end is left
    out; of a name the middle, for the end of a host name says whose it is."""
    if len(text) <= width:
        return text
    end = 0 if " " in text else (width - 2) // 2
    return f"{text[: width - 2 - end]}..{text[len(text) - end :]}"


def value(data: object, key: str = "") -> str:
    """Any value of an answer; `key` tells what kind of number it is."""
    if isinstance(data, bool):
        return "yes" if data else "no"
    if data is None or data == "":
        return "-"
    if isinstance(data, int | float):
        if key.startswith("bytes_") or key == "memory_rss":
            return size(data)
        if key in ("uptime", "age"):
            return span(data)
        if key == "duration_ms" and data >= 1000:
            return span(data / 1000)
        if key.endswith("_ms"):
            return f"{data:g} ms"
        return str(data)
    if isinstance(data, list):
        return ", ".join(value(item) for item in data) or "-"
    if isinstance(data, Mapping):
        return " ".join(f"{printable(str(name))}={_word(data[name])}" for name in data) or "-"
    return printable(str(data))


def _word(data: object) -> str:
    """A value behind its key: text that could pass for another key and its value is quoted."""
    text = value(data)
    if isinstance(data, str) and any(char in text for char in ' ="'):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


def pairs(data: Mapping[str, object]) -> str:
    """An object of an answer, a key a line; of an object in it the keys follow the name."""
    rows: list[tuple[str, str]] = []

    def add(prefix: str, data: Mapping[str, object]) -> None:
        for key, item in data.items():
            if isinstance(item, Mapping) and item.keys() == {"count", "max"}:
                rows.append((prefix + key, f"{value(item['count'])} of {value(item['max'])}"))
            elif isinstance(item, Mapping):
                add(f"{prefix}{key}.", item)
            elif isinstance(item, list) and any(isinstance(part, Mapping) for part in item):
                rows.extend((f"{prefix}{key}", value(part)) for part in item)
            else:
                rows.append((prefix + key, value(item, key)))

    add("", data)
    return table((), rows)


def status(answer: Object) -> str:
    """How the daemon is, in brief: it should fit a screen."""
    shown = dict(answer)
    shown["listeners"] = [
        f"{row.get('name')} {_place(row.get('address'), row.get('port'))}"
        + (" (closed)" if row.get("open") is False else "")
        for row in objects(answer.get("listeners"))
    ]
    shown["config_errors"] = _faults(answer.get("config_errors"))
    stats = answer.get("stats")
    if isinstance(stats, dict):
        shown["stats"] = {key: stats[key] for key in stats if key not in ("backends", "time")}
        backends = stats.get("backends")
        if isinstance(backends, dict):
            total, healthy = value(backends.get("total")), value(backends.get("healthy"))
            shown["backends"] = f"{healthy} of {total} are healthy"
    return pairs(shown)


def _faults(rows: object) -> str:
    """The faults of a configuration, not escaped; each as `errors.Fault` is told everywhere."""

    def get(row: Object, key: str) -> str:
        return str(row.get(key, ""))

    return "; ".join(
        str(Fault(get(row, "section"), get(row, "field"), get(row, "message")))
        for row in objects(rows)
    )


def route(answer: Object) -> str:
    """What a request would meet: where it would go, or why not; then all routes with theirs."""
    where = _place(answer.get("host"), answer.get("port"))
    told = f"{printable(where)} for {value(answer.get('client_ip'))}"
    if answer.get("allowed") is not True:
        lines = [f"{told} is refused: {value(answer.get('message'))}"]
    else:
        lines = [f"{told} takes the route {value(answer.get('route'))}."]
    backend = answer.get("backend")
    if isinstance(backend, dict):
        lines.append(f"Backend: {_state(backend)}")
        ways = objects(answer.get("carriers"))
        if [way.get("name") for way in ways] != [backend.get("name")]:
            lines += [f"  {at}. {_state(way)}" for at, way in enumerate(ways, 1)]
            lines += [f"  -  {_state(way)}" for way in objects(answer.get("others"))]
    rows = [
        [value(row.get(key)) for key in ("route", "backend", "pattern", "why")]
        for row in objects(answer.get("candidates"))
    ]
    return "\n".join([*lines, "", table(("ROUTE", "BACKEND", "MATCHES", "WHY"), rows)])


def _state(backend: Object) -> str:
    name, kind, state, reason = (
        value(backend.get(key)) for key in ("name", "type", "state", "reason")
    )
    return f"{name} ({kind}) is {state}: {reason}"


def trial(answer: Object) -> str:
    """How the test of a backend went."""
    name, carrier, target = (value(answer.get(key)) for key in ("backend", "carrier", "target"))
    over = f" over {carrier}" if carrier != name else ""
    took = value(answer.get("latency_ms"), "latency_ms")
    said = value(answer.get("message"))
    if answer.get("ok") is True:
        return f"{name} reaches {target}{over} in {took}. {said}"
    reason = value(answer.get("reason"))
    return f"{name} does not reach {target}{over}: {reason} after {took}. {said}"


def endpoints(data: object) -> list[str]:
    """Where a peer of a mesh can be reached."""
    rows = objects(data)
    return [f"{_place(row.get('address'), row.get('port'))} ({row.get('type')})" for row in rows]


def _place(host: object, port: object) -> str:
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def change(answer: Object) -> str:
    """What a reload did, in sentences."""
    sections = answer.get("changed_sections")
    lines = [f"Changed: {value(sections)}." if sections else "Nothing changed."]
    if answer.get("requires_restart") is True:
        lines.append("Some of it takes effect with a restart of the daemon only.")
    numbers = {key: value(answer.get(key)) for key in ("kept", "moved", "denied", "closed")}
    lines.append(f"Connections: {numbers['kept']} go on, {numbers['closed']} were closed.")
    if numbers["moved"] not in ("-", "0"):
        lines.append(f"{numbers['moved']} of them would take another backend if they began now.")
    if numbers["denied"] not in ("-", "0", numbers["closed"]):
        lines.append(
            f"{numbers['denied']} of them the new rules would refuse; --enforce closes those."
        )
    return "\n".join(lines)


def event(message: Object) -> str:
    """An event as one line."""
    kind = str(message.get("type", ""))
    data = message.get("data")
    told = _tell(kind, data) if isinstance(data, dict) else value(data)
    return f"{value(message.get('timestamp'))}  {printable(kind):<17}  {told}"


def _tell(kind: str, data: Object) -> str:
    def get(key: str) -> str:
        return value(data.get(key), key)

    if kind.startswith("connection."):
        who = f"#{get('id')} {get('protocol')} {get('host')} via {get('backend')}"
        who += f" for {get('client_ip')}"
        if kind == "connection.failed":
            return f"{who}: {get('reason')}"
        if kind == "connection.close":
            lived = data.get("duration_ms")
            took = span(lived / 1000) if isinstance(lived, int) else "-"
            return (
                f"{who}: {get('reason')} after {took}, "
                f"sent {get('bytes_sent')}, received {get('bytes_received')}"
            )
        return f"{who} (route {get('route')})"
    if kind == "stats.update":
        return (
            f"{get('active_connections')} open of {get('total_connections')}, "
            f"sent {get('bytes_sent')}, received {get('bytes_received')}"
        )
    if kind == "backend.health":
        return f"{get('name')} is {get('state')}: {get('reason')}"
    if kind in ("config.reload", "config.saved"):
        restart = " (needs a restart)" if data.get("requires_restart") is True else ""
        return get("changed_sections") + restart
    if kind == "config.rejected":
        return value(_faults(data.get("errors")))
    if kind.startswith("peer.") and "endpoints" in data:
        return value({**data, "endpoints": endpoints(data["endpoints"])})
    if kind == "events.lost":
        lost = "nobody knows how many" if data.get("lost") is None else get("lost")
        return f"events were lost: {lost}"
    return value(data)


def entry(message: Object) -> str:
    """A log entry as one line, with the fields that its message does not tell.

    A client chooses what its request is for, hence the message: a field is left out where the
    whole message is made of it, never because its value stands somewhere in there.
    """
    told = value(message.get("message"))
    line = f"{value(message.get('timestamp'))}  {value(message.get('level')):<5}  {told}"
    fields = message.get("fields")
    if not isinstance(fields, dict):
        return line
    more = {key: item for key, item in fields.items() if item not in (None, "")}
    if more.get("action") == more.get("backend"):
        more.pop("action", None)  # the same, under the name that Bifrost's clients know
    method, url = value(more.get("method")), value(more.get("url"))
    if told in (f"{method} {url}", f"{method} http://{url}"):
        if more.get("host") == more.get("url"):
            more.pop("host", None)
        more.pop("method", None)
        more.pop("url", None)
    return f"{line}  {value(more)}" if more else line
