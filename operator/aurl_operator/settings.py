"""What an administrator can set, by flag or by environment variable (the flag wins)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aurl_operator import __version__
from aurl_operator.core.observed import Options
from aurl_operator.core.validation import ConfigCheck

PULL_POLICIES = ("Always", "IfNotPresent", "Never")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True)
class Settings:
    """Settings of one operator process; times are in seconds. `lease` is a namespace and a name.

    Without `webhook_certificates` no webhook is served.
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
        """The part that plan() needs."""
        return Options(
            image=self.trainer_image,
            image_pull_policy=self.trainer_image_pull_policy,
            progress_interval=self.progress_interval,
            network_policy=self.job_network_policy,
            check_config=check_config,
        )


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read flags and environment; exits with a message on a value that makes no sense."""
    parser = argparse.ArgumentParser(
        prog="aurl-operator",
        description="Watches AurlTrainingJobs and runs them. Talks to the cluster it runs in, or to that of "
        "$KUBECONFIG.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    def flag(name: str, variable: str, default: str, text: str) -> None:
        parser.add_argument(name, default=environment.get(variable) or default, help=f"{text} (${variable})")

    flag("--trainer-image", "AURL_TRAINER_IMAGE", "", "image of jobs that name none; required")
    flag(
        "--trainer-image-pull-policy",
        "AURL_TRAINER_IMAGE_PULL_POLICY",
        "IfNotPresent",
        "pull policy of the pods: " + ", ".join(PULL_POLICIES),
    )
    flag(
        "--job-network-policy",
        "AURL_JOB_NETWORK_POLICY",
        "true",
        "whether each job gets a NetworkPolicy that keeps others from its pods: true, false",
    )
    flag(
        "--namespaces",
        "AURL_NAMESPACES",
        "",
        "comma-separated namespaces to watch; empty is the whole cluster",
    )
    flag(
        "--progress-interval", "AURL_PROGRESS_INTERVAL_SECONDS", "5", "seconds between polls of a running job"
    )
    flag(
        "--resync-interval",
        "AURL_RESYNC_INTERVAL_SECONDS",
        "300",
        "seconds between full lists of all objects",
    )
    flag(
        "--lease",
        "AURL_LEASE",
        "",
        "NAMESPACE/NAME of the Lease by which replicas choose the one that acts; empty: there is only one",
    )
    flag(
        "--lease-seconds",
        "AURL_LEASE_SECONDS",
        "10",
        "seconds after which another replica takes over from one that no longer renews the lease",
    )
    flag(
        "--watch-idle-seconds",
        "AURL_WATCH_IDLE_SECONDS",
        "30",
        "seconds without an event after which a watch is opened anew; three times as many without a sign of "
        "life are unhealthy",
    )
    flag("--workers", "AURL_WORKERS", "16", "jobs that are reconciled at the same time")
    flag(
        "--http-port", "AURL_HTTP_PORT", "8080", "port of /metrics, /healthz and /readyz; 0 takes a free one"
    )
    flag(
        "--webhook-certificates",
        "AURL_WEBHOOK_CERTIFICATES",
        "",
        "directory with tls.crt and tls.key, with which the validating webhook is served; empty: it is not",
    )
    flag("--webhook-port", "AURL_WEBHOOK_PORT", "9443", "port of the validating webhook; 0 takes a free one")
    flag("--log-level", "AURL_LOG_LEVEL", "INFO", "lowest level to log: " + ", ".join(LOG_LEVELS))
    parser.add_argument("--version", action="version", version=__version__)
    parsed = parser.parse_args(arguments)

    def number(name: str, value: str, low: float, high: float) -> float:
        try:
            found = float(value)
        except ValueError:
            found = float("nan")
        if not low <= found <= high:
            parser.error(f"--{name}: {value!r} is not a number from {low:g} to {high:g}")
        return found

    if not parsed.trainer_image:
        parser.error("--trainer-image or AURL_TRAINER_IMAGE must name the trainer image")
    if parsed.trainer_image_pull_policy not in PULL_POLICIES:
        parser.error(f"--trainer-image-pull-policy: choose one of {', '.join(PULL_POLICIES)}")
    if parsed.job_network_policy not in ("true", "false"):
        parser.error("--job-network-policy: choose true or false")
    if parsed.log_level.upper() not in LOG_LEVELS:
        parser.error(f"--log-level: choose one of {', '.join(LOG_LEVELS)}")
    lease = tuple(parsed.lease.split("/")) if parsed.lease else None
    if lease is not None and (len(lease) != 2 or not all(lease)):
        parser.error(f"--lease: {parsed.lease!r} is not NAMESPACE/NAME")
    return Settings(
        trainer_image=parsed.trainer_image,
        trainer_image_pull_policy=parsed.trainer_image_pull_policy,
        job_network_policy=parsed.job_network_policy == "true",
        namespaces=tuple(sorted({n.strip() for n in parsed.namespaces.split(",") if n.strip()})),
        progress_interval=number("progress-interval", parsed.progress_interval, 0.2, 3600),
        resync_interval=number("resync-interval", parsed.resync_interval, 1, 86400),
        workers=int(number("workers", parsed.workers, 1, 256)),
        http_port=int(number("http-port", parsed.http_port, 0, 65535)),
        log_level=parsed.log_level.upper(),
        lease=(lease[0], lease[1]) if lease else None,
        lease_seconds=int(number("lease-seconds", parsed.lease_seconds, 3, 300)),
        watch_idle_seconds=number("watch-idle-seconds", parsed.watch_idle_seconds, 1, 240),
        webhook_certificates=Path(parsed.webhook_certificates) if parsed.webhook_certificates else None,
        webhook_port=int(number("webhook-port", parsed.webhook_port, 0, 65535)),
    )
