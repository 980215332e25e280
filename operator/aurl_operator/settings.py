"""The administrator's settings, each a flag and an environment variable; the flag wins."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aurl_operator import __version__
from aurl_operator.core.observed import Options
from aurl_operator.core.validation import ConfigCheck


@dataclass(frozen=True)
class Settings:
    """Settings of one operator process; times are in seconds.

    `lease` is a namespace and a name; None: this is the only replica. No `namespaces`: the whole cluster.
    No `webhook_certificates`: no webhook is served.
    """

    trainer_image: str
    trainer_image_pull_policy: str
    job_network_policy: bool
    namespaces: tuple[str, ...]
    progress_interval: float
    resync_interval: float
    workers: int
    http_port: int
    log_level: str
    lease: tuple[str, str] | None
    lease_seconds: int
    watch_idle_seconds: float
    webhook_certificates: Path | None
    webhook_port: int

    def options(self, check_config: ConfigCheck) -> Options:
        """The settings that plan() needs."""
        return Options(
            image=self.trainer_image,
            image_pull_policy=self.trainer_image_pull_policy,
            progress_interval=self.progress_interval,
            network_policy=self.job_network_policy,
            check_config=check_config,
        )


def _text(value: str) -> str:
    return value


def _one_of(*choices: str) -> Callable[[str], str]:
    """A choice in any case."""

    def parse(value: str) -> str:
        for choice in choices:
            if value.lower() == choice.lower():
                return choice
        raise argparse.ArgumentTypeError(f"{value!r} is not one of {', '.join(choices)}")

    return parse


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{value!r} is not a number from {low:g} to {high:g}")
        return number

    return parse


def _integer(low: int, high: int) -> Callable[[str], int]:
    return lambda value: int(_number(low, high)(value))


def _switch(value: str) -> bool:
    return _one_of("true", "false")(value) == "true"


def _namespaces(value: str) -> tuple[str, ...]:
    return tuple(sorted({name.strip() for name in value.split(",") if name.strip()}))


def _lease(value: str) -> tuple[str, str] | None:
    if not value:
        return None
    namespace, _, name = value.partition("/")
    if not namespace or not name or "/" in name:
        raise argparse.ArgumentTypeError(f"{value!r} is not NAMESPACE/NAME")
    return namespace, name


def _directory(value: str) -> Path | None:
    return Path(value) if value else None


#: Name, environment variable, default, parser and description of each setting, in the order of `--help`.
_SETTINGS: tuple[tuple[str, str, str, Callable[[str], Any], str], ...] = (
    ("trainer-image", "AURL_TRAINER_IMAGE", "", _text, "image of jobs without spec.image; required"),
    (
        "trainer-image-pull-policy",
        "AURL_TRAINER_IMAGE_PULL_POLICY",
        "IfNotPresent",
        _one_of("Always", "IfNotPresent", "Never"),
        "pull policy of training pods: Always, IfNotPresent, Never",
    ),
    (
        "job-network-policy",
        "AURL_JOB_NETWORK_POLICY",
        "true",
        _switch,
        "create a NetworkPolicy per job that isolates its pods: true, false",
    ),
    (
        "namespaces",
        "AURL_NAMESPACES",
        "",
        _namespaces,
        "namespaces to watch, separated by commas; unset: the whole cluster",
    ),
    (
        "progress-interval",
        "AURL_PROGRESS_INTERVAL_SECONDS",
        "5",
        _number(0.2, 3600),
        "seconds between progress polls of a running job",
    ),
    (
        "resync-interval",
        "AURL_RESYNC_INTERVAL_SECONDS",
        "300",
        _number(1, 86400),
        "seconds between full relists, which pick up anything a watch has missed",
    ),
    (
        "lease",
        "AURL_LEASE",
        "",
        _lease,
        "NAMESPACE/NAME of the Lease for leader election; unset: this is the only replica",
    ),
    (
        "lease-seconds",
        "AURL_LEASE_SECONDS",
        "10",
        _integer(3, 300),
        "seconds after which another replica takes over from a leader that no longer renews the lease",
    ),
    (
        "watch-idle-seconds",
        "AURL_WATCH_IDLE_SECONDS",
        "30",
        _number(1, 240),
        "seconds without an event after which a watch is reopened; three times as long without contact is "
        "unhealthy",
    ),
    ("workers", "AURL_WORKERS", "16", _integer(1, 256), "jobs reconciled concurrently"),
    (
        "http-port",
        "AURL_HTTP_PORT",
        "8080",
        _integer(0, 65535),
        "port of /metrics, /healthz and /readyz; 0: any free port",
    ),
    (
        "webhook-certificates",
        "AURL_WEBHOOK_CERTIFICATES",
        "",
        _directory,
        "directory with tls.crt and tls.key of the validating webhook; unset: no webhook",
    ),
    (
        "webhook-port",
        "AURL_WEBHOOK_PORT",
        "9443",
        _integer(0, 65535),
        "port of the validating webhook; 0: any free port",
    ),
    (
        "log-level",
        "AURL_LOG_LEVEL",
        "INFO",
        _one_of("DEBUG", "INFO", "WARNING", "ERROR"),
        "lowest level to log: DEBUG, INFO, WARNING, ERROR",
    ),
)


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read flags and environment; exits with a message if a value is invalid."""
    parser = argparse.ArgumentParser(
        prog="aurl-operator",
        description="Run AurlTrainingJobs in the cluster of this pod, or in that of $KUBECONFIG.",
    )
    for name, variable, default, parse, description in _SETTINGS:
        source = f"${variable}, default {default}" if default else f"${variable}"
        parser.add_argument(
            f"--{name}",
            default=environment.get(variable) or default,
            type=parse,
            help=f"{description} ({source})",
            metavar="VALUE",
        )
    parser.add_argument("--version", action="version", version=__version__)
    settings = Settings(**vars(parser.parse_args(arguments)))
    if not settings.trainer_image:
        parser.error("--trainer-image or $AURL_TRAINER_IMAGE is required")
    return settings
