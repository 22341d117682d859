"""The benchmark: bifrost-lite against its peers on loopback, `python -m bench`.

All figures come from one run, because two runs differ more than two good proxies do. What is
compared is run close together in time: a round goes through all loads in random order, and
through all targets of a load in random order. Ratios are made within a round; the median
over the rounds counts.

Each sample has a fresh process of the proxy on one core, and the generator and its origin
on another (lg.c), in a network namespace of its own where that is allowed. It waits for a quiet
machine, and does not count when other programs used more than 15 % of a core meanwhile.

The CPU of a proxy is the clock of its processes over the whole run of the generator, ended
threads included, divided by all bytes or connections of that run. Work that the kernel does
in the proxy's system calls is in it, so a proxy that wakes receivers often pays for that.

Relays with one fixed destination (haproxy, crelay) do no proxy handshake: one or two round
trips less per connection. They are a limit there, not peers.

build: what has to be made first. targets: who is measured. cases: what is measured.
process, machine, measure, lookups, imports: how. goals: what must be reached. report: what is
said.
"""
