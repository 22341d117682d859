"""The one schema of the configuration: names, types, ranges, defaults, units, meaning.

`Settings()` is the built-in configuration. Attribute names are the keys of the file, lists are
tuples, durations are seconds. What a key may be stands in its annotation, made of `kinds`; it
stays text until somebody reads it through `msgspec.structs.fields`, so a running daemon
carries none of that.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Struct

from .kinds import (
    SHORTEST,
    WEEK,
    Address,
    Authority,
    Device,
    Domain,
    Endpoint,
    Host,
    Identifier,
    Label,
    Name,
    Network,
    Origin,
    PasswordHash,
    Port,
    Seconds,
    Server,
    Status,
    Token,
    Weight,
    about,
)


class Section(Struct, frozen=True, kw_only=True):
    """A table of the file."""


class Log(Section, frozen=True, kw_only=True):
    """What is remembered, and what is written to the system log."""

    level: Annotated[
        Literal["debug", "info", "warn", "error"], about("The least grave entries that are kept.")
    ] = "info"
    ring: Annotated[int, about("Log entries kept in memory for readers.", ge=1, le=10000)] = 200
    access: Annotated[
        bool, about("Whether each finished request is an entry, in the ring and for its readers.")
    ] = True
    access_syslog: Annotated[bool, about("Whether those entries go to the system log too.")] = False
    requests: Annotated[
        int, about("Finished requests kept in memory; 0 keeps none.", ge=0, le=10000)
    ] = 100


class Listen(Section, frozen=True, kw_only=True):
    """A listener for the clients of the proxy."""

    name: Annotated[
        Name, about("Its name in the status; without one `listen-1`, `listen-2` and so on.")
    ] = ""
    address: Annotated[Address, about("The IPv4 or IPv6 address to listen on.")] = "127.0.0.1"
    port: Annotated[int, about("The port; 0 takes any free one.", ge=0, le=65535)] = 7080
    protocol: Annotated[
        Literal["auto", "http", "socks"],
        about("What clients may speak; with `auto` their first byte decides."),
    ] = "auto"
    auth: Annotated[
        bool, about("Whether clients must log in here, once there are `[[users]]`.")
    ] = True
    udp: Annotated[bool, about("Whether SOCKS5 clients may use UDP ASSOCIATE.")] = False


class Health(Section, frozen=True, kw_only=True):
    """How a backend is checked."""

    type: Annotated[
        Literal["none", "passive", "tcp", "http", "wireguard"],
        about("`passive` judges by real connections, the others ask through the backend."),
    ] = "none"
    target: Annotated[
        Label, about("What is asked: `host:port` for `tcp`, an `http://` address for `http`.")
    ] = ""
    expect: Annotated[
        tuple[Status, ...], about("The HTTP statuses that count as healthy.", most=32)
    ] = (200, 204)
    interval: Annotated[Seconds, about("Time between two checks.", ge=SHORTEST, le=WEEK)] = 60.0
    timeout: Annotated[Seconds, about("Time for one check.", ge=SHORTEST, le=300)] = 5.0
    fall: Annotated[int, about("Failures in a row until it is down.", ge=1, le=100)] = 3
    rise: Annotated[int, about("Successes in a row until it is up again.", ge=1, le=100)] = 2
    hold_down: Annotated[
        Seconds, about("The least time it stays down, against flapping.", ge=0, le=WEEK)
    ] = 30.0
    jitter: Annotated[
        float, about("The share of the interval by which checks are spread.", ge=0, le=0.5)
    ] = 0.1


class Backend(Section, frozen=True, kw_only=True):
    """A way to the targets; each type is a class of its own, with the keys that it knows."""

    name: Annotated[Name, about("What routes call it; without a name, its type.")] = ""
    type: Annotated[
        Literal["direct", "interface", "http_proxy", "socks5_proxy", "group", "block"],
        about("How it reaches a target."),
    ] = "direct"


class Dialing(Backend, frozen=True, kw_only=True):
    """A backend that opens connections itself."""

    connect_timeout: Annotated[
        Seconds,
        about("Time to open one connection, over all addresses.", ge=SHORTEST, le=300),
    ] = 10.0
    health: Health = Health()


class Direct(Dialing, frozen=True, kw_only=True):
    """Dials from this host."""

    name: Name = "direct"
    type: Literal["direct", "interface"] = "direct"
    source: Annotated[
        Address, about("The local address of its connections; empty: the system's choice.")
    ] = ""
    family: Annotated[
        Literal["auto", "4", "6", "prefer4"],
        about("Which addresses of a name are dialled; `auto` begins with IPv6."),
    ] = "auto"


class Interface(Direct, frozen=True, kw_only=True):
    """Dials through one network device."""

    name: Name = "interface"
    type: Literal["interface"] = "interface"
    device: Annotated[Device, about("The network device, such as `wg0`.")] = ""
    fwmark: Annotated[
        int, about("The firewall mark of its packets; 0 sets none.", ge=0, le=4294967295)
    ] = 0
    resolver: Annotated[
        tuple[Server, ...],
        about("Name servers asked through this device; empty: those of `[resolver]`.", most=8),
    ] = ()


class HttpProxy(Dialing, frozen=True, kw_only=True):
    """Goes through an HTTP proxy."""

    name: Name = "http_proxy"
    type: Literal["http_proxy", "socks5_proxy"] = "http_proxy"
    address: Annotated[Authority, about("The upstream proxy, `host:port`.")] = ""
    username: Annotated[Label, about("The user there; empty: no login.")] = ""
    password: Annotated[Label, about("That user's password.", secret=True)] = ""


class Socks5Proxy(HttpProxy, frozen=True, kw_only=True):
    """Goes through a SOCKS5 proxy."""

    name: Name = "socks5_proxy"
    type: Literal["socks5_proxy"] = "socks5_proxy"


class Group(Backend, frozen=True, kw_only=True):
    """Chooses among other backends."""

    name: Name = "group"
    type: Literal["group"] = "group"
    strategy: Annotated[
        Literal["failover", "round_robin", "least_conn", "ip_hash", "weighted"],
        about("How a member is chosen."),
    ] = "failover"
    members: Annotated[
        tuple[Name, ...], about("The names of its backends, in order of preference.", most=64)
    ] = ()
    weights: Annotated[
        tuple[Weight, ...], about("For `weighted`: one number for each member.", most=64)
    ] = ()


class Block(Backend, frozen=True, kw_only=True):
    """Refuses at once."""

    name: Name = "block"
    type: Literal["block"] = "block"


BACKENDS: dict[str, type[Backend]] = {
    "direct": Direct,
    "interface": Interface,
    "http_proxy": HttpProxy,
    "socks5_proxy": Socks5Proxy,
    "group": Group,
    "block": Block,
}


class Route(Section, frozen=True, kw_only=True):
    """Which targets and clients a backend serves.

    It matches if (`domains` or `cidrs`) and `ports` and `clients` match; what is absent or
    empty matches all.
    """

    name: Annotated[
        Name, about("Its name in events; without one `route-1`, `route-2` and so on.")
    ] = ""
    domains: Annotated[
        tuple[Domain, ...],
        about("Names: `a.example` itself, `*.a.example` below it, `.a.example` both, `*` all."),
    ] = ()
    list: Annotated[
        Label, about("A file of names and networks, beside the configuration or in its lists.")
    ] = ""
    cidrs: Annotated[
        tuple[Network, ...], about("Networks of targets that are addresses, never of names.")
    ] = ()
    ports: Annotated[tuple[Port, ...], about("Ports of targets.", most=1000)] = ()
    clients: Annotated[tuple[Network, ...], about("Addresses or networks of clients.")] = ()
    backend: Annotated[Name, about("The name of the backend that serves them.")] = ""
    priority: Annotated[
        int, about("The highest is asked first, equals in file order.", ge=-1000000, le=1000000)
    ] = 100
    enabled: Annotated[bool, about("Whether it takes part.")] = True


class Access(Section, frozen=True, kw_only=True):
    """Who may use the proxy, and to reach what."""

    allow: Annotated[
        tuple[Network, ...], about("Networks of clients that may; empty: everybody.", most=1000)
    ] = (
        "127.0.0.0/8",
        "::1/128",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "fc00::/7",
        "fe80::/10",
    )
    deny: Annotated[
        tuple[Network, ...], about("Networks of clients that may not, even if allowed.", most=1000)
    ] = ()
    allow_local: Annotated[
        bool, about("Whether clients reach loopback, link-local and this machine's addresses.")
    ] = False
    allow_open: Annotated[
        bool, about("Whether a public listener may run with neither `allow` nor users.")
    ] = False


class User(Section, frozen=True, kw_only=True):
    """A user of the proxy; one makes logging in mandatory where a listener has `auth`."""

    name: Annotated[Name, about("The name to log in with.")] = ""
    password_hash: Annotated[
        PasswordHash, about("What `bifrost-lite passwd` printed for the password.", secret=True)
    ] = ""


class Limits(Section, frozen=True, kw_only=True):
    """What bounds the proxy."""

    max_connections: Annotated[int, about("Clients' connections at one time.", ge=1, le=100000)] = (
        256
    )
    max_connections_per_client: Annotated[
        int, about("The same, of one client address.", ge=1, le=100000)
    ] = 64
    handshake_timeout: Annotated[
        Seconds, about("Time for a client to say what it wants.", ge=SHORTEST, le=300)
    ] = 10.0
    idle_timeout: Annotated[
        Seconds, about("Time a connection may lie still.", ge=SHORTEST, le=WEEK)
    ] = 7200.0


class Http(Section, frozen=True, kw_only=True):
    """How requests are forwarded."""

    via: Annotated[bool, about("Whether requests and answers get a `Via` field.")] = False


class Resolver(Section, frozen=True, kw_only=True):
    """How names become addresses."""

    mode: Annotated[
        Literal["stub", "system"],
        about("`stub` asks name servers itself, `system` leaves it to the C library."),
    ] = "stub"
    servers: Annotated[
        tuple[Server, ...],
        about("Name servers, an address or `address:port`; empty: /etc/resolv.conf.", most=8),
    ] = ()
    timeout: Annotated[
        Seconds, about("Time for one name, over all servers.", ge=SHORTEST, le=60)
    ] = 5.0


class Control(Section, frozen=True, kw_only=True):
    """The API, the event stream and the log stream."""

    listen: Annotated[
        tuple[Endpoint, ...],
        about("Where it listens, `address:port` each; port 0 takes any free one.", most=16),
    ] = ("127.0.0.1:7082", "127.0.0.1:7383")
    token: Annotated[
        Token, about("What a client must know; empty: nothing, and loopback only.", secret=True)
    ] = ""
    read_token: Annotated[
        Token, about("Opens what changes nothing; needs `token` too.", secret=True)
    ] = ""
    max_clients: Annotated[int, about("WebSocket clients at one time.", ge=1, le=10)] = 10
    max_subscribers: Annotated[int, about("Log streams at one time.", ge=1, le=10)] = 10
    read_timeout: Annotated[
        Seconds,
        about("A WebSocket client silent for so long is closed.", ge=SHORTEST, le=3600),
    ] = 60.0
    stats_interval: Annotated[
        Seconds, about("Time between two `stats.update` events; 0: none.", ge=0, le=3600)
    ] = 5.0
    trusted_origins: Annotated[
        tuple[Origin, ...], about("Web origins besides its own that may call.", most=64)
    ] = ()
    trusted_hosts: Annotated[
        tuple[Host, ...], about("Names besides its own that a `Host` field may say.", most=64)
    ] = ()
    allow_unauthenticated: Annotated[
        bool, about("Whether it may leave loopback without a `token`.")
    ] = False
    ubus: Annotated[
        Literal["auto", "on", "off"],
        about("Whether it is on ubus; `auto`: where ubusd runs."),
    ] = "auto"


class Pac(Section, frozen=True, kw_only=True):
    """Automatic configuration of browsers: /proxy.pac and /wpad.dat."""

    enabled: Annotated[bool, about("Whether the files are served.")] = True
    proxy: Annotated[
        Host, about("The host that browsers are sent to; empty: the one they asked.")
    ] = ""


class MeshNetwork(Section, frozen=True, kw_only=True):
    """A network that is there from the start; others are made by the API."""

    id: Annotated[Identifier, about("What the API calls it.")] = ""
    name: Annotated[Label, about("What people call it.")] = ""
    cidr: Annotated[Network, about("The network that peers get their addresses from.")] = ""
    source: Annotated[
        Literal["registry", "wireguard"],
        about("Who its peers are: those that register, or those of a WireGuard device."),
    ] = "registry"
    device: Annotated[Device, about("For `wireguard`: that device.")] = ""


class Mesh(Section, frozen=True, kw_only=True):
    """The registry of mesh networks."""

    enabled: Annotated[bool, about("Whether the mesh API is served.")] = True
    peer_timeout: Annotated[
        Seconds, about("A peer without a heartbeat for so long has left.", ge=1, le=WEEK)
    ] = 90.0
    join_token: Annotated[
        Token,
        about(
            "Opens registration and the events of networks, nothing else; empty: `token` does.",
            secret=True,
        ),
    ] = ""
    state: Annotated[
        Label, about("A file that keeps peers over a restart of the daemon; empty: none.")
    ] = ""
    networks: Annotated[tuple[MeshNetwork, ...], about("Networks made at start.", most=16)] = ()


# Sections whose change needs a new process.
RESTART_SECTIONS = frozenset(("control", "mesh"))


class Settings(Section, frozen=True, kw_only=True):
    """The whole configuration."""

    source: Annotated[
        Literal["file", "uci"], about("`uci` where OpenWrt's configuration is the master copy.")
    ] = "file"
    graceful_period: Annotated[
        Seconds, about("Time that connections get to end when the daemon stops.", ge=0, le=600)
    ] = 10.0
    log: Log = Log()
    listen: Annotated[tuple[Listen, ...], about("Listeners for clients.", most=64)] = (
        Listen(name="http", port=7080),
        Listen(name="socks", port=7180),
    )
    backends: Annotated[tuple[Backend, ...], about("Ways to the targets.", most=256)] = (Direct(),)
    routes: Annotated[tuple[Route, ...], about("Who is served by what.", most=10000)] = ()
    access: Access = Access()
    users: Annotated[tuple[User, ...], about("Users of the proxy.", most=256)] = ()
    limits: Limits = Limits()
    http: Http = Http()
    resolver: Resolver = Resolver()
    control: Control = Control()
    pac: Pac = Pac()
    mesh: Mesh = Mesh()
