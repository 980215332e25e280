"""Reads and checks the environment variables of a launcher."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aurl_trainer.contract import HTTP_PORT, Variable

DEFAULT_GRACE_SECONDS = 30.0
DEFAULT_LINGER_SECONDS = 10.0
TERMINATION_LOG = Path("/dev/termination-log")


class ContractError(Exception):
    """A variable is missing or malformed, or cannot be acted upon; the message says which and why."""


@dataclass(frozen=True)
class LaunchEnvironment:
    """The launcher's place in the job, as set by the operator or by the local command line.

    `grace_seconds` is the time between SIGTERM and SIGKILL, `linger_seconds` the time that the server stays
    up after a success so that the last values are scraped, `hang_seconds` the longest time without a new step
    (None: unlimited). `rendezvous` is `host:port`, or None for a single node.
    """

    job_name: str
    namespace: str
    job_uid: str
    attempt: int
    node_rank: int
    num_nodes: int
    procs_per_node: int
    rendezvous: str | None
    local_address: str | None
    config: Path
    volume: Path
    job_dir: Path
    run_dir: Path
    http_port: int
    grace_seconds: float
    linger_seconds: float
    hang_seconds: float | None
    termination_log: Path

    @property
    def world_size(self) -> int:
        """Number of ranks in the whole job."""
        return self.num_nodes * self.procs_per_node

    @property
    def local_ranks(self) -> range:
        """Global ranks of this node."""
        first = self.node_rank * self.procs_per_node
        return range(first, first + self.procs_per_node)


def read_environment(variables: Mapping[str, str]) -> LaunchEnvironment:
    """Return the checked variables; raises ContractError for the first one that is wrong."""
    num_nodes = _integer(variables, Variable.NUM_NODES, least=1, default=1)
    node_rank = _integer(variables, Variable.NODE_RANK, least=0, default=0 if num_nodes == 1 else None)
    if node_rank >= num_nodes:
        raise ContractError(
            f"AURL_NODE_RANK is {node_rank} but must be less than AURL_NUM_NODES, which is {num_nodes}."
        )
    rendezvous = variables.get(Variable.RDZV_ENDPOINT) or None
    if rendezvous is not None:
        _check_endpoint(rendezvous)
    elif num_nodes > 1:
        raise ContractError(
            "AURL_RDZV_ENDPOINT is not set; with more than one node it must be <address>:<port> of node 0."
        )
    job_name = variables.get(Variable.JOB_NAME) or "local"
    namespace = variables.get(Variable.JOB_NAMESPACE) or "local"
    volume = Path(_text(variables, Variable.VOLUME))
    run_dir = Path(_text(variables, Variable.RUN_DIR))
    local_address = variables.get(Variable.POD_IP) or None
    if local_address is not None:
        _check_address(local_address)
    return LaunchEnvironment(
        job_name=job_name,
        namespace=namespace,
        job_uid=variables.get(Variable.JOB_UID) or job_name,
        attempt=_integer(variables, Variable.ATTEMPT, least=0, default=0),
        node_rank=node_rank,
        num_nodes=num_nodes,
        procs_per_node=_integer(variables, Variable.NPROC_PER_NODE, least=1, default=1),
        rendezvous=rendezvous,
        local_address=local_address,
        config=Path(_text(variables, Variable.CONFIG)),
        volume=volume,
        job_dir=Path(variables.get(Variable.JOB_DIR) or volume / namespace / job_name),
        run_dir=run_dir,
        http_port=_integer(variables, Variable.HTTP_PORT, least=0, most=65535, default=HTTP_PORT),
        grace_seconds=_seconds(variables, Variable.GRACE_SECONDS, DEFAULT_GRACE_SECONDS),
        linger_seconds=_seconds(variables, Variable.LINGER_SECONDS, DEFAULT_LINGER_SECONDS),
        hang_seconds=_seconds(variables, Variable.HANG_SECONDS, 0) or None,
        termination_log=termination_log(variables) or run_dir / "termination-message.json",
    )


def _text(variables: Mapping[str, str], name: str) -> str:
    value = variables.get(name, "").strip()
    if not value:
        raise ContractError(f"{name} is not set; see docs/contracts.md for what the launcher needs.")
    return value


def _integer(
    variables: Mapping[str, str], name: str, *, least: int, most: int | None = None, default: int | None
) -> int:
    text = variables.get(name, "").strip()
    if not text:
        if default is None:
            raise ContractError(f"{name} is not set; it must be an integer of at least {least}.")
        return default
    bounds = f"an integer of at least {least}" if most is None else f"an integer between {least} and {most}"
    # int() alone would accept "1_0" and "٣".
    if (
        not (text.isascii() and text.lstrip("-").isdigit())
        or int(text) < least
        or (most is not None and int(text) > most)
    ):
        raise ContractError(f"{name} is {text!r} but must be {bounds}.")
    return int(text)


def _seconds(variables: Mapping[str, str], name: str, default: float) -> float:
    text = variables.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ContractError(f"{name} is {text!r} but must be a number of seconds, 0 or more.")
    return value


def _check_endpoint(endpoint: str) -> None:
    host, _, port = endpoint.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536 or (":" in host and not bracketed):
        raise ContractError(
            f"AURL_RDZV_ENDPOINT is {endpoint!r} but must be <address>:<port>, an IPv6 address in brackets."
        )


def _check_address(address: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise ContractError(f"AURL_POD_IP is {address!r} but must be an IP address.") from None


def termination_log(variables: Mapping[str, str]) -> Path | None:
    """Return the file of the termination message: as configured, else the kubelet's if that exists."""
    configured = variables.get(Variable.TERMINATION_LOG)
    if configured:
        return Path(configured)
    return TERMINATION_LOG if TERMINATION_LOG.exists() else None
