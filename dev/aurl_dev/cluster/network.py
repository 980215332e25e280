"""A network namespace per cluster: chooses free addresses, makes the namespace and takes it away again."""

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

# One lock for the machine, not for a state directory: the addresses are the machine's.
_LOCK = Path("/run/lock/aurl-network.lock")
_NETNS = Path("/run/netns")
BLOCK_PREFIX = 22
# Private ranges that home routers and clouds seldom use, and the benchmarking range as the last resort.
POOLS = (IPv4Network("10.192.0.0/12"), IPv4Network("172.24.0.0/14"), IPv4Network("198.18.0.0/15"))


@dataclass(frozen=True)
class Addresses:
    """What one cluster makes of its block: a link to the host, a range of services, a range of pods."""

    block: IPv4Network

    @property
    def host(self) -> IPv4Address:
        """The host's end of the link."""
        return self.block[1]

    @property
    def node(self) -> IPv4Address:
        """The cluster's end of the link, where its API server and node ports are."""
        return self.block[2]

    @property
    def link(self) -> IPv4Network:
        """The network of the link itself."""
        return IPv4Network((self.block[0], 30))

    @property
    def services(self) -> IPv4Network:
        """Where Services get their ClusterIPs."""
        return list(self.block.subnets(new_prefix=24))[1]

    @property
    def pods(self) -> IPv4Network:
        """Where pods get their addresses."""
        return list(self.block.subnets(new_prefix=23))[1]


def candidates() -> Iterator[IPv4Network]:
    """Yield every block that a cluster may have, the preferred ones first."""
    for pool in POOLS:
        yield from pool.subnets(new_prefix=BLOCK_PREFIX)


def choose_block(taken: Iterable[IPv4Network]) -> IPv4Network:
    """Return the first block that overlaps nothing that is taken."""
    used = list(taken)
    for block in candidates():
        if not any(block.overlaps(other) for other in used):
            return block
    raise MachineError("no free block of private addresses is left on this machine for another cluster")


def networks_in(routes: Sequence[dict[str, object]]) -> list[IPv4Network]:
    """Return the networks of `ip -json route`'s answer; the default route claims nothing."""
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
        """The name, as in `ip netns list`."""
        return f"aurl-{self.ident}"

    @property
    def path(self) -> Path:
        """The file that stands for the namespace."""
        return _NETNS / self.name

    @property
    def link(self) -> str:
        """The host's end of the link; interface names hold 15 characters."""
        return f"aurl-{self.ident[-6:]}"

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return the command that runs `argv` in this network, with the host's files."""
        return ["nsenter", f"--net={self.path}", "--", *map(str, argv)]

    def exists(self) -> bool:
        """Say whether the namespace is there (a plain file left over by a crash is not)."""
        return self.path.exists() and self.name in run(["ip", "netns", "list"]).split()

    def create(self, file: Path, echo: Echo) -> Addresses:
        """Make the namespace, anew, with the block noted in `file` or else with a free one."""
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
        # The host reaches pods and Services straight, through the cluster's own forwarding and kube-proxy.
        for network in (addresses.services, addresses.pods):
            run(["ip", "route", "add", str(network), "via", str(addresses.node), "dev", self.link])
        self.sysctl("net/ipv4/ip_forward", "1")

    def sysctl(self, key: str, value: str) -> None:
        """Set a network setting of the namespace (`/proc/sys/net` shows the caller's own network)."""
        run(self.command(["sh", "-c", f"echo {value} > /proc/sys/{key}"]))

    def remove(self) -> None:
        """Delete the namespace with all that is in it; the host's end and its routes go with it."""
        if (Path("/sys/class/net") / self.link).exists():
            run(["ip", "link", "delete", self.link])
        if self.path.exists():
            for _ in range(20):
                try:
                    run(["ip", "netns", "delete", self.name])
                    return
                except CommandError:
                    # Killed between making the file and mounting the namespace on it.
                    if not self.exists():
                        self.path.unlink(missing_ok=True)
                        return
                    time.sleep(0.1)
            raise MachineError(f"the network namespace {self.name} could not be deleted")


def read_addresses(file: Path) -> Addresses | None:
    """Return the addresses noted in `file`."""
    try:
        return Addresses(IPv4Network(file.read_text().strip()))
    except (FileNotFoundError, ValueError):
        return None
