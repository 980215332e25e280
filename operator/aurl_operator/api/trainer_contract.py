# Written by `make generate` from trainer/aurl_trainer/contract.py; do not edit.
"""The contract between operator and trainer: every name that both sides use, typed once.

The operator imports nothing of the trainer, so `make generate` copies this module to
`operator/aurl_operator/api/trainer_contract.py`; it therefore imports the standard library only. The meaning
of each name is in docs/contracts.md, and a test compares its tables with this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal

VARIABLE_PREFIX: Final = "AURL_"
"""Environment variables with this prefix are reserved for the operator."""


class Variable(StrEnum):
    """Environment variables of a pod."""

    JOB_NAME = "AURL_JOB_NAME"
    JOB_NAMESPACE = "AURL_JOB_NAMESPACE"
    JOB_UID = "AURL_JOB_UID"
    ATTEMPT = "AURL_ATTEMPT"
    NODE_RANK = "AURL_NODE_RANK"
    NUM_NODES = "AURL_NUM_NODES"
    NPROC_PER_NODE = "AURL_NPROC_PER_NODE"
    RDZV_ENDPOINT = "AURL_RDZV_ENDPOINT"
    POD_IP = "AURL_POD_IP"
    NODE_NAME = "AURL_NODE_NAME"
    POD_NAME = "AURL_POD_NAME"
    CONFIG = "AURL_CONFIG"
    VOLUME = "AURL_VOLUME"
    RUN_DIR = "AURL_RUN_DIR"
    JOB_DIR = "AURL_JOB_DIR"
    HTTP_PORT = "AURL_HTTP_PORT"
    GRACE_SECONDS = "AURL_GRACE_SECONDS"
    LINGER_SECONDS = "AURL_LINGER_SECONDS"
    HANG_SECONDS = "AURL_HANG_SECONDS"
    OUT_OF_MEMORY_RESTARTS = "AURL_OUT_OF_MEMORY_RESTARTS"
    TERMINATION_LOG = "AURL_TERMINATION_LOG"
    LOG_FORMAT = "AURL_LOG_FORMAT"


HTTP_PORT: Final = 9402
RENDEZVOUS_PORT: Final = 29400

PROGRESS_PATH: Final = "/progress"
METRICS_PATH: Final = "/metrics"

CONFIG_DIR: Final = "/etc/aurl"
CONFIG_FILE: Final = "job.yaml"
VOLUME_DIR: Final = "/mnt/aurl"
RUN_DIR: Final = "/run/aurl"

LaunchRole = Literal["train", "prepare"]
"""The work of a launcher: `aurl-trainer launch <role>`."""

PodState = Literal["Starting", "Preparing", "Training", "Saving", "Finished", "Failed"]
"""`state` of /progress."""

FINISHED: Final[PodState] = "Finished"

EndState = Literal["Succeeded", "Failed", "Interrupted"]
"""`state` of the termination message."""

SUCCEEDED: Final[EndState] = "Succeeded"
FAILED: Final[EndState] = "Failed"
INTERRUPTED: Final[EndState] = "Interrupted"

ReportedClass = Literal[
    "UserError", "OutOfMemory", "Divergence", "Hang", "Hardware", "Infrastructure", "Unknown"
]
"""`class` of the termination message of a failure; the operator adds classes that only it can see."""

EXIT_CODES: Final[Mapping[ReportedClass, int]] = MappingProxyType(
    {"UserError": 2, "Divergence": 3, "Hang": 124, "OutOfMemory": 137}
)
"""Exit codes of the launcher by class of failure; SIGKILL from outside gives 137 too."""

INTERRUPTED_EXIT_CODE: Final = 143
"""Exit code of a launcher that SIGTERM interrupted."""


class ProgressKey(StrEnum):
    """Keys of /progress, except for the metrics that only people and dashboards read."""

    JOB = "job"
    NAMESPACE = "namespace"
    ATTEMPT = "attempt"
    NODE_RANK = "nodeRank"
    WORLD_SIZE = "worldSize"
    ROLE = "role"
    MODE = "mode"
    PRECISION = "precision"
    STATE = "state"
    STEP = "step"
    TOTAL_STEPS = "totalSteps"
    START_STEP = "startStep"
    INITIAL_LOSS = "initialLoss"
    LOSS = "loss"
    VALIDATION_LOSS = "validationLoss"
    TOKENS_PER_SECOND = "tokensPerSecond"
    SAMPLES_PER_SECOND = "samplesPerSecond"
    TOKENS_TOTAL = "tokensTotal"
    COMPUTE_SECONDS = "computeSeconds"
    LAST_CHECKPOINT = "lastCheckpoint"
    STARTED_AT = "startedAt"
    FIRST_STEP_AT = "firstStepAt"
    UPDATED_AT = "updatedAt"
    HEARTBEAT_AGE_SECONDS = "heartbeatAgeSeconds"
    STOP_REASON = "stopReason"
    PREPARATION = "preparation"
    EVENTS = "events"


class ComputeKey(StrEnum):
    """Keys of `computeSeconds` if there are too many ranks to list them all."""

    MEDIAN = "median"
    SLOWEST = "slowest"


class CheckpointKey(StrEnum):
    """Keys of `lastCheckpoint`."""

    STEP = "step"
    PATH = "path"
    TIME = "time"


class TerminationKey(StrEnum):
    """Keys of the termination message, to which the final values are added under their keys of /progress."""

    STATE = "state"
    CLASS = "class"
    RANK = "rank"
    EXIT_CODE = "exitCode"
    SIGNAL = "signal"
    EXCEPTION = "exception"
    MESSAGE = "message"
    PEER_LOST = "peerLost"
    DATASET = "dataset"


class DatasetKey(StrEnum):
    """Keys of `dataset`."""

    FINGERPRINT = "fingerprint"
    PATH = "path"
    FILES = "files"
    DROPPED = "dropped"
    DROPPED_NAMES = "droppedNames"
    TRAIN_TOKENS = "trainTokens"


TERMINATION_MESSAGE_LIMIT: Final = 4096
"""Bytes of a termination message; the kubelet cuts off the rest."""
