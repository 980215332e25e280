"""The comparison with the corpus: the changes it detects, and those it ignores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aurl_trainer.data.music import Music
from aurl_trainer.data.ngrams import NgramIndex
from aurl_trainer.evaluation.distance import compared, jensen_shannon, overlap
from aurl_trainer.evaluation.features import SIZES, histograms
from aurl_trainer.evaluation.likelihood import seconds_of

rng = np.random.default_rng(3)


def walk(seed: int, length: int = 96) -> Music:
    """Return music in two voices that mostly moves by steps of a scale."""
    source = np.random.default_rng(seed)
    scale = np.array([48 + 12 * octave + step for octave in range(3) for step in (0, 2, 4, 5, 7, 9, 11)])
    place = np.clip(10 + source.choice([-1, 1, 1, 2, -2, -1], length).cumsum(), 0, len(scale) - 1)
    start = np.arange(length) * 2
    rows = [
        (int(s), int(s) + 2, int(scale[p]), 60 + int(p), i % 2)
        for i, (s, p) in enumerate(zip(start, place, strict=True))
    ]
    return Music.from_rows(4, rows, [0, 0], [], [])


CORPUS = [walk(seed) for seed in range(40)]


@pytest.mark.parametrize("measure", [overlap, jensen_shannon])
def test_equal_and_disjoint_distributions_are_the_ends_of_the_scale(measure: object) -> None:
    assert callable(measure)
    one, other = np.array([3.0, 1, 0, 0]), np.array([0.0, 0, 5, 5])
    ends = (measure(one, 2 * one), measure(one, other))
    assert ends == pytest.approx((1, 0) if measure is overlap else (0, 1))


def test_music_of_the_same_source_reaches_the_floor_in_every_feature() -> None:
    report = compared([walk(seed) for seed in range(100, 120)], CORPUS)
    assert set(report) == set(SIZES)
    for name, values in report.items():
        assert values["overlap"] > 0.8, name
        assert values["overlap"] > values["overlapFloor"] - 0.1, name
        assert values["jensenShannon"] < 0.1, name


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        ("pitches in another order", {"interval", "pitchClassTransition"}),
        ("twice as slow", {"interOnsetInterval", "duration", "density"}),
        ("louder", {"velocity"}),
        ("up by a semitone", {"pitch", "pitchClass", "pitchClassTransition"}),
    ],
)
def test_each_change_is_detected_by_the_features_it_affects(change: str, noticed: set[str]) -> None:
    def changed(music: Music) -> Music:
        if change == "pitches in another order":
            return replace(music, pitch=rng.permutation(music.pitch))
        if change == "twice as slow":
            return replace(music, start=2 * music.start, end=2 * music.end)
        if change == "louder":
            return replace(music, velocity=music.velocity + 30)
        return replace(music, pitch=music.pitch + 1)

    report = compared([changed(walk(seed)) for seed in range(100, 120)], CORPUS)
    fallen = {name for name, values in report.items() if values["overlap"] < values["overlapFloor"] - 0.15}
    assert fallen >= noticed
    assert fallen <= noticed | {"pitch", "pitchClass", "pitchClassTransition", "selfSimilarity", "interval"}


def test_a_copy_is_found_in_another_key_and_at_another_resolution() -> None:
    copy = replace(
        CORPUS[3],
        pitch=CORPUS[3].pitch + 5,
        ticks_per_quarter=480,
        start=CORPUS[3].start * 120,
        end=CORPUS[3].end * 120,
    )
    index = NgramIndex(CORPUS)
    assert index.share([copy]) == 1.0
    fresh = index.share([walk(200)])
    assert fresh is not None
    assert fresh < 0.2
    assert index.share([walk(1, length=10)]) is None


def test_an_index_of_bounded_size_finds_every_copy_and_estimates_the_share_of_others() -> None:
    corpus = [walk(seed) for seed in range(400)]
    exact, bounded = NgramIndex(corpus), NgramIndex(corpus, most=2000)
    assert len(bounded._known) <= 2000 < len(exact._known)
    assert bounded.share(corpus) == exact.share(corpus) == 1.0
    half_copied = [walk(seed) for seed in range(380, 420)]
    share, estimate = exact.share(half_copied), bounded.share(half_copied)
    assert share is not None and estimate is not None
    assert 0.5 <= share < 0.6
    assert estimate == pytest.approx(share, abs=0.1)


def test_empty_music_is_ignored() -> None:
    nothing = Music.from_rows(4, [], [], [], [])
    assert all(not histogram.any() for histogram in histograms([nothing]).values())
    assert compared([nothing], CORPUS) == {}
    assert seconds_of(nothing) == 0


def test_the_duration_follows_the_tempo() -> None:
    rows = [(0, 480, 60, 80, 0), (480, 1440, 62, 80, 0)]
    music = Music.from_rows(480, rows, [0], [(480, 1_000_000)], [])
    assert seconds_of(music) == pytest.approx(0.5 + 2.0)
