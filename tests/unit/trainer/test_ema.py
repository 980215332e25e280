"""The moving average of the weights."""

from __future__ import annotations

import torch

from aurl_trainer.optim.config import EmaConfig
from aurl_trainer.optim.ema import WeightAverage


def parameters() -> dict[str, torch.nn.Parameter]:
    torch.manual_seed(0)
    shapes = {"matrix": (3, 4), "vector": (3,), "scalar": ()}
    return {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}


def test_average_follows_its_formula_over_accepted_updates() -> None:
    weights = parameters()
    average = WeightAverage(weights, EmaConfig(decay=0.3))
    expected = {name: weight.detach().double().clone() for name, weight in weights.items()}
    accepted = 0
    for step in range(12):
        rejected = step % 4 == 1
        with torch.no_grad():
            for weight in weights.values():
                weight.add_(1.0)
        average.update(torch.tensor(float(rejected)))
        if not rejected:
            keep = min(0.3, (1 + accepted) / (10 + accepted))
            accepted += 1
            for name, weight in weights.items():
                expected[name] = keep * expected[name] + (1 - keep) * weight.detach().double()
    assert float(average.updates) == accepted == 9
    for name, tensor in average.average.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-6, atol=1e-6)


def test_without_warm_up_the_decay_counts_from_the_beginning() -> None:
    weights = parameters()
    average = WeightAverage(weights, EmaConfig(decay=0.75, warmup=False))
    before = average.average["matrix"].clone()
    with torch.no_grad():
        weights["matrix"].add_(4.0)
    average.update(torch.tensor(0.0))
    torch.testing.assert_close(average.average["matrix"], before + 1.0)


def test_in_place_lends_the_average_and_gives_everything_back() -> None:
    weights = parameters()
    average = WeightAverage(weights, EmaConfig(decay=0.5))
    with torch.no_grad():
        for weight in weights.values():
            weight.mul_(3)
    mine = {name: weight.detach().clone() for name, weight in weights.items()}
    averaged = {name: tensor.clone() for name, tensor in average.average.items()}
    places = [weight.data_ptr() for weight in weights.values()]
    with average.in_place():
        assert all(weights[name].equal(averaged[name]) for name in weights)
    assert all(weights[name].equal(mine[name]) for name in weights)
    assert all(average.average[name].equal(averaged[name]) for name in weights)
    assert [weight.data_ptr() for weight in weights.values()] == places
    average.begin_again()
    assert all(average.average[name].equal(mine[name]) for name in weights)
