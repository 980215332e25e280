"""`status` of an AurlTrainingJob, written by the operator alone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, Field, NonNegativeInt

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

    type: str
    """Succeeded (the summary), Failed, Running, DatasetReady, Suspended, Reconciling, Stalled."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: str = ""
    """Machine-readable reason in CamelCase."""
    message: str = ""
    """Human-readable explanation."""
    observed_generation: NonNegativeInt | None = None
    """metadata.generation that the condition is based on."""
    last_transition_time: Time | None = None
    """When the condition's status last changed."""


class Restarts(Model):
    """Gang restart counters."""

    total: NonNegativeInt = 0
    """Gang restarts of the job; never decreases."""
    by_class: dict[str, int] = Field(default_factory=dict)
    """Gang restarts by failure class."""
    consecutive: NonNegativeInt = 0
    """Failures since the last new checkpoint or ten-minute run; sets the back-off delay."""
    forgiven: dict[str, int] | None = None
    """Restarts in `byClass` that no longer count toward backoffLimit and restartLimits, because an attempt
    after them ran for an hour and saved a new checkpoint."""


class Nodes(Model):
    """Worker pods of the current attempt."""

    desired: NonNegativeInt = 0
    """Desired worker pods (spec.numNodes)."""
    ready: NonNegativeInt = 0
    """Running worker pods."""


class Launch(Model):
    """The pods that the operator is starting or running now."""

    role: Role
    """prepare (one pod that writes the dataset) or worker (the torchrun gang)."""
    queued: bool = False
    """True until a queue has admitted the pods."""
    start_time: Time | None = None
    """When the operator first needed the pods; startupDeadlineSeconds counts from here."""
    created_time: Time | None = None
    """When all of the pods had been created."""
    running_time: Time | None = None
    """When all of the pods were running."""
    avoided_nodes: list[str] = Field(default_factory=list)
    """Nodes that the pods must not run on."""


class Progress(Model):
    """Latest training metrics of the whole job."""

    step: NonNegativeInt | None = None
    """Optimizer steps completed."""
    total_steps: NonNegativeInt | None = None
    """Optimizer steps planned."""
    start_step: NonNegativeInt | None = None
    """Step from which the current attempt started."""
    percentage: Annotated[int, Field(ge=0, le=100)] | None = None
    """step / totalSteps in percent, rounded down."""
    loss: float | None = None
    """Training loss, nats per token."""
    initial_loss: float | None = None
    """Training loss of the first step, nats per token."""
    validation_loss: float | None = None
    """Validation loss, nats per token."""
    tokens_per_second: NonNegativeInt | None = None
    """Throughput of the whole job in tokens per second."""
    samples_per_second: float | None = None
    """Throughput of the whole job in samples per second."""
    estimated_remaining_seconds: NonNegativeInt | None = None
    """Estimated seconds to the last step, at the mean speed of this attempt."""
    first_step_time: Time | None = None
    """When the current attempt finished its first step."""
    last_step_time: Time | None = None
    """When `step` last changed."""
    last_updated_time: Time | None = None
    """When these values were read from the launcher."""


class Checkpoint(Model):
    """The newest complete checkpoint."""

    step: NonNegativeInt
    """Optimizer step of the checkpoint."""
    path: str = ""
    """Path relative to the volume."""
    time: Time | None = None
    """When the checkpoint was completed."""


class Dataset(Model):
    """The dataset that the prepare pod wrote."""

    fingerprint: str | None = None
    """Hash of the source files' contents and the configuration."""
    path: str | None = None
    """Path relative to the volume."""
    files: NonNegativeInt | None = None
    """Files tokenized."""
    dropped: NonNegativeInt | None = None
    """Files dropped because they could not be read."""
    dropped_names: list[str] = Field(default_factory=list)
    """Names of the first dropped files."""
    train_tokens: NonNegativeInt | None = None
    """Tokens in the training split."""
    spec_hash: str | None = None
    """Hash of the spec.dataset and spec.storage that the dataset was made from."""


