"""Job: one training job, from its loss to the memory of each rank."""

from __future__ import annotations

from board import Dashboard, Panel, Query, Row, Variable

JOB = 'namespace=~"$namespace", training_job=~"$job"'


#: A gang that starts again has other pods: their series are joined, so that a line goes on.
JOINED = "without (instance, pod)"


def raw(metric: str, *more: str) -> str:
    """The series of each pod of the chosen job."""
    return f"{metric}{{{', '.join([JOB, *more])}}}"


def of(metric: str, *more: str) -> str:
    """A metric of the chosen job, whichever pods tell it."""
    return f"max {JOINED} ({raw(metric, *more)})"


def of_ranks(metric: str, *more: str) -> str:
    """A metric of the chosen ranks, whichever pods tell it."""
    return of(metric, 'rank=~"$rank"', *more)


def rate(metric: str, *more: str) -> str:
    """Growth per second of a counter of the chosen job."""
    return f"sum {JOINED} (rate({raw(metric, *more)}[$__rate_interval]))"


TRAINING = Row(
    "Training",
    (
        Panel(
            "Progress",
            "Optimizer steps that are done, of those that are planned.",
            "percentunit",
            [Query(f"{of('aurl_train_step')} / {of('aurl_train_steps_planned')}", "steps")],
            kind="stat",
            width=4,
            height=7,
            maximum=1,
        ),
        Panel(
            "Loss",
            "Nats per token: training, held-out, and held-out with averaged weights where there are any.",
            "none",
            [Query(of("aurl_train_loss"), "{{split}}")],
            width=10,
            height=7,
            minimum=None,
        ),
        Panel(
            "Terms of the loss",
            "Mean of each term before its weight; only where the loss has several.",
            "none",
            [
                Query(of("aurl_train_loss_component"), "{{term}}"),
                Query(of("aurl_train_loss_term"), "{{term}} (own)"),
            ],
            width=10,
            height=7,
            minimum=None,
            needs="mode vae or vae-gan, training.losses or training.hooks",
        ),
        Panel(
            "Learning rate",
            "Of the last step, cuts by the stability supervisor included.",
            "none",
            [Query(of("aurl_train_learning_rate"), "learning rate")],
        ),
        Panel(
            "Gradient norm",
            "Before clipping.",
            "none",
            [Query(of("aurl_train_gradient_norm"), "norm")],
            logarithmic=True,
        ),
        Panel(
            "Curriculum and batch",
            "Tokens per sample, samples per step, and samples in one pass of a rank.",
            "none",
            [
                Query(of("aurl_train_sequence_length_tokens"), "sequence length"),
                Query(of("aurl_train_batch_size_samples"), "batch size"),
                Query(of("aurl_train_micro_batch_size_samples"), "micro-batch size"),
            ],
        ),
    ),
)

STABILITY = Row(
    "Stability",
    (
        Panel(
            "Skipped steps",
            "Updates that were left out since the attempt began, by reason.",
            "short",
            [Query(of("aurl_train_skipped_steps_total"), "{{reason}}")],
        ),
        Panel(
            "Roll-backs and lost steps",
            "Returns to the last healthy checkpoint in this attempt, and the steps that they threw away.",
            "short",
            [
                Query(of("aurl_train_rollbacks_total"), "roll-backs"),
                Query(of("aurl_train_lost_steps_total"), "lost steps"),
            ],
        ),
        Panel(
            "Anomalies",
            "What was found and what was done about it, in this attempt.",
            "short",
            [Query(of("aurl_train_anomalies_total"), "{{kind}}: {{action}}")],
        ),
    ),
)

SPEED = Row(
    "Speed",
    (
        Panel(
            "Tokens per second",
            "Of the whole job, over the last log interval.",
            "short",
            [Query(of("aurl_train_tokens_per_second"), "tokens/s")],
            width=6,
        ),
        Panel(
            "Samples per second",
            "Of the whole job, over the last log interval.",
            "short",
            [Query(of("aurl_train_samples_per_second"), "samples/s")],
            width=6,
        ),
        Panel(
            "Utilisation",
            "Model FLOPs per second as a share of the devices' peak (MFU); only where the peak is known.",
            "percentunit",
            [Query(of("aurl_train_mfu_ratio"), "MFU")],
            width=6,
            needs="a device whose peak is known, or training.logging.peakTeraflops",
        ),
        Panel(
            "Step",
            "Mean duration of an optimizer step over the last log interval.",
            "s",
            [Query(of("aurl_train_step_seconds"), "step")],
            width=6,
        ),
        Panel(
            "What rank 0 does",
            "Share of its time by phase.",
            "percentunit",
            [Query(rate("aurl_train_time_seconds_total"), "{{phase}}")],
            stacked=True,
            maximum=1,
        ),
        Panel(
            "Waiting for data",
            "Share of its time that each rank waits for its next batch.",
            "percentunit",
            [Query(rate("aurl_train_data_wait_seconds_total", 'rank=~"$rank"'), "rank {{rank}}")],
        ),
        Panel(
            "Work of each rank",
            "What a rank works on its own in a step; all wait for the slowest.",
            "s",
            [Query(of_ranks("aurl_train_compute_seconds"), "rank {{rank}}")],
            needs="several ranks",
        ),
    ),
)

