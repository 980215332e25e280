"""Follow one job to its end: show its progress and record when things happened."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from aurl_dev.kube import Kube, Object, condition, termination_message
from aurl_dev.waiting import DeadlineExceeded

FINAL = ("Succeeded", "Failed")


@dataclass
class Story:
    """The history of a job from `kubectl apply` to its end. Times are seconds since the apply."""

    applied_at: float
    first_pod_created: float | None = None
    workers_created: float | None = None
    first_step: float | None = None
    finished: float | None = None
    state: str = "Pending"
    step: int = 0
    total_steps: int = 0
    initial_loss: float | None = None
    loss: float | None = None
    validation_loss: float | None = None
    tokens_per_second: float | None = None
    samples_per_second: float | None = None
    restarts: int = 0
    attempt: int = 0
    checkpoint: Object | None = None
    checkpoints_seen: list[int] = field(default_factory=list)
    prepared: Object = field(default_factory=dict)
    pods: dict[str, str] = field(default_factory=dict)
    failure: str = ""

    def since(self) -> float:
        """Seconds since the apply."""
        return time.time() - self.applied_at

    def take_job(self, job: Object) -> None:
        """Update from the job's status."""
        status = job.get("status") or {}
        self.state = status.get("state") or "Pending"
        self.attempt = status.get("attempt", 0)
        self.restarts = (status.get("restarts") or {}).get("total", 0)
        if self.state in FINAL and self.finished is None:
            self.finished = self.since()
        if self.state == "Failed":
            self.failure = condition(job, "Failed").get("message", "")
        self._take_values(status.get("progress") or {})
        self._take_checkpoint(status.get("lastCheckpoint"))

    def take_pods(self, pods: list[Object], nodes: int) -> None:
        """Update from the pods: when they were created, and their termination messages."""
        self.pods = {pod["metadata"]["name"]: _pod_word(pod) for pod in pods}
        if pods and self.first_pod_created is None:
            self.first_pod_created = self.since()
        workers = [pod for pod in pods if pod["metadata"]["labels"].get("aurl.ai/role") == "worker"]
        if len(workers) >= nodes and self.workers_created is None:
            self.workers_created = self.since()
        for pod in pods:
            message = termination_message(pod)
            self.prepared = message.get("dataset") or self.prepared
            self._take_values(message)
            self._take_checkpoint(message.get("lastCheckpoint"))

    def take_progress(self, progress: Object) -> None:
        """Update from /progress of rank 0's launcher."""
        self._take_values(progress)
        self._take_checkpoint(progress.get("lastCheckpoint"))
        if self.first_step is None and progress.get("firstStepAt"):
            self.first_step = datetime.fromisoformat(progress["firstStepAt"]).timestamp() - self.applied_at
        if progress.get("preparation"):
            self.prepared = progress["preparation"]

    def _take_values(self, values: Object) -> None:
        self.step = max(self.step, values.get("step") or 0)
        self.total_steps = values.get("totalSteps") or self.total_steps
        if self.initial_loss is None:
            self.initial_loss = values.get("initialLoss")
        for key, name in (
            ("loss", "loss"),
            ("validationLoss", "validation_loss"),
            ("tokensPerSecond", "tokens_per_second"),
            ("samplesPerSecond", "samples_per_second"),
        ):
            if values.get(key) is not None:
                setattr(self, name, values[key])

    def _take_checkpoint(self, checkpoint: Object | None) -> None:
        if checkpoint is None or checkpoint["step"] in self.checkpoints_seen:
            return
        self.checkpoints_seen.append(checkpoint["step"])
        if self.checkpoint is None or checkpoint["step"] > self.checkpoint["step"]:
            self.checkpoint = checkpoint

    def figures(self) -> list[str]:
        """Return loss, speed and newest checkpoint, if they are known."""
        words = []
        if self.loss is not None:
            words.append(f"loss {self.loss:.3f}")
        if self.tokens_per_second:
            words.append(f"{self.tokens_per_second:,.0f} tok/s")
        if self.checkpoint:
            words.append(f"checkpoint {self.checkpoint['step']}")
        return words

    def line(self) -> str:
        """Return the state in one line."""
        words = [self.state]
        if self.state == "Preparing" and self.prepared.get("filesTotal"):
            words.append(f"{self.prepared.get('filesDone', 0)}/{self.prepared['filesTotal']} pieces")
        if self.total_steps:
            words.append(f"step {self.step}/{self.total_steps}")
        words += self.figures()
        if self.restarts:
            words.append(f"restarts {self.restarts}")
        words.append("pods " + (", ".join(f"{name} {word}" for name, word in self.pods.items()) or "none"))
        return " · ".join(words)


def _pod_word(pod: Object) -> str:
    status = pod.get("status", {})
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    waiting = [
        one["state"]["waiting"].get("reason", "Waiting")
        for one in status.get("containerStatuses") or []
        if "waiting" in (one.get("state") or {})
    ]
    return str(waiting[0] if waiting else status.get("phase", "Unknown"))


def look(kube: Kube, namespace: str, name: str, story: Story) -> Object | None:
    """Update the story from the job, its pods and rank 0's /progress; return the job."""
    job = kube.job(namespace, name)
    if job is None:
        return None
    pods = kube.pods(namespace, name)
    story.take_pods(pods, job["spec"].get("numNodes", 1))
    for pod in pods:
        labels = pod["metadata"]["labels"]
        if pod["status"].get("phase") == "Running" and labels.get("aurl.ai/replica-index", "0") == "0":
            progress = kube.progress(namespace, pod["metadata"]["name"])
            if progress:
                story.take_progress(progress)
    story.take_job(job)
    return job


def follow(
    kube: Kube, namespace: str, name: str, applied_at: float, seconds: float, console: Console
) -> Story:
    """Follow the job until it ends, with a progress bar on a terminal or a line every few seconds.

    Raises:
        DeadlineExceeded: the job has not ended within `seconds`; the message ends with its last state.
    """
    story = Story(applied_at)
    bar = Progress(
        TextColumn("[bold]{task.fields[state]:<10}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[values]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("job", total=1, state="Pending", values="")
    printed, printed_at = "", 0.0
    with bar:
        while story.finished is None:
            look(kube, namespace, name, story)
            preparing = story.state == "Preparing" and story.prepared.get("filesTotal")
            running = sum(word == "Running" for word in story.pods.values())
            bar.update(
                task,
                state=story.state,
                completed=story.prepared.get("filesDone", 0) if preparing else story.step,
                total=(story.prepared["filesTotal"] if preparing else story.total_steps) or 1,
                values=" · ".join([*story.figures(), f"pods {running}"]),
            )
            # Without a terminal: a line at each change of state, and one every five seconds.
            if not console.is_terminal and (story.state != printed or time.monotonic() - printed_at > 5):
                printed, printed_at = story.state, time.monotonic()
                console.print(f"  {story.since():5.0f} s  {story.line()}", highlight=False, soft_wrap=True)
            if story.since() > seconds:
                raise DeadlineExceeded(
                    f"job {namespace}/{name} has not ended after {seconds:.0f} s: {story.line()}"
                )
            time.sleep(0.3)
    look(kube, namespace, name, story)
    return story
