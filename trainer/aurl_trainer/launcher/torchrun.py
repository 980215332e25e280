"""The command of the launcher's child, and its environment: torchrun for training, or the preparation."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping, Sequence

from aurl_trainer.contract import LaunchRole, Variable
from aurl_trainer.launcher.environment import LaunchEnvironment
from aurl_trainer.launcher.rundir import AGENT_FILE
from aurl_trainer.system import cgroup

AGENT_MODULE = "aurl_trainer.launcher.agent"
PREPARE_MODULE = "aurl_trainer.launcher.prepare"


def child_command(environment: LaunchEnvironment, role: LaunchRole, rank_command: Sequence[str]) -> list[str]:
    """Return the command of the child; `rank_command` is what torchrun starts for each rank."""
    if role == "prepare":
        return [sys.executable, "-m", PREPARE_MODULE]
    result = str(environment.run_dir / AGENT_FILE)
    return [sys.executable, "-m", AGENT_MODULE, result, *torchrun_arguments(environment), *rank_command]


def child_environment(environment: LaunchEnvironment, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the child; `variables`, those of the launcher, win over the defaults."""
    defaults = {
        "OMP_NUM_THREADS": str(cgroup.threads_per_rank(environment.procs_per_node)),
        # Ranks are numbered by node rank and local rank, not by the order in which they arrive.
        "TORCH_ELASTIC_WORKER_IDENTICAL": "1",
        "PYTHONUNBUFFERED": "1",
        # After one rank has failed the others have nothing to save; torchrun would wait 30 s for them.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5",
    }
    if environment.num_nodes == 1 and sys.platform == "linux":
        # Otherwise Gloo looks up the host's own name, which may not resolve.
        defaults["GLOO_SOCKET_IFNAME"] = "lo"
    return {
        **defaults,
        **variables,
        Variable.RUN_DIR: str(environment.run_dir),
        Variable.JOB_DIR: str(environment.job_dir),
    }


def torchrun_arguments(environment: LaunchEnvironment) -> list[str]:
    """Return torchrun's arguments for this node: static ranks, a rendezvous without DNS, no restarts."""
    arguments = [
        f"--nnodes={environment.num_nodes}",
        f"--nproc-per-node={environment.procs_per_node}",
        f"--node-rank={environment.node_rank}",
        "--rdzv-backend=static",
        f"--rdzv-endpoint={rendezvous_endpoint(environment)}",
        f"--rdzv-conf=is_host={int(environment.node_rank == 0)}",
        f"--rdzv-id={environment.job_uid}-{environment.attempt}",
        "--max-restarts=0",
    ]
    if environment.local_address is not None:
        # Otherwise agents advertise pod names, which do not resolve.
        arguments.append(f"--local-addr={environment.local_address}")
    return arguments


def rendezvous_endpoint(environment: LaunchEnvironment) -> str:
    """Return the address of the rendezvous store as this node reaches it.

    Node 0 hosts the store and uses loopback: reaching itself through its Service needs hairpin NAT, which
    some network plugins lack.
    """
    if environment.rendezvous is None:
        return f"127.0.0.1:{_free_port()}"
    if environment.node_rank != 0:
        return environment.rendezvous
    host, _, port = environment.rendezvous.rpartition(":")
    return f"[::1]:{port}" if host.startswith("[") else f"127.0.0.1:{port}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
