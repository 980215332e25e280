"""Everything that plan() looks at: immutable values, nothing that acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from aurl_operator.core.actions import Refusal
from aurl_operator.core.podview import PodView
from aurl_operator.core.progress import ProgressReport
from aurl_operator.core.validation import ConfigCheck
from aurl_operator.core.views import JobView, ObjectView


@dataclass(frozen=True)
class Children:
    """The objects of a job. `claim` is made from spec.storage.claimTemplate, `named_claim` is claimName."""

    pods: tuple[PodView, ...] = ()
    service: ObjectView | None = None
    config_map: ObjectView | None = None
    network_policy: ObjectView | None = None
    pod_groups: tuple[ObjectView, ...] = ()
    claim: ObjectView | None = None
    named_claim: ObjectView | None = None


@dataclass(frozen=True)
class Options:
    """The administrator's settings for all jobs.

    `progress_interval` is in seconds; `network_policy` gives each job one.
    """

    image: str
    check_config: ConfigCheck
    image_pull_policy: str = "IfNotPresent"
    progress_interval: float = 5.0
    network_policy: bool = True


@dataclass(frozen=True)
class Observed:
    """One look at a job. `now` is timezone-aware.

    progress: the latest report of the launcher of rank 0. refusals: what the API server last refused, by the
    key of the action. clock_skew: how far the API server's clock, which sets the times of pods, is ahead.
    """

    job: JobView
    children: Children
    progress: ProgressReport | None
    now: datetime
    options: Options
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    clock_skew: timedelta = timedelta()

    @property
    def server_time(self) -> datetime:
        """The time by the API server's clock."""
        return self.now + self.clock_skew

    def report_of(self, attempt: int) -> ProgressReport | None:
        """Return the latest report if it is about this attempt."""
        return self.progress if self.progress and self.progress.attempt == attempt else None
