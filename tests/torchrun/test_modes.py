"""Every mode and its losses in the loop: exact after a death, with 1 and 2 ranks, with the critic."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from aurl_trainer.cli.main import run
from torchrun.jobs import Job

HOOK = "torchrun.fault_injection:record_samples"
LATENTS = {"bars": 4, "barsPerPhrase": 2, "barSize": 4, "phraseSize": 3, "globalSize": 2, "encoderLayers": 1}
MODES: dict[str, dict[str, Any]] = {
    "transformer": {
        "model": {"attention": {"kind": "local-global", "window": 4, "globalEvery": 2}, "layers": 2},
        "losses": {"balance": "uncertainty", "dropoutConsistency": {"weight": 0.1, "start": 0.3}},
    },
    "vae": {
        "mode": "vae",
        "model": {"latents": LATENTS},
        "losses": {"balance": "uncertainty", "latentUse": {"weight": 0.5}, "barPrediction": {"weight": 0.1}},
        "ema": {"decay": 0.9},
    },
    "vae-gan": {
        "mode": "vae-gan",
        "model": {"latents": LATENTS, "critic": {"width": 8, "scales": 2, "r1Every": 4}},
        "losses": {"adversarialStates": {"weight": 0.05, "start": 0.5, "ramp": 0.1}},
    },
}
COMPONENTS = {
    "transformer": {"reconstruction_pitch", "reconstruction_bar", "dropout_consistency"},
    "vae": {"reconstruction_pitch", "kl_bar", "kl_phrase", "kl_global", "latent_use", "bar_prediction"},
    "vae-gan": {"kl_bar", "adversarial_states", "feature_matching", "critic_states", "r1_latents"},
}


@pytest.mark.parametrize(("mode", "ranks"), [("transformer", 1), ("vae", 1), ("vae-gan", 2)])
def test_a_death_changes_no_bit(mode: str, ranks: int, tmp_path: Path) -> None:
    change = MODES[mode] | {"checkpoint": {"asynchronous": False}}
    # Nor does the music that a job samples and evaluates.
    sampled = {
        "sample": {"count": 1, "maxTokens": 16, "everySteps": 8},
        "evaluation": {"music": {"everySteps": 9, "samples": 2}},
    }
    straight, broken = Job(tmp_path / "a", change, HOOK), Job(tmp_path / "b", change | sampled, HOOK)
    assert straight.run(ranks, TEST_SAMPLES=str(tmp_path / "c")) == [0] * ranks, straight.text()
    killed = broken.run(ranks, TEST_SAMPLES=str(tmp_path / "d"), TEST_DEATH="18")
    assert set(killed) == {-signal.SIGKILL}, broken.text()
    assert broken.run(ranks, TEST_SAMPLES=str(tmp_path / "d")) == [0] * ranks, broken.text()
    assert broken.events("training started")[0]["step"] == 15
    samples = {path.parent.name for path in broken.directory.glob("samples/*/*.mid")}
    assert samples == {f"step-{step:08d}" for step in (8, 16, 24)}
    judged = {path.name for path in broken.directory.glob("evaluation/*")}
    assert judged == {f"step-{step:08d}.json" for step in (9, 18, 24)}
    for name in ("model.safetensors", "optimizer.safetensors"):
        files = [(job.checkpoint(24) / name).read_bytes() for job in (straight, broken)]
        assert files[0] == files[1], name

    steps = straight.events("step")
    assert steps[-1]["train"] < steps[0]["train"]
    assert steps[-1].keys() >= COMPONENTS[mode]
    reported = json.loads((tmp_path / "a" / "run" / "rank-0.json").read_text())["job"]
    assert reported["metrics"]["components"].keys() >= COMPONENTS[mode]
    if mode != "transformer":
        assert reported["evaluation"].keys() >= {"nll", "nll_shuffled"} | {
            f"{measure}_{level}"
            for measure in ("kl", "active_units")
            for level in ("global", "phrase", "bar")
        }
        assert reported["validation"]["loss"] >= reported["evaluation"]["nll"]
    state = load_file(straight.checkpoint(24) / "optimizer.safetensors")
    if mode == "vae-gan":
        assert float(state["critic/optimizer/steps"]) == 24 - 10  # it plays from 40 % of the job on
        first = load_file(broken.checkpoint(20) / "optimizer.safetensors")
        matrices = [name for name in state if name.startswith("critic/weights") and name.endswith(".weight")]
        assert matrices and not any(first[name].equal(state[name]) for name in matrices)
    else:
        weights = load_file(straight.checkpoint(24) / "model.safetensors")
        assert float(weights["terms.log_variance.reconstruction_pitch"]) != 0.0


def test_a_term_that_comes_in_costs_few_updates(tmp_path: Path) -> None:
    """The gradient becomes many times as long, for good: a new normal, with which training goes on."""
    change = {
        "steps": 100,
        "losses": {"logitScale": {"weight": 1.0, "start": 0.5}},
        "stability": {"window": 16, "throughputDegradation": {"intervals": 0}},
        "logging": {"everySteps": 1},
    }
    job = Job(tmp_path, change)
    assert job.run() == [0], job.text()
    norms = {event["step"]: event["gradient_norm"] for event in job.events("step")}
    assert norms[51] > 5 * norms[50]
    acted = [event for event in job.events("anomaly") if event["action"] != "warn"]
    assert {event["action"] for event in acted} <= {"skip"}
    assert sum(event["count"] for event in acted if event["step"] > 50) <= 2


def test_skipped_updates_of_the_critic_are_reported(tmp_path: Path) -> None:
    """An overflow in both players' gradients is a skipped update of each; a resumed job knows of both."""
    change = MODES["vae-gan"] | {"checkpoint": {"asynchronous": False}}
    job = Job(tmp_path, change, "torchrun.fault_injection:record_samples_of_an_overflow")
    samples = str(tmp_path / "samples")
    assert job.run(1, TEST_SAMPLES=samples, TEST_STEP="12", TEST_DEATH="18") == [-signal.SIGKILL], job.text()
    assert {event["reason"] for event in job.events("anomaly")} == {
        "Skipped 1 update(s): nonfinite gradient, last at step 12.",
        "Skipped 1 update(s) of the critic: nonfinite gradient, last at step 12.",
    }
    job.write(stability={"window": 64})  # both windows start empty
    assert job.run(1, TEST_SAMPLES=samples, TEST_STEP="12") == [0], job.text()
    assert job.events("training started")[0]["step"] == 15
    assert [event for event in job.events("anomaly") if event["action"] != "warn"] == []


