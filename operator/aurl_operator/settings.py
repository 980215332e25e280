"""The administrator's settings, each a flag and an environment variable; the flag wins."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from aurl_operator import __version__
from aurl_operator.core.observed import Options
from aurl_operator.core.validation import ConfigCheck


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


_PORT = _integer(0, 65535)


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


def _setting(variable: str, default: str, parse: Callable[[str], Any], description: str) -> Any:
    """A field of Settings: environment variable, default, parser, and description for --help."""
    return field(
        metadata={"variable": variable, "default": default, "parse": parse, "description": description}
    )


@dataclass(frozen=True)
class Settings:
    """Settings of one operator process, in the order of --help; times are in seconds."""

    trainer_image: str = _setting("AURL_TRAINER_IMAGE", "", str, "image of jobs without spec.image; required")
    trainer_image_pull_policy: str = _setting(
        "AURL_TRAINER_IMAGE_PULL_POLICY",
        "IfNotPresent",
        _one_of("Always", "IfNotPresent", "Never"),
        "pull policy of training pods: Always, IfNotPresent, Never",
    )
    job_network_policy: bool = _setting(
        "AURL_JOB_NETWORK_POLICY",
        "true",
        _switch,
        "create a NetworkPolicy per job that isolates its pods: true, false",
    )
    namespaces: tuple[str, ...] = _setting(
        "AURL_NAMESPACES",
        "",
        _namespaces,
        "namespaces to watch, separated by commas; unset: the whole cluster",
    )
    progress_interval: float = _setting(
        "AURL_PROGRESS_INTERVAL_SECONDS",
        "5",
        _number(0.2, 3600),
        "seconds between progress polls of a running job",
    )
    resync_interval: float = _setting(
        "AURL_RESYNC_INTERVAL_SECONDS",
        "300",
        _number(1, 86400),
        "seconds between full relists, which pick up anything a watch has missed",
    )
    lease: tuple[str, str] | None = _setting(
        "AURL_LEASE",
        "",
        _lease,
        "NAMESPACE/NAME of the Lease for leader election; unset: this is the only replica",
    )
    lease_seconds: int = _setting(
        "AURL_LEASE_SECONDS",
        "10",
        _integer(3, 300),
        "seconds after which another replica takes over from a leader that no longer renews the lease",
    )
    watch_idle_seconds: float = _setting(
        "AURL_WATCH_IDLE_SECONDS",
        "30",
        _number(1, 240),
        "seconds without an event after which a watch is reopened; three times as long without contact is "
        "unhealthy",
    )
    workers: int = _setting("AURL_WORKERS", "16", _integer(1, 256), "jobs reconciled concurrently")
    http_port: int = _setting(
        "AURL_HTTP_PORT", "8080", _PORT, "port of /metrics, /healthz and /readyz; 0: any free port"
    )
    webhook_certificates: str = _setting(
        "AURL_WEBHOOK_CERTIFICATES",
        "",
        str,
        "directory with tls.crt and tls.key of the validating webhook; unset: no webhook",
    )
    webhook_port: int = _setting(
        "AURL_WEBHOOK_PORT", "9443", _PORT, "port of the validating webhook; 0: any free port"
    )
    log_level: str = _setting(
        "AURL_LOG_LEVEL",
        "INFO",
        _one_of("DEBUG", "INFO", "WARNING", "ERROR"),
        "lowest level to log: DEBUG, INFO, WARNING, ERROR",
    )

    def options(self, check_config: ConfigCheck) -> Options:
        """Return the settings that plan() needs."""
        return Options(
            image=self.trainer_image,
            image_pull_policy=self.trainer_image_pull_policy,
            progress_interval=self.progress_interval,
            network_policy=self.job_network_policy,
            check_config=check_config,
        )


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read flags and environment; exits with a message if a value is invalid."""
    parser = argparse.ArgumentParser(
        prog="aurl-operator",
        description="Run AurlTrainingJobs in the cluster of this pod, or in that of $KUBECONFIG.",
    )
    for setting in fields(Settings):
        given = setting.metadata
        source = f"${given['variable']}" + (f", default {given['default']}" if given["default"] else "")
        parser.add_argument(
            f"--{setting.name.replace('_', '-')}",
            default=environment.get(given["variable"]) or given["default"],
            type=given["parse"],
            help=f"{given['description']} ({source})",
            metavar="VALUE",
        )
    parser.add_argument("--version", action="version", version=__version__)
    settings = Settings(**vars(parser.parse_args(arguments)))
    if not settings.trainer_image:
        parser.error("--trainer-image or $AURL_TRAINER_IMAGE is required")
    return settings
