"""Training, evaluation and sampling on a device other than a CPU or CUDA: no float64, no call of CUDA."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from aurl_trainer.data.loader import Loader
from aurl_trainer.distributed.runtime import Distributed, Layout
from aurl_trainer.evaluation.likelihood import likelihood
from aurl_trainer.hooks.interface import Evaluation
from aurl_trainer.losses.config import Mode
from aurl_trainer.memory import profile
from aurl_trainer.memory.profile import MemoryProfile
from aurl_trainer.model.transformer import Transformer, token_loss_sum
from aurl_trainer.monitor.report import RankReporter
from aurl_trainer.objective.choice import make_model, make_objective
from aurl_trainer.sampling.config import SamplingConfig
from aurl_trainer.sampling.generate import generate
from aurl_trainer.sampling.latent import sampler
from unit.losses.tiny import VOCABULARY, all_terms, batch, configuration
from unit.trainer.accelerator import DEVICE, Accelerator

HOOKS_PAGE = Path(__file__).resolve().parents[3] / "docs" / "hooks.md"


def test_the_accelerator_of_these_tests_refuses_float64() -> None:
    with Accelerator():
        values = torch.arange(3).to(DEVICE)
        assert values.device == DEVICE and (values + 1).tolist() == [1, 2, 3]
        with pytest.raises(TypeError, match="no float64"):
            values.double()


@pytest.fixture
def no_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": generator("cpu"))


@pytest.mark.parametrize("mode", ["transformer", "vae"])
@pytest.mark.usefixtures("no_generator")
def test_a_model_trains_is_evaluated_and_sampled(mode: Mode) -> None:
    config = configuration(mode, losses=all_terms(mode) if mode == "vae" else None)
    results = []
    for device in (torch.device("cpu"), DEVICE):
        torch.manual_seed(0)
        with Accelerator():
            model = make_model(config, VOCABULARY.size)
            made = make_objective(config, model, VOCABULARY, token_loss_sum, device)
            made.network.to(device)
            inputs, targets = (tensor.to(device) for tensor in batch())
            losses = made.losses(made.network, inputs, targets, 1)
            torch.autograd.backward(losses.minimised)
            measures = made.evaluate(
                [(inputs, targets)], Distributed(Layout(), device), torch.autocast("cpu", enabled=False)
            )
            sampling = SamplingConfig(count=2, max_tokens=16)
            pieces = generate(sampler(model, 0), VOCABULARY, sampling, 8)
        results.append((float(losses.reported.detach()), measures, [piece.tolist() for piece in pieces]))
    on_cpu, on_device = results
    assert on_device[0] == pytest.approx(on_cpu[0], rel=1e-4)
    assert on_device[1] == pytest.approx(on_cpu[1], rel=1e-4)
    assert on_device[2] == on_cpu[2]


class Batches:
    """One batch in place of a loader."""

    def validation_batches(self, *arguments: Any, **options: Any) -> Any:
        inputs, targets = batch()
        return [(inputs.numpy(), targets.numpy())]


def test_the_likelihood_is_that_of_the_cpu() -> None:
    loader = cast(Loader, Batches())
    model = Transformer(configuration("transformer").model, VOCABULARY.size)
    expected = likelihood(model, loader, VOCABULARY, 24)
    with Accelerator():
        model.to(DEVICE)
        assert likelihood(model, loader, VOCABULARY, 24).nats == pytest.approx(expected.nats)


def test_the_metric_in_the_documentation_works() -> None:
    code = re.findall(r"```python\n(.*?)```", HOOKS_PAGE.read_text(), re.DOTALL)[0]
    functions: dict[str, Any] = {}
    exec(compile(code, str(HOOKS_PAGE), "exec", dont_inherit=True), functions)  # our own page
    with Accelerator(), torch.no_grad():
        model = Transformer(configuration("transformer").model, VOCABULARY.size).to(DEVICE)
        pair: tuple[Tensor, Tensor] = tuple(tensor.to(DEVICE) for tensor in batch())  # type: ignore[assignment]
        about = Evaluation(model, VOCABULARY, 1, DEVICE, lambda: iter([pair]), lambda values: values)
        assert 0 <= functions["accuracy"](about) <= 1


def test_the_memory_profile_calls_cuda_on_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"allocated": 1, "reserved": 2, "peak": 2}
    monkeypatch.setattr(profile, "device_memory", lambda device: known)

    def refused(*arguments: Any) -> None:
        raise AssertionError("CUDA was called")

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", refused)
    profiled = MemoryProfile(RankReporter(None), torch.device("mps"), every_steps=1)
    assert profiled.summary()["peak"]["device"] == {"phase": "initialise", "bytes": 2}
