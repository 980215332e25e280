"""`status` of an AurlTrainingJob, written by the operator alone."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from aurl_operator.api.base import Model, Time
from aurl_operator.api.trainer_contract import ReportedClass

State = Literal[
    "Pending", "Preparing", "Starting", "Running", "Restarting", "Suspended", "Succeeded", "Failed"
]
FailureClass = Literal[ReportedClass, "Preemption"]
ConditionStatus = Literal["True", "False", "Unknown"]
ConditionType = Literal[
    "Succeeded", "Failed", "Running", "DatasetReady", "Suspended", "Reconciling", "Stalled"
]
Role = Literal["prepare", "worker", "placeholder"]


class Condition(Model):
    """One aspect of the job (metav1.Condition)."""

    type: str = Field(
        description="Succeeded (the summary), Failed, Running, DatasetReady, Suspended, Reconciling, Stalled."
    )
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: str = Field(default="", description="Machine-readable reason in CamelCase.")
    message: str = Field(default="", description="Human-readable explanation.")
    observed_generation: int | None = Field(
        default=None, ge=0, description="metadata.generation that the condition is based on."
    )
    last_transition_time: Time | None = Field(
        default=None, description="When the condition's status last changed."
    )


class Restarts(Model):
    """Gang restart counters."""

    total: int = Field(default=0, ge=0, description="Gang restarts of the job; never decreases.")
    by_class: dict[str, int] = Field(default_factory=dict, description="Gang restarts by failure class.")
    consecutive: int = Field(
        default=0,
        ge=0,
        description="Failures since the last new checkpoint or ten-minute run; sets the back-off delay.",
    )


class Nodes(Model):
    """Worker pods of the current attempt."""

    desired: int = Field(default=0, ge=0, description="Desired worker pods (spec.numNodes).")
    ready: int = Field(default=0, ge=0, description="Running worker pods.")


class Launch(Model):
    """The pods that the operator is starting or running now."""

    role: Role = Field(description="prepare (one pod that writes the dataset) or worker (the torchrun gang).")
    queued: bool = Field(default=False, description="True until a queue has admitted the pods.")
    start_time: Time | None = Field(
        default=None,
        description="When the operator first needed the pods; startupDeadlineSeconds counts from here.",
    )
    created_time: Time | None = Field(default=None, description="When all of the pods had been created.")
    running_time: Time | None = Field(default=None, description="When all of the pods were running.")
    avoided_nodes: list[str] = Field(default_factory=list, description="Nodes that the pods must not run on.")


class Progress(Model):
    """Latest training metrics of the whole job."""

    step: int | None = Field(default=None, ge=0, description="Optimizer steps completed.")
    total_steps: int | None = Field(default=None, ge=0, description="Optimizer steps planned.")
    start_step: int | None = Field(
        default=None, ge=0, description="Step from which the current attempt started."
    )
    percentage: int | None = Field(
        default=None, ge=0, le=100, description="step / totalSteps in percent, rounded down."
    )
    loss: float | None = Field(default=None, description="Training loss, nats per token.")
    initial_loss: float | None = Field(
        default=None, description="Training loss of the first step, nats per token."
    )
    validation_loss: float | None = Field(default=None, description="Validation loss, nats per token.")
    tokens_per_second: int | None = Field(
        default=None, ge=0, description="Throughput of the whole job in tokens per second."
    )
    samples_per_second: float | None = Field(
        default=None, description="Throughput of the whole job in samples per second."
    )
    estimated_remaining_seconds: int | None = Field(
        default=None,
        ge=0,
        description="Estimated seconds to the last step, at the mean speed of this attempt.",
    )
    first_step_time: Time | None = Field(
        default=None, description="When the current attempt finished its first step."
    )
    last_step_time: Time | None = Field(default=None, description="When `step` last changed.")
    last_updated_time: Time | None = Field(
        default=None, description="When these values were read from the launcher."
    )


class Checkpoint(Model):
    """The newest complete checkpoint."""

    step: int = Field(ge=0, description="Optimizer step of the checkpoint.")
    path: str = Field(default="", description="Path relative to the volume.")
    time: Time | None = Field(default=None, description="When the checkpoint was completed.")


class Dataset(Model):
    """The dataset that the prepare pod wrote."""

    fingerprint: str | None = Field(
        default=None, description="Hash of the source files' contents and the configuration."
    )
    path: str | None = Field(default=None, description="Path relative to the volume.")
    files: int | None = Field(default=None, ge=0, description="Files tokenized.")
    dropped: int | None = Field(
        default=None, ge=0, description="Files dropped because they could not be read."
    )
    dropped_names: list[str] = Field(default_factory=list, description="Names of the first dropped files.")
    train_tokens: int | None = Field(default=None, ge=0, description="Tokens in the training split.")
    spec_hash: str | None = Field(
        default=None, description="Hash of the spec.dataset and spec.storage that the dataset was made from."
    )


class Failure(Model):
    """The root cause of the last failure."""

    failure_class: FailureClass = Field(
        validation_alias=AliasChoices("class", "failure_class"),
        serialization_alias="class",
        description="Failure class, which decides about a restart: UserError fails the job immediately, "
        "Infrastructure has its own limit, Preemption has none, the others count toward backoffLimit.",
    )
    reason: str = Field(default="", description="Machine-readable reason in CamelCase.")
    message: str = Field(default="", description="Human-readable explanation.")
    role: Role | None = Field(default=None, description="Role of the pod that failed.")
    attempt: int | None = Field(default=None, ge=0, description="Attempt that failed.")
    pod: str | None = Field(default=None, description="Pod that failed first.")
    node: str | None = Field(default=None, description="Node of that pod.")
    rank: int | None = Field(default=None, ge=0, description="Rank that failed first.")
    exit_code: int | None = Field(default=None, description="Exit code of that rank, or of the container.")
    signal: int | None = Field(default=None, description="Signal that killed that rank.")
    exception: str | None = Field(default=None, description="Type of the Python exception.")
    step: int | None = Field(default=None, ge=0, description="Optimizer step of the failure.")
    checkpoint_step: int | None = Field(
        default=None, ge=0, description="Step of the newest checkpoint at the time."
    )
    time: Time | None = Field(default=None, description="When the operator detected the failure.")


class Scheduling(Model):
    """Attempts to place a gang that has not had room for all of its pods."""

    releases: int = Field(
        default=0, ge=0, description="Times the pods were released so as not to block other jobs."
    )
    since: Time | None = Field(default=None, description="When the first attempt to place the gang started.")
    retry_time: Time | None = Field(default=None, description="When the operator tries again.")
    message: str = Field(default="", description="Human-readable explanation.")


class Straggler(Model):
    """A rank that its peers wait for in every step."""

    rank: int = Field(ge=0, description="Global rank.")
    node: str | None = Field(default=None, description="Node of its pod.")
    slowdown: float = Field(
        description="Compute time per step as a multiple of the median of the rank's peers."
    )
    since: Time | None = Field(default=None, description="When the operator first listed the rank.")


class NodeFailure(Model):
    """Recent failures of the job on one node."""

    node: str = Field(description="Name of the node.")
    failures: int = Field(default=0, ge=0, description="Failures of the job that originated on the node.")
    reason: str = Field(default="", description="Reason of the latest failure.")
    last_time: Time | None = Field(default=None, description="When the latest failure was detected.")
    reused: bool = Field(
        default=False,
        description="True if the node is used again because the pods did not fit elsewhere.",
    )


class JobStatus(Model):
    """Observed state of the training job."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="metadata.generation that this status is based on."
    )
    state: State | None = Field(default=None, description="Summary of the conditions in one word.")
    conditions: list[Condition] = Field(
        default_factory=list,
        description="Conditions of the job, by type.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    start_time: Time | None = Field(
        default=None,
        description="When the job started or resumed. Unset while suspended.",
    )
    queued_since: Time | None = Field(
        default=None, description="Since when a queue has held the pods back. Unset: it does not."
    )
    queued_seconds: int = Field(
        default=0,
        ge=0,
        description="Seconds after startTime that the pods have waited in a queue before; "
        "activeDeadlineSeconds leaves them out.",
    )
    completion_time: Time | None = Field(default=None, description="When the job succeeded or failed.")
    attempt: int = Field(default=0, ge=0, description="Number of the current attempt, from 0.")
    spec_hash: str | None = Field(
        default=None, description="Hash of the specification that the current pods were created from."
    )
    claim_uid: str | None = Field(
        default=None,
        description="UID of the claim made from claimTemplate. Once set, a deleted claim is not recreated.",
    )
    launch: Launch | None = Field(
        default=None, description="The pods that the operator is starting or running now."
    )
    restarts: Restarts = Field(default_factory=Restarts, description="Gang restart counters.")
    nodes: Nodes = Field(default_factory=Nodes, description="Worker pods of the current attempt.")
    replicas: int = Field(
        default=0, ge=0, description="Worker pods of the current attempt, for kubectl scale."
    )
    selector: str = Field(default="", description="Label selector of the worker pods, for kubectl scale.")
    elastic_nodes: int | None = Field(
        default=None, ge=1, description="Nodes of a shrunk elastic job. Unset: numNodes."
    )
    scheduling: Scheduling | None = Field(
        default=None,
        description="Attempts to place all pods together, after a first release. Unset once the pods run.",
    )
    progress: Progress | None = Field(default=None, description="Latest training metrics.")
    stragglers: list[Straggler] = Field(
        default_factory=list,
        description="Ranks slower than their peers by at least runPolicy.stragglerFactor.",
    )
    last_checkpoint: Checkpoint | None = Field(default=None, description="The newest complete checkpoint.")
    dataset: Dataset | None = Field(default=None, description="The prepared dataset.")
    last_failure: Failure | None = Field(default=None, description="Root cause of the last failure.")
    node_failures: list[NodeFailure] = Field(
        default_factory=list,
        description="Nodes on which the job failed in the last runPolicy.nodeAvoidance.seconds.",
    )


#: Columns of `kubectl get atj`: name, JSON path, OpenAPI type, priority (1: only with -o wide).
PRINTER_COLUMNS: tuple[tuple[str, str, str, int], ...] = (
    ("State", ".status.state", "string", 0),
    ("Nodes", ".status.nodes.ready", "integer", 0),
    ("Step", ".status.progress.step", "integer", 0),
    ("Loss", ".status.progress.loss", "string", 0),
    ("Tok/s", ".status.progress.tokensPerSecond", "integer", 0),
    ("Ckpt", ".status.lastCheckpoint.step", "integer", 0),
    ("Restarts", ".status.restarts.total", "integer", 0),
    ("Age", ".metadata.creationTimestamp", "date", 0),
    ("Reason", '.status.conditions[?(@.type=="Stalled")].reason', "string", 1),
)
