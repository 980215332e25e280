"""`status` of an AurlTrainingJob: what the operator reports. Only the operator writes it."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from aurl_operator.api.base import Model, Time

State = Literal[
    "Pending", "Preparing", "Starting", "Running", "Restarting", "Suspended", "Succeeded", "Failed"
]
FailureClass = Literal[
    "UserError", "OutOfMemory", "Divergence", "Hang", "Infrastructure", "Preemption", "Unknown"
]
ConditionStatus = Literal["True", "False", "Unknown"]
ConditionType = Literal[
    "Succeeded", "Failed", "Running", "DatasetReady", "Suspended", "Reconciling", "Stalled"
]
Role = Literal["prepare", "worker", "spare"]


class Condition(Model):
    """One aspect of the job, as metav1.Condition."""

    type: str = Field(
        description="Succeeded (the summary), Failed, Running, DatasetReady, Suspended, Reconciling, Stalled."
    )
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: str = Field(default="", description="One CamelCase word for machines.")
    message: str = Field(default="", description="One sentence for people.")
    observed_generation: int | None = Field(
        default=None, ge=0, description="metadata.generation that this speaks of."
    )
    last_transition_time: Time | None = Field(default=None, description="When status last changed.")


class Restarts(Model):
    """How often the whole gang was started anew. Counts never go down."""

    total: int = Field(default=0, ge=0, description="Gang restarts of the job.")
    by_class: dict[str, int] = Field(default_factory=dict, description="Gang restarts by class of failure.")
    consecutive: int = Field(
        default=0,
        ge=0,
        description="Failures in a row without a new checkpoint in between; decides the back-off.",
    )


class Nodes(Model):
    """Worker pods of the present attempt."""

    desired: int = Field(default=0, ge=0, description="Worker pods wanted.")
    ready: int = Field(default=0, ge=0, description="Worker pods running.")


class Launch(Model):
    """The set of pods that the operator is bringing up or keeping now."""

    role: Role = Field(description="prepare (one pod writes the dataset) or worker (the torchrun gang).")
    queued: bool = Field(default=False, description="True while a queue has not admitted the pods yet.")
    start_time: Time | None = Field(
        default=None, description="When the set was first wanted; startupDeadlineSeconds runs from here."
    )
    created_time: Time | None = Field(default=None, description="When all pods of the set existed.")
    running_time: Time | None = Field(default=None, description="When all pods of the set ran.")
    avoided_nodes: list[str] = Field(
        default_factory=list, description="Nodes that the pods of the set may not run on."
    )


class Progress(Model):
    """Latest known values of the training, for the whole job."""

    step: int | None = Field(default=None, ge=0, description="Optimizer steps done.")
    total_steps: int | None = Field(default=None, ge=0, description="Optimizer steps planned.")
    start_step: int | None = Field(default=None, ge=0, description="Step at which the present attempt began.")
    percentage: int | None = Field(
        default=None, ge=0, le=100, description="step / totalSteps in percent, rounded down."
    )
    loss: float | None = Field(default=None, description="Training loss, nats per token.")
    initial_loss: float | None = Field(
        default=None, description="Training loss of the first step, nats per token."
    )
    validation_loss: float | None = Field(default=None, description="Validation loss, nats per token.")
    tokens_per_second: int | None = Field(
        default=None, ge=0, description="Tokens per second of the whole job."
    )
    samples_per_second: float | None = Field(default=None, description="Samples per second of the whole job.")
    estimated_remaining_seconds: int | None = Field(
        default=None, ge=0, description="Seconds until the last step at this speed."
    )
    first_step_time: Time | None = Field(
        default=None, description="When the present attempt finished its first step."
    )
    last_step_time: Time | None = Field(default=None, description="When step was last seen to change.")
    last_updated_time: Time | None = Field(
        default=None, description="When these values were read from the launcher."
    )


class Checkpoint(Model):
    """The newest complete checkpoint."""

    step: int = Field(ge=0, description="Optimizer step that it holds.")
    path: str = Field(default="", description="Path relative to the volume.")
    time: Time | None = Field(default=None, description="When it was complete.")


class Dataset(Model):
    """What the prepare pod made."""

    fingerprint: str | None = Field(
        default=None, description="Content hash of source files and configuration."
    )
    path: str | None = Field(default=None, description="Path relative to the volume.")
    files: int | None = Field(default=None, ge=0, description="Files tokenized.")
    dropped: int | None = Field(
        default=None, ge=0, description="Files left out because they could not be read."
    )
    dropped_names: list[str] = Field(default_factory=list, description="Names of the first files left out.")
    train_tokens: int | None = Field(default=None, ge=0, description="Tokens of the training split.")
    spec_hash: str | None = Field(
        default=None, description="Hash of spec.dataset and spec.storage as of then."
    )


class Failure(Model):
    """The root cause of the last failure."""

    failure_class: FailureClass = Field(
        validation_alias=AliasChoices("class", "failure_class"),
        serialization_alias="class",
        description="Decides what happens: UserError fails at once, Infrastructure has its own budget, "
        "Preemption needs none, the others consume backoffLimit.",
    )
    reason: str = Field(default="", description="One CamelCase word for machines.")
    message: str = Field(default="", description="One sentence for people.")
    role: Role | None = Field(default=None, description="Role of the pod that failed.")
    attempt: int | None = Field(default=None, ge=0, description="Attempt that failed.")
    pod: str | None = Field(default=None, description="Pod that failed first.")
    node: str | None = Field(default=None, description="Node of that pod.")
    rank: int | None = Field(default=None, ge=0, description="Rank that failed first.")
    exit_code: int | None = Field(default=None, description="Exit code of that rank, or of the container.")
    signal: int | None = Field(default=None, description="Signal that ended that rank.")
    exception: str | None = Field(default=None, description="Type of the exception.")
    step: int | None = Field(default=None, ge=0, description="Optimizer step at which it failed.")
    checkpoint_step: int | None = Field(
        default=None, ge=0, description="Step of the newest checkpoint at that moment."
    )
    time: Time | None = Field(default=None, description="When it was noticed.")


class Scheduling(Model):
    """A gang that did not find room for all of its pods at once."""

    releases: int = Field(
        default=0, ge=0, description="How often its pods were released so that they block nobody."
    )
    since: Time | None = Field(default=None, description="When the first try began.")
    retry_time: Time | None = Field(default=None, description="When the next try begins.")
    message: str = Field(default="", description="One sentence for people.")


class Straggler(Model):
    """A rank for which its peers wait in every step."""

    rank: int = Field(ge=0, description="The rank.")
    node: str | None = Field(default=None, description="Node of its pod.")
    slowdown: float = Field(
        description="What it works on its own in a step, as a multiple of the median of its peers."
    )
    since: Time | None = Field(default=None, description="When that was noticed.")


class NodeFailure(Model):
    """What a node has done to the job lately."""

    node: str = Field(description="Name of the node.")
    failures: int = Field(default=0, ge=0, description="Failures of the job that began on this node.")
    reason: str = Field(default="", description="Reason of the last one.")
    last_time: Time | None = Field(default=None, description="When the last one was noticed.")
    spared: bool = Field(
        default=False,
        description="True if the node is used in spite of that, because the pods found no other.",
    )


class JobStatus(Model):
    """What the operator last saw and decided."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="metadata.generation that this status speaks of."
    )
    state: State | None = Field(default=None, description="One word for people.")
    conditions: list[Condition] = Field(
        default_factory=list,
        description="Aspects of the job, keyed by type.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    start_time: Time | None = Field(
        default=None, description="When the operator took the job up; none while suspended."
    )
    completion_time: Time | None = Field(default=None, description="When the job succeeded or failed.")
    attempt: int = Field(default=0, ge=0, description="Number of the present attempt, from 0.")
    spec_hash: str | None = Field(
        default=None, description="Hash of the specification that the present pods were made from."
    )
    claim_uid: str | None = Field(
        default=None,
        description="UID of the claim made from claimTemplate; once known, a lost claim is not made anew.",
    )
    launch: Launch | None = Field(default=None, description="The set of pods that is being kept now.")
    restarts: Restarts = Field(default_factory=Restarts, description="Gang restarts.")
    nodes: Nodes = Field(default_factory=Nodes, description="Worker pods of the present attempt.")
    replicas: int = Field(
        default=0, ge=0, description="Worker pods of the present attempt, for kubectl scale."
    )
    selector: str = Field(default="", description="Label selector of the worker pods, for kubectl scale.")
    elastic_nodes: int | None = Field(
        default=None, ge=1, description="Nodes that the job goes on with while there is no room for numNodes."
    )
    scheduling: Scheduling | None = Field(
        default=None, description="Tries to place all pods together; none once they run."
    )
    progress: Progress | None = Field(default=None, description="Latest known values of the training.")
    stragglers: list[Straggler] = Field(
        default_factory=list, description="Ranks slower than their peers by runPolicy.stragglerFactor."
    )
    last_checkpoint: Checkpoint | None = Field(default=None, description="The newest complete checkpoint.")
    dataset: Dataset | None = Field(default=None, description="The prepared dataset.")
    last_failure: Failure | None = Field(default=None, description="Root cause of the last failure.")
    node_failures: list[NodeFailure] = Field(
        default_factory=list,
        description="Nodes that failed the job, until runPolicy.nodeAvoidance.seconds have passed.",
    )


#: `kubectl get atj`: name, JSON path, OpenAPI type, priority (1 is shown with -o wide only).
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
