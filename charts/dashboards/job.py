"""Dashboard Job: one training job, from its loss to the memory of each rank."""

from __future__ import annotations

from board import Dashboard, Panel, Variable

JOB = 'namespace=~"$namespace", training_job=~"$job"'

#: A restarted gang has new pods: aggregating over them continues the line.
JOINED = "without (instance, pod)"


def raw(metric: str, *more: str) -> str:
    """Return a query for the series of each pod of the selected job."""
    return f"{metric}{{{', '.join([JOB, *more])}}}"


def of(metric: str, *more: str) -> str:
    """Return a query for a metric of the selected job, aggregated over its pods."""
    return f"max {JOINED} ({raw(metric, *more)})"


def of_ranks(metric: str, *more: str) -> str:
    """Return a query for a metric of the selected ranks, aggregated over their pods."""
    return of(metric, 'rank=~"$rank"', *more)


def rate(metric: str, *more: str) -> str:
    """Return a query for the rate per second of a counter of the selected job."""
    return f"sum {JOINED} (rate({raw(metric, *more)}[$__rate_interval]))"


TRAINING = (
    Panel(
        "Progress",
        "Optimizer steps completed, as a fraction of those planned.",
        "percentunit",
        {"steps": f"{of('aurl_train_step')} / {of('aurl_train_steps_planned')}"},
        kind="stat",
        width=4,
        height=7,
        maximum=1,
    ),
    Panel(
        "Loss",
        "Nats per token: training, validation, and validation with averaged weights (EMA) if enabled.",
        "none",
        {"{{split}}": of("aurl_train_loss")},
        width=10,
        height=7,
        minimum=None,
    ),
    Panel(
        "Loss terms",
        "Unweighted mean of each term of the loss.",
        "none",
        {"{{term}}": of("aurl_train_loss_component"), "{{term}} (hook)": of("aurl_train_loss_term")},
        width=10,
        height=7,
        minimum=None,
        needs="mode vae or vae-gan, training.losses or training.hooks",
    ),
    Panel(
        "Learning rate",
        "Learning rate of the last step, including reductions by the stability supervisor.",
        "none",
        {"learning rate": of("aurl_train_learning_rate")},
    ),
    Panel(
        "Gradient norm",
        "Norm of the gradient before clipping.",
        "none",
        {"norm": of("aurl_train_gradient_norm")},
        logarithmic=True,
    ),
    Panel(
        "Curriculum and batch",
        "Tokens per sample, samples per step, and samples per pass of a rank.",
        "none",
        {
            "sequence length": of("aurl_train_sequence_length_tokens"),
            "batch size": of("aurl_train_batch_size_samples"),
            "micro-batch size": of("aurl_train_micro_batch_size_samples"),
        },
    ),
)

STABILITY = (
    Panel(
        "Skipped steps",
        "Skipped updates in this attempt, by reason.",
        "short",
        {"{{reason}}": of("aurl_train_skipped_steps_total")},
    ),
    Panel(
        "Rollbacks and lost steps",
        "Rollbacks to the last healthy checkpoint in this attempt, and the steps lost by them.",
        "short",
        {"rollbacks": of("aurl_train_rollbacks_total"), "lost steps": of("aurl_train_lost_steps_total")},
    ),
    Panel(
        "Anomalies",
        "Detected anomalies and the actions taken, in this attempt.",
        "short",
        {"{{kind}}: {{action}}": of("aurl_train_anomalies_total")},
    ),
)

SPEED = (
    Panel(
        "Tokens per second",
        "Of the whole job, over the last log interval.",
        "short",
        {"tokens/s": of("aurl_train_tokens_per_second")},
        width=6,
    ),
    Panel(
        "Samples per second",
        "Of the whole job, over the last log interval.",
        "short",
        {"samples/s": of("aurl_train_samples_per_second")},
        width=6,
    ),
    Panel(
        "Utilisation (MFU)",
        "Model FLOPs per second as a fraction of the devices' peak.",
        "percentunit",
        {"MFU": of("aurl_train_mfu_ratio")},
        width=6,
        needs="a device whose peak is known, or training.logging.peakTeraflops",
    ),
    Panel(
        "Step time",
        "Mean duration of an optimizer step over the last log interval.",
        "s",
        {"step": of("aurl_train_step_seconds")},
        width=6,
    ),
    Panel(
        "Time of rank 0 by phase",
        "Fraction of wall-clock time in each phase.",
        "percentunit",
        {"{{phase}}": rate("aurl_train_time_seconds_total")},
        stacked=True,
        maximum=1,
    ),
    Panel(
        "Data wait",
        "Fraction of time that each rank waits for its next batch.",
        "percentunit",
        {"rank {{rank}}": rate("aurl_train_data_wait_seconds_total", 'rank=~"$rank"')},
    ),
    Panel(
        "Compute time by rank",
        "Time per step without waiting for other ranks; all ranks wait for the slowest.",
        "s",
        {"rank {{rank}}": of_ranks("aurl_train_compute_seconds")},
        needs="several ranks",
    ),
)

