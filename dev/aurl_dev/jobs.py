"""Job documents for tests and benchmarks on a cluster: real music and a real model, trained in seconds."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import yaml

# Two pods of one process. Checkpoints come often, so that a pod can be deleted between two of them.
SMALL = yaml.safe_load("""
apiVersion: aurl.ai/v1alpha1
kind: AurlTrainingJob
metadata: {name: small}
spec:
  numNodes: 2
  numProcPerNode: 1
  resourcesPerNode:
    requests: {cpu: 200m, memory: 512Mi}
    limits: {memory: 2Gi}
  storage: {claimTemplate: {size: 1Gi}}
  dataset:
    source: {music21Corpus: {collection: chorales, maxPieces: 12}}
  training:
    mode: transformer
    steps: 300
    contextLength: 128
    threads: 1
    model: {dModel: 64, layers: 2, heads: 4, dropout: 0.1}
    batch: {globalBatchSize: 8, microBatchSize: 4}
    optimizer: {learningRate: 0.002}
    schedule: {warmupSteps: 20}
    checkpoint: {everySteps: 40, keepLast: 20}
    evaluation: {everySteps: 100, batches: 2, music: {everySteps: 100, samples: 2}}
    logging: {everySteps: 5, peakTeraflops: 0.1}  # needed for MFU: a CPU has no entry in the table of devices
    sample: {count: 1, maxTokens: 128}
  runPolicy: {backoffLimit: 2, terminationGracePeriodSeconds: 30}
""")


def small(name: str, **changes: Any) -> dict[str, Any]:
    """Return the small job under another name, with changes to its spec as `changed` takes them."""
    return changed({**SMALL, "metadata": {"name": name}}, **changes)


def changed(job: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a copy of a job with changes to its spec.

    Keys are paths with `__` between the parts, and None removes a key:
    `changed(job, storage__claimTemplate=None, storage__claimName="music")`.
    """
    job = deepcopy(job)
    for path, value in changes.items():
        *parents, last = path.split("__")
        owner = job["spec"]
        for parent in parents:
            owner = owner.setdefault(parent, {})
        if value is None:
            owner.pop(last, None)
        else:
            owner[last] = value
    return job
