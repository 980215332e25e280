"""A network namespace per cluster, with addresses that are free on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from aurl_dev.cluster.paths import Echo, lock
from aurl_dev.cluster.shell import run
from aurl_dev.errors import CommandError, MachineError

# One lock per machine, not per state directory: addresses belong to the machine.
_LOCK = Path("/run/lock/aurl-network.lock")
_NETNS = Path("/run/netns")
BLOCK_PREFIX = 22
# Private ranges that home routers and clouds seldom use; the benchmarking range (RFC 2544) comes last.
POOLS = (IPv4Network("10.192.0.0/12"), IPv4Network("172.24.0.0/14"), IPv4Network("198.18.0.0/15"))


@dataclass(frozen=True)
class Addresses:
    """A cluster's block, divided into a link to the host, a range for Services and a range for pods."""

    block: IPv4Network

    @property
    def host(self) -> IPv4Address:
        """The host's end of the link."""
        return self.block[1]

    @property
    def node(self) -> IPv4Address:
        """The cluster's end of the link, with its API server and node ports."""
        return self.block[2]

    @property
    def link(self) -> IPv4Network:
        """The network of the link itself."""
        return IPv4Network((self.block[0], 30))

    @property
    def services(self) -> IPv4Network:
        """The range of ClusterIPs."""
        return list(self.block.subnets(new_prefix=24))[1]

    @property
    def pods(self) -> IPv4Network:
        """The range of pod addresses."""
        return list(self.block.subnets(new_prefix=23))[1]


def candidates() -> Iterator[IPv4Network]:
    """Yield every block that a cluster may have, preferred ones first."""
    for pool in POOLS:
        yield from pool.subnets(new_prefix=BLOCK_PREFIX)


def choose_block(taken: Iterable[IPv4Network]) -> IPv4Network:
    """Return the first block that overlaps no network in `taken`."""
    used = list(taken)
    for block in candidates():
        if not any(block.overlaps(other) for other in used):
            return block
    raise MachineError("no block of private addresses is free on this machine; delete another cluster first")


def networks_in(routes: Sequence[dict[str, object]]) -> list[IPv4Network]:
    """Return the networks in the output of `ip -json route`, without the default route."""
    found = []
    for route in routes:
        destination = str(route.get("dst", "default"))
        if destination in {"default", "0.0.0.0/0"}:
            continue
        try:
            found.append(IPv4Network(destination, strict=False))
        except ValueError:
            continue
    return found


@dataclass(frozen=True)
class Namespace:
    """The named network namespace of one cluster, and its link to the host."""

    ident: str

    @property
    def name(self) -> str:
        """The name in `ip netns list`."""
        return f"aurl-{self.ident}"

    @property
    def path(self) -> Path:
        """The file that the namespace is bound to."""
        return _NETNS / self.name

    @property
    def link(self) -> str:
        """The host's end of the link; interface names hold 15 characters."""
        return f"aurl-{self.ident[-6:]}"

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return the command that runs `argv` in this network but with the host's files."""
        return ["nsenter", f"--net={self.path}", "--", *map(str, argv)]

    def exists(self) -> bool:
        """Return whether the namespace exists (not a plain file that a crash left)."""
        return self.path.exists() and self.name in run(["ip", "netns", "list"]).split()

    def create(self, file: Path, echo: Echo) -> Addresses:
        """Create the namespace again, with the block recorded in `file` or with a free one."""
        self.remove()
        with lock(_LOCK, "network addresses", echo):
            routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]")
            taken = networks_in(routes)
            noted = read_addresses(file)
            if noted is not None and not any(noted.block.overlaps(other) for other in taken):
                addresses = noted
            else:
                addresses = Addresses(choose_block(taken))
            self._create(addresses)
        file.write_text(f"{addresses.block}\n")
        return addresses

    def _create(self, addresses: Addresses) -> None:
        inside = ["ip", "-n", self.name]
        run(["ip", "netns", "add", self.name])
        run(["ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name])
        run(["ip", "address", "add", f"{addresses.host}/30", "dev", self.link])
        run(["ip", "link", "set", self.link, "up"])
        run([*inside, "link", "set", "lo", "up"])
        run([*inside, "address", "add", f"{addresses.node}/30", "dev", "eth0"])
        run([*inside, "link", "set", "eth0", "up"])
        run([*inside, "route", "add", "default", "via", str(addresses.host)])
        # The host reaches pods and Services directly, through the cluster's own forwarding and kube-proxy.
        for network in (addresses.services, addresses.pods):
            run(["ip", "route", "add", str(network), "via", str(addresses.node), "dev", self.link])
        self.sysctl("net/ipv4/ip_forward", "1")

    def sysctl(self, key: str, value: str) -> None:
        """Write a setting below /proc/sys, which shows the network of the process that opens it."""
        run(self.command(["sh", "-c", f"echo {value} > /proc/sys/{key}"]))

    def remove(self) -> None:
        """Delete the namespace and the host's end of the link, with its routes."""
        if (Path("/sys/class/net") / self.link).exists():
            run(["ip", "link", "delete", self.link])
        if self.path.exists():
            for _ in range(20):
                try:
                    run(["ip", "netns", "delete", self.name])
                    return
                except CommandError:
                    # An earlier run was killed before it mounted the namespace on the file.
                    if not self.exists():
                        self.path.unlink(missing_ok=True)
                        return
                    time.sleep(0.1)
            raise MachineError(f"cannot delete the network namespace {self.name}")


def read_addresses(file: Path) -> Addresses | None:
    """Return the addresses recorded in `file`."""
    try:
        return Addresses(IPv4Network(file.read_text().strip()))
    except (FileNotFoundError, ValueError):
        return None
