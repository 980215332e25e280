"""Evaluation and sampling of a trained model from the command line."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aurl_trainer.cli.main import run
from aurl_trainer.data.config import DatasetConfig
from aurl_trainer.data.midi import read_midi
from aurl_trainer.data.prepare import prepare
from torchrun.jobs import DATASET, Job, merge

CHORALES = {
    "encoding": "raster",
    "positionsPerQuarter": 4,
    "maxDurationQuarters": 4,
    "tracks": 4,
    "programs": True,  # the defaults again: rasters have none of these
    "drums": True,
    "velocityBins": 32,
    "tempoBins": 32,
    "lowestPitch": 36,
}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    made = Job(
        tmp_path_factory.mktemp("volume"),
        {
            "evaluation": {"batches": 1000, "music": {"everySteps": 16, "samples": 3}},
            "sample": {"maxTokens": 80, "seed": 7},
        },
    )
    assert made.run() == [0], made.text()
    return made


def _evaluate(job: Job, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert run(["evaluate", "--job-dir", str(job.directory), "--json", *options]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_the_report_agrees_with_the_job_and_with_itself(
    job: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    report = _evaluate(job, capsys, "--samples", "3", "--output", str(tmp_path / "deep" / "report.json"))
    assert json.loads((tmp_path / "deep" / "report.json").read_text()) == report
    found, last = report["likelihood"], job.events("evaluation")[-1]
    assert (report["step"], report["split"], report["pieces"]) == (24, "validation", 2)
    assert found["nllPerToken"] == pytest.approx(last["validation"], rel=1e-4)
    bits = found["nllPerToken"] * found["tokens"] / math.log(2)
    assert found["bitsPerNote"] == pytest.approx(bits / (2 * 48))
    assert found["bitsPerSecond"] == pytest.approx(bits / (2 * 48 * 0.25), rel=1e-6)
    logged = [event for event in job.events("metrics") if "bits_per_note" in event][-1]
    assert logged["bits_per_note"] == pytest.approx(found["bitsPerNote"], rel=1e-4)
    assert logged["bits_per_second"] == pytest.approx(found["bitsPerSecond"], rel=1e-4)
    assert found["nllPerTokenByKind"]["Duration"] < found["nllPerTokenByKind"]["Pitch"]
    samples = report["samples"]
    assert samples["pieces"] == 3
    assert 0 < samples["distributions"]["pitch"]["overlap"] < 1
    assert 0 <= samples["grammar"]["validTokens"] <= 1
    # Windows that overlap predict the same tokens, from longer contexts.
    overlapping = _evaluate(job, capsys, "--samples", "0", "--stride", "4")
    assert "samples" not in overlapping
    assert overlapping["likelihood"]["tokens"] == found["tokens"]
    assert overlapping["likelihood"]["nllPerToken"] != found["nllPerToken"]


def test_the_job_judges_its_own_music_on_its_way(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    """The loop's last report equals that of the command for the same weights and pieces."""
    kept = {path.stem: json.loads(path.read_text()) for path in job.directory.glob("evaluation/*.json")}
    assert sorted(kept) == ["step-00000016", "step-00000024"]
    assert kept["step-00000024"] == {"step": 24} | _evaluate(job, capsys, "--samples", "3")["samples"]
    distributions = kept["step-00000024"]["distributions"]
    reported = json.loads((job.root / "run" / "rank-0.json").read_text())["job"]["evaluation"]
    assert reported["overlap_pitch_class"] == distributions["pitchClass"]["overlap"]
    assert reported["overlap"] == pytest.approx(np.mean([part["overlap"] for part in distributions.values()]))
    assert reported["overlap"] < reported["overlap_floor"] <= 1
    assert reported.keys() >= {"bits_per_note", "memorised", "valid_pieces", "valid_tokens"}
    logged = [event for event in job.events("metrics") if "overlap" in event]
    assert [event["step"] for event in logged] == [16, 24]


def test_a_table_is_for_people_and_faults_are_told_in_a_sentence(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", "--job-dir", str(job.directory), "--samples", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "job, step 24 (trained weights), 2 pieces of the validation split"
    assert run(["evaluate", "--job-dir", str(job.directory), "--split", "test"]) == 2
    complaint = capsys.readouterr().err
    assert "The test split of the dataset" in complaint and "is empty; set dataset.split" in complaint
    assert run(["evaluate", "--job-dir", str(job.directory), "--stride", "17"]) == 2
    assert "--stride 17: must be from 1 to the context length 16." in capsys.readouterr().err


def test_a_benchmark_that_the_model_was_trained_on_is_reported(
    job: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    dataset = merge(DATASET, {"split": {"validationFraction": 0.5}})
    benchmark = prepare(DatasetConfig.model_validate(dataset), tmp_path, job.root, lambda *_: None)
    options = ["--job-dir", str(job.directory), "--samples", "0", "--dataset", str(benchmark.path)]
    assert run(["evaluate", *options]) == 0
    assert re.search(
        r"^The model was trained on copies or versions of \d of the \d pieces of the validation split: "
        r"do not judge it by them\.$",
        capsys.readouterr().err,
        re.MULTILINE,
    )
    assert run(["evaluate", "--job-dir", str(job.directory), "--samples", "0"]) == 0
    assert "trained on copies" not in capsys.readouterr().err


def test_a_midi_file_is_continued_and_the_same_seed_gives_the_same_bytes(
    job: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prompt = job.root / "midi" / "piece-0.mid"

    def sample(name: str, *options: str) -> bytes:
        command = ["sample", "--job-dir", str(job.directory), "--output", str(tmp_path / name), *options]
        assert run([*command, "--prompt", str(prompt), "--prompt-quarters", "4"]) == 0
        return (tmp_path / name / "sample-0.mid").read_bytes()

    first = sample("a")
    assert sample("b") == first
    assert sample("c", "--seed", "8") != first
    given, made = read_midi(prompt.read_bytes(), "prompt"), read_midi(first, "sample")
    order = np.lexsort((made.pitch, made.start))
    np.testing.assert_array_equal(made.pitch[order][:8], given.pitch[np.argsort(given.start)][:8])
    assert made.notes > 8
    capsys.readouterr()
    for options, sentence in (
        (["--set", "topP=2"], "sample.topP: input should be less than or equal to 1, not 2."),
        (["--prompt", str(tmp_path / "absent.mid")], "cannot be read: No such file or directory."),
    ):
        assert run(["sample", "--job-dir", str(job.directory), *options]) == 2
        assert sentence in capsys.readouterr().err


def test_a_transformer_of_real_chorales_beats_the_five_gram_floor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(
        tmp_path,
        {
            "steps": 120,
            "contextLength": 128,
            "model": {"dModel": 64, "layers": 2, "heads": 4, "dropout": 0.0},
            "batch": {"globalBatchSize": 8, "microBatchSize": 8},
            "optimizer": {"learningRate": 0.005},
            "schedule": {"warmupSteps": 15},
            "evaluation": {"everySteps": 0, "batches": 1000},
            "checkpoint": {"everySteps": 120},
        },
        dataset={
            "source": {"directory": None, "music21Corpus": {"maxPieces": 30}},
            "tokenizer": CHORALES,
            "augmentation": {"transposeSemitones": 5},
            "workers": 0,
        },
    )
    assert job.run() == [0], job.text()
    report = _evaluate(job, capsys, "--samples", "0")
    assert report["likelihood"]["nllPerToken"] < 0.95 * report["fiveGram"]["nllPerToken"]