@pytest.mark.parametrize("mode", ["vae", "vae-gan"])
def test_two_ranks_learn_as_one_does(mode: str, tmp_path: Path) -> None:
    """Draws of latents differ between the layouts, so losses agree only roughly."""
    losses, first = [], []
    for ranks in (1, 2):
        job = Job(tmp_path / str(ranks), MODES[mode] | {"checkpoint": {"everySteps": 24}})
        assert job.run(ranks) == [0] * ranks, job.text()
        losses.append(job.events("evaluation")[-1]["validation"])
        first.append(job.events("step")[0]["train"])
    assert losses[0] == pytest.approx(losses[1], rel=0.15)
    assert max(losses) < min(first)


def test_latents_of_real_chorales_are_used(tmp_path: Path) -> None:
    """No posterior collapse: with the latents of other music the decoder predicts clearly worse."""
    job = Job(
        tmp_path,
        {
            "mode": "vae",
            "steps": 300,
            "contextLength": 64,
            "model": {
                "dModel": 64,
                "layers": 2,
                "heads": 4,
                "dropout": 0.0,
                "latents": {"bars": 4, "encoderLayers": 1},
            },
            "batch": {"globalBatchSize": 8, "microBatchSize": 8},
            "optimizer": {"learningRate": 0.003},
            "schedule": {"warmupSteps": 15},
            "stability": {"spikeSigma": 0},
            "evaluation": {"everySteps": 0, "batches": 1000},
            "checkpoint": {"everySteps": 300},
            "logging": {"everySteps": 50},
        },
        dataset={
            "source": {"directory": None, "music21Corpus": {"maxPieces": 60}},
            "tokenizer": {"tracks": 4, "maxDurationQuarters": 4, "lowestPitch": 36},
            "augmentation": {"transposeSemitones": 5},
            "workers": 0,
        },
    )
    assert job.run() == [0], job.text()
    reported = job.events("metrics")[-1]
    assert reported["nll_shuffled"] > 1.1 * reported["nll"]
    assert sum(reported[f"active_units_{level}"] for level in ("global", "phrase", "bar")) >= 10


def test_a_trained_autoencoder_writes_music_and_is_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = {"steps": 4, "schedule": {"warmupSteps": 1}, "ema": {"decay": 0.0}}
    more = {"sample": {"count": 2, "maxTokens": 40, "everySteps": 3}, "evaluation": {"batches": 1000}}
    job = Job(tmp_path, MODES["vae"] | short | more)
    assert job.run(1) == [0], job.text()
    for step in (3, 4):
        assert len(list((job.directory / "samples" / f"step-{step:08d}").glob("*.mid"))) == 2
    assert run(["evaluate", "--job-dir", str(job.directory), "--json", "--samples", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    reported = job.events("metrics")[-1]
    assert report["latents"].keys() >= {"nll", "nll_shuffled", "kl_bar"}
    assert report["latents"]["active_units_bar"] == reported["active_units_bar"]
    assert report["latents"]["nll"] == pytest.approx(
        reported["nll"], rel=0.05
    )  # draws differ with the batches
    assert report["likelihood"]["nllPerToken"] > report["latents"]["nll"]
    assert report["samples"]["pieces"] == 2

    # Music near a piece, and between two pieces.
    one, other = (job.root / "midi" / f"piece-{number}.mid" for number in (0, 1))

    def written(*options: str | Path) -> list[bytes]:
        folder = tmp_path / f"written-{len(list(tmp_path.glob('written-*')))}"
        asked = [*map(str, options), "--output", str(folder), "--count", "3"]
        assert run(["sample", "--job-dir", str(job.directory), *asked]) == 0
        return [path.read_bytes() for path in sorted(folder.glob("*.mid"))]

    varied = written("--vary", one)
    assert len(set(varied)) == 3 and varied == written("--vary", one)
    assert varied != written("--vary", one, "--spread", "0") != written("--vary", other, "--spread", "0")
    blended = written("--blend", one, other)
    assert len(blended) == 3 and b"blendOf" in blended[0]
    for faulty, complaint in (
        (["--vary", str(tmp_path / "nothing.mid")], "cannot be read"),
        (["--vary", str(one), "--spread", "-1"], "--spread -1"),
        (["--blend", str(one), str(other), "--spread", "2"], "no effect"),
    ):
        assert run(["sample", "--job-dir", str(job.directory), *faulty]) == 2
        assert complaint in capsys.readouterr().err