class Failure(Model):
    """The root cause of the last failure."""

    failure_class: FailureClass = Field(
        validation_alias=AliasChoices("class", "failure_class"), serialization_alias="class"
    )
    """Failure class, which decides about a restart: UserError fails the job immediately, Infrastructure and
    Hardware share a limit, Preemption has none, the others count toward backoffLimit."""
    reason: str = ""
    """Machine-readable reason in CamelCase."""
    message: str = ""
    """Human-readable explanation."""
    role: Role | None = None
    """Role of the pod that failed."""
    attempt: NonNegativeInt | None = None
    """Attempt that failed."""
    pod: str | None = None
    """Pod that failed first."""
    node: str | None = None
    """Node of that pod."""
    rank: NonNegativeInt | None = None
    """Rank that failed first."""
    exit_code: int | None = None
    """Exit code of that rank, or of the container."""
    signal: int | None = None
    """Signal that killed that rank."""
    exception: str | None = None
    """Type of the Python exception."""
    step: NonNegativeInt | None = None
    """Optimizer step of the failure."""
    checkpoint_step: NonNegativeInt | None = None
    """Step of the newest checkpoint at the time."""
    time: Time | None = None
    """When the operator detected the failure."""


class Scheduling(Model):
    """Attempts to place a gang that has not had room for all of its pods."""

    releases: NonNegativeInt = 0
    """Times the pods were released so as not to block other jobs."""
    since: Time | None = None
    """When the first attempt to place the gang started."""
    retry_time: Time | None = None
    """When the operator tries again."""
    message: str = ""
    """Human-readable explanation."""


class Straggler(Model):
    """A rank that its peers wait for in every step."""

    rank: NonNegativeInt
    """Global rank."""
    node: str | None = None
    """Node of its pod."""
    slowdown: float
    """Compute time per step as a multiple of the median of the rank's peers."""
    since: Time | None = None
    """When the operator first listed the rank."""


class NodeFailure(Model):
    """Recent failures of the job on one node."""

    node: str
    """Name of the node."""
    failures: NonNegativeInt = 0
    """Failures of the job that originated on the node."""
    reason: str = ""
    """Reason of the latest failure."""
    last_time: Time | None = None
    """When the latest failure was detected."""
    reused: bool = False
    """True if the node is used again because the pods did not fit elsewhere."""


class JobStatus(Model):
    """Observed state of the training job."""

    observed_generation: NonNegativeInt | None = None
    """metadata.generation that this status is based on."""
    state: State | None = None
    """Summary of the conditions in one word."""
    conditions: list[Condition] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """Conditions of the job, by type."""
    start_time: Time | None = None
    """When the job started or resumed. Unset while suspended."""
    queued_since: Time | None = None
    """Since when a queue has held the pods back. Unset: it does not."""
    queued_seconds: NonNegativeInt = 0
    """Seconds after startTime that the pods have waited in a queue before; activeDeadlineSeconds leaves them
    out."""
    completion_time: Time | None = None
    """When the job succeeded or failed."""
    attempt: NonNegativeInt = 0
    """Number of the current attempt, from 0."""
    spec_hash: str | None = None
    """Hash of the specification that the current pods were created from."""
    claim_uid: str | None = None
    """UID of the claim made from claimTemplate. Once set, a deleted claim is not recreated."""
    launch: Launch | None = None
    """The pods that the operator is starting or running now."""
    restarts: Restarts = Field(default_factory=Restarts)
    """Gang restart counters."""
    nodes: Nodes = Field(default_factory=Nodes)
    """Worker pods of the current attempt."""
    replicas: NonNegativeInt = 0
    """Worker pods of the current attempt, for kubectl scale."""
    selector: str = ""
    """Label selector of the worker pods, for kubectl scale."""
    elastic_nodes: Annotated[int, Field(ge=1)] | None = None
    """Nodes of a shrunk elastic job. Unset: numNodes."""
    scheduling: Scheduling | None = None
    """Attempts to place all pods together, after a first release. Unset once the pods run."""
    progress: Progress | None = None
    """Latest training metrics."""
    stragglers: list[Straggler] = Field(default_factory=list)
    """Ranks slower than their peers by at least runPolicy.stragglerFactor."""
    last_checkpoint: Checkpoint | None = None
    """The newest complete checkpoint."""
    dataset: Dataset | None = None
    """The prepared dataset."""
    last_failure: Failure | None = None
    """Root cause of the last failure."""
    failures: list[Failure] = Field(default_factory=list)
    """Root causes of the last ten failures, newest first."""
    node_failures: list[NodeFailure] = Field(default_factory=list)
    """Nodes on which the job failed in the last runPolicy.nodeAvoidance.seconds."""


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