MEMORY = Row(
    "Memory",
    (
        Panel(
            "Memory of the host",
            "Resident memory of each rank, now and at its peak.",
            "bytes",
            [
                Query(of_ranks("aurl_train_memory_bytes", 'kind="rss"'), "rank {{rank}}"),
                Query(of_ranks("aurl_train_memory_bytes", 'kind="rss_peak"'), "rank {{rank}}, peak"),
            ],
        ),
        Panel(
            "Memory of the device",
            "What the allocator of each rank holds for tensors, has reserved, and held at its peak.",
            "bytes",
            [Query(of_ranks("aurl_train_memory_bytes", 'kind=~"device.*"'), "rank {{rank}}, {{kind}}")],
            needs="a GPU",
        ),
        Panel(
            "Peak by phase",
            "The highest memory of a rank while it did something.",
            "bytes",
            [Query(of_ranks("aurl_train_memory_phase_peak_bytes"), "rank {{rank}}: {{phase}}, {{kind}}")],
            kind="bargauge",
        ),
    ),
)

SURVIVAL = Row(
    "Checkpoints and restarts",
    (
        Panel(
            "Checkpoints",
            "How many were saved, failed, or were found damaged in this attempt.",
            "short",
            [Query(of("aurl_train_checkpoints_total"), "{{result}}")],
            width=6,
        ),
        Panel(
            "Age of the newest checkpoint",
            "All work since then would be done again if a pod died now.",
            "s",
            [Query(f"time() - {of('aurl_train_checkpoint_timestamp_seconds')}", "age")],
            width=6,
        ),
        Panel(
            "Duration of a save",
            "From the request to the commit; the loop does not wait for it.",
            "s",
            [Query(of("aurl_train_checkpoint_save_seconds"), "save")],
            width=6,
        ),
        Panel(
            "Attempt",
            "Each gang restart begins another one.",
            "none",
            [Query(f"max by (attempt) ({raw('aurl_train_info')})", "attempt {{attempt}}")],
            width=6,
        ),
        Panel(
            "Goodput",
            "Share of the wall clock of all attempts that was training and was not lost.",
            "percentunit",
            [Query(of("aurl_train_goodput_ratio"), "goodput")],
            kind="stat",
            width=6,
            maximum=1,
        ),
        Panel(
            "Where the time went",
            "Wall clock of all attempts by cause, training aside.",
            "s",
            [Query(of("aurl_train_badput_seconds"), "{{cause}}")],
            width=10,
            stacked=True,
        ),
        Panel(
            "State",
            "What each pod of the job does.",
            "short",
            [Query(f"{raw('aurl_train_state')} == 1", "")],
            kind="table",
            width=8,
        ),
    ),
)

MUSIC_MEASURES = "overlap.*|memorised.*|valid_(pieces|tokens)"
"""What `training.evaluation.music` reports."""

MUSIC = Row(
    "Evaluation",
    (
        Panel(
            "Bits per note",
            "Held-out loss per note instead of per token: it does not depend on the encoding.",
            "none",
            [Query(of("aurl_train_evaluation", 'metric="bits_per_note"'), "bits per note")],
            width=12,
            minimum=None,
        ),
        Panel(
            "Other measures",
            "Those of the autoencoders (active units, KL, shuffled latents), and one's own.",
            "none",
            [Query(of("aurl_train_evaluation", f'metric!~"bits_per_.+|{MUSIC_MEASURES}"'), "{{metric}}")],
            width=12,
            minimum=None,
            needs="mode vae or vae-gan, or training.hooks.metrics",
        ),
        Panel(
            "Sampled music beside the corpus",
            "Mean overlap of ten distributions and its floor (the corpus against itself), copied 12-grams "
            "beside those of held-out music, and what keeps to the grammar without a mask.",
            "percentunit",
            [
                Query(
                    of(
                        "aurl_train_evaluation",
                        'metric=~"overlap|overlap_floor|memorised.*|valid_(pieces|tokens)"',
                    ),
                    "{{metric}}",
                )
            ],
            width=12,
            needs="training.evaluation.music.everySteps",
        ),
        Panel(
            "Overlap by feature",
            "The area that the histograms of sampled music and corpus share, feature by feature.",
            "percentunit",
            [
                Query(
                    of("aurl_train_evaluation", 'metric=~"overlap_.+"', 'metric!="overlap_floor"'),
                    "{{metric}}",
                )
            ],
            width=12,
            needs="training.evaluation.music.everySteps",
        ),
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
    rows=(TRAINING, STABILITY, SPEED, MEMORY, SURVIVAL, MUSIC),
)