MEMORY = (
    Panel(
        "Host memory",
        "Resident memory of each rank: current and peak.",
        "bytes",
        {
            "rank {{rank}}": of_ranks("aurl_train_memory_bytes", 'kind="rss"'),
            "rank {{rank}}, peak": of_ranks("aurl_train_memory_bytes", 'kind="rss_peak"'),
        },
    ),
    Panel(
        "Device memory",
        "Memory of each rank's allocator: allocated, reserved and peak.",
        "bytes",
        {"rank {{rank}}, {{kind}}": of_ranks("aurl_train_memory_bytes", 'kind=~"device.*"')},
        needs="a GPU",
    ),
    Panel(
        "Peak memory by phase",
        "Highest memory use of each rank in each phase.",
        "bytes",
        {"rank {{rank}}: {{phase}}, {{kind}}": of_ranks("aurl_train_memory_phase_peak_bytes")},
        kind="bargauge",
    ),
)

SURVIVAL = (
    Panel(
        "Checkpoints",
        "Checkpoints saved, failed, or found corrupt in this attempt.",
        "short",
        {"{{result}}": of("aurl_train_checkpoints_total")},
        width=6,
    ),
    Panel(
        "Age of the newest checkpoint",
        "Work that would be lost if a pod failed now.",
        "s",
        {"age": f"time() - {of('aurl_train_checkpoint_timestamp_seconds')}"},
        width=6,
    ),
    Panel(
        "Checkpoint save time",
        "Time from request to commit; training continues meanwhile.",
        "s",
        {"save": of("aurl_train_checkpoint_save_seconds")},
        width=6,
    ),
    Panel(
        "Attempt",
        "Number of the attempt; each gang restart starts a new one.",
        "none",
        {"attempt {{attempt}}": f"max by (attempt) ({raw('aurl_train_info')})"},
        width=6,
    ),
    Panel(
        "Goodput",
        "Fraction of wall-clock time, over all attempts, spent on training that was not lost.",
        "percentunit",
        {"goodput": of("aurl_train_goodput_ratio")},
        kind="stat",
        width=6,
        maximum=1,
    ),
    Panel(
        "Badput by cause",
        "Wall-clock time of all attempts that did not advance training, by cause.",
        "s",
        {"{{cause}}": of("aurl_train_badput_seconds")},
        width=10,
        stacked=True,
    ),
    Panel(
        "State",
        "Current state of each pod.",
        "short",
        {"": f"{raw('aurl_train_state')} == 1"},
        kind="table",
        width=8,
    ),
)

MUSIC_MEASURES = "overlap.*|memorised.*|valid_(pieces|tokens)"
"""Metrics of `training.evaluation.music`."""

MUSIC = (
    Panel(
        "Bits per note",
        "Validation loss per note instead of per token: comparable between encodings.",
        "none",
        {"bits per note": of("aurl_train_evaluation", 'metric="bits_per_note"')},
        width=12,
        minimum=None,
    ),
    Panel(
        "Other evaluation metrics",
        "Metrics of autoencoders (active units, KL, shuffled latents) and user-defined metrics.",
        "none",
        {"{{metric}}": of("aurl_train_evaluation", f'metric!~"bits_per_.+|{MUSIC_MEASURES}"')},
        width=12,
        minimum=None,
        needs="mode vae or vae-gan, or training.hooks.metrics",
    ),
    Panel(
        "Sampled music compared with the corpus",
        "Mean overlap of ten distributions and its floor (the corpus with itself), memorised 12-grams "
        "and their floor (held-out music), and validity when sampling without the grammar.",
        "percentunit",
        {
            "{{metric}}": of(
                "aurl_train_evaluation",
                'metric=~"overlap|overlap_floor|memorised.*|valid_(pieces|tokens)"',
            )
        },
        width=12,
        needs="training.evaluation.music.everySteps",
    ),
    Panel(
        "Overlap by feature",
        "Overlap of the histograms of sampled music and corpus, by feature.",
        "percentunit",
        {"{{metric}}": of("aurl_train_evaluation", 'metric=~"overlap_.+"', 'metric!="overlap_floor"')},
        width=12,
        needs="training.evaluation.music.everySteps",
    ),
)

JOB_BOARD = Dashboard(
    uid="aurl-job",
    title="Aurl / Job",
    description="One training job: loss, stability, speed, memory, checkpoints and evaluation.",
    variables=(
        Variable("namespace", "Namespace", "label_values(aurl_train_state, namespace)"),
        Variable("job", "Job", 'label_values(aurl_train_state{namespace=~"$namespace"}, training_job)'),
        Variable(
            "rank",
            "Rank",
            'label_values(aurl_train_memory_bytes{namespace=~"$namespace", training_job=~"$job"}, rank)',
            many=True,
        ),
    ),
    rows={
        "Training": TRAINING,
        "Stability": STABILITY,
        "Speed": SPEED,
        "Memory": MEMORY,
        "Checkpoints and restarts": SURVIVAL,
        "Evaluation": MUSIC,
    },
)
