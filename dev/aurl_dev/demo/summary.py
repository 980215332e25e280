"""The end of the demo: summary.json, a table of results, and next steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aurl_dev.demo.follow import Story


def summarise(story: Story, files: dict[str, str], seconds_total: float) -> dict[str, Any]:
    """Return the content of summary.json; `seconds_total` counts from `make demo`, others from the apply."""
    return {
        "state": story.state,
        "steps": story.step,
        "initial_loss": story.initial_loss,
        "final_loss": story.loss,
        "validation_loss": story.validation_loss,
        "tokens_per_second": story.tokens_per_second,
        "samples_per_second": story.samples_per_second,
        "restarts": story.restarts,
        "checkpoint_step": story.checkpoint["step"] if story.checkpoint else None,
        "sample_midi": files.get("sample_midi"),
        "piano_roll_png": files.get("piano_roll_png"),
        "seconds_total": round(seconds_total, 1),
        "seconds_apply_to_first_pod_created": _rounded(story.first_pod_created),
        "seconds_apply_to_pods_created": _rounded(story.workers_created),
        "seconds_apply_to_first_step": _rounded(story.first_step),
        "seconds_apply_to_end": _rounded(story.finished),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


def write(summary: dict[str, Any], path: Path) -> None:
    """Write the summary atomically."""
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(summary, indent=2) + "\n")
    partial.replace(path)


def table(summary: dict[str, Any], story: Story) -> Table:
    """Return the results as a table."""
    rows = Table(title="Results", show_header=False, title_justify="left")
    rows.add_column(style="bold")
    rows.add_column()

    def seconds(key: str) -> str:
        value = summary[key]
        return "–" if value is None else f"{value:.1f} s"

    dataset = story.prepared
    loss = [summary["initial_loss"], summary["final_loss"], summary["validation_loss"]]
    first, final, held_out = ("–" if value is None else f"{value:.3f}" for value in loss)
    speed = summary["tokens_per_second"]
    for name, value in (
        ("job", f"{summary['state']} after {seconds('seconds_apply_to_end')}"),
        ("dataset", f"{dataset.get('files', '–')} pieces, {dataset.get('dropped', 0)} dropped, "
                    f"{dataset.get('trainTokens', 0):,} training tokens"),
        ("steps", f"{summary['steps']}"),
        ("loss (nats per token)", f"{first} → {final}, validation {held_out}"),
        ("speed", "–" if speed is None else f"{speed:,.0f} tokens/s"),
        ("checkpoints", ", ".join(str(step) for step in story.checkpoints_seen) or "–"),
        ("restarts", f"{summary['restarts']}"),
        ("apply → first pod", seconds("seconds_apply_to_first_pod_created")),
        ("apply → worker pods", seconds("seconds_apply_to_pods_created")),
        ("apply → first step", seconds("seconds_apply_to_first_step")),
        ("total", seconds("seconds_total")),
        ("music", f"{summary['sample_midi']}"),
        ("piano roll", f"{summary['piano_roll_png']}"),
    ):  # fmt: skip
        rows.add_row(name, value)
    return rows


def print_next_steps(
    console: Console, kubeconfig: Path, namespace: str, name: str, pod: str, tensorboard: Path
) -> None:
    """Print commands for looking further, ready to paste."""
    service = "/api/v1/namespaces/aurl-system/services/aurl-aurl-operator:http/proxy/metrics"
    lines = [
        f"export KUBECONFIG={kubeconfig}",
        f"kubectl -n {namespace} get atj,pods",
        f"kubectl -n {namespace} describe atj {name}",
        f"kubectl -n {namespace} logs {pod}",
        "kubectl explain aurltrainingjob.spec.training",
        f"kubectl get --raw {service}   # what Prometheus scrapes",
        f".venv/bin/tensorboard --logdir {tensorboard}",
        "make demo-down      # delete the job and the operator",
        "make cluster-down   # delete the local cluster",
    ]
    console.print("\n[bold]Next steps[/bold]")
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)
