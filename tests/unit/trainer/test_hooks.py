"""Loading hooks, and errors of hooks that violate the interface."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aurl_trainer.data.config import TokenizerConfig
from aurl_trainer.data.vocabulary import Vocabulary
from aurl_trainer.errors import UserError
from aurl_trainer.hooks import Evaluation, LossInputs
from aurl_trainer.hooks.config import HooksConfig
from aurl_trainer.hooks.load import Hook, load_hooks, measure
from aurl_trainer.model.transformer import token_loss_sum
from aurl_trainer.objective.language import ExtraLossesObjective
from aurl_trainer.objective.objective import Losses

CPU = torch.device("cpu")


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A volume with a directory of hooks; its modules are unloaded afterwards."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "unit_hooks.py").write_text("from unit_helper import one\nnumber = 3\n")
    (tmp_path / "mine" / "unit_helper.py").write_text("def one(batch):\n    return 1\n")
    (tmp_path / "mine" / "unit_broken.py").write_text("import nowhere_to_be_found\n")
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def config(function: str, path: str = "mine") -> HooksConfig:
    return HooksConfig.model_validate({"path": path, "metrics": [{"name": "m", "function": function}]})


def test_functions_come_from_the_volume_and_from_packages(volume: Path) -> None:
    assert load_hooks(config("unit_hooks:one"), volume).metrics[0].function(None) == 1
    assert load_hooks(config("math:floor", ""), volume).metrics[0].function(2.5) == 2


@pytest.mark.parametrize(
    ("function", "path", "complaint"),
    [
        (
            "unit_broken:f",
            "mine",
            "The metric hook m (unit_broken:f) cannot be imported: ModuleNotFoundError",
        ),
        ("unit_hooks:two", "mine", "The metric hook m (unit_hooks:two) cannot be imported: AttributeError"),
        ("unit_hooks:number", "mine", "The metric hook m (unit_hooks:number) is not a function but int"),
        ("unit_hooks:one", "yours", "training.hooks.path: there is no directory"),
    ],
)
def test_what_cannot_be_loaded_is_named(function: str, path: str, complaint: str, volume: Path) -> None:
    with pytest.raises(UserError) as error:
        load_hooks(config(function, path), volume)
    assert complaint in str(error.value)


class Scene(nn.Module):
    """A last norm and an output projection with extra losses beside the cross-entropy."""

    def __init__(self, **functions: Callable[[LossInputs], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 5)
        hooks = [Hook(name, f"loss hook {name}", function, 0.5) for name, function in functions.items()]
        model: Any = self
        self.objective = ExtraLossesObjective(model, token_loss_sum, hooks, Vocabulary(TokenizerConfig()))
        self.inputs = torch.tensor([[1, 2, 3]])
        self.targets = torch.tensor([[2, 3, -100]])

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(torch.randn(1, 3, 4)))
        return logits

    def losses(self) -> Losses:
        return self.objective.losses(self, self.inputs, self.targets, 7)


def test_terms_are_weighted_and_have_a_gradient() -> None:
    seen: list[LossInputs] = []

    def size(batch: LossInputs) -> Tensor:
        seen.append(batch)
        return (batch.hidden.square().sum(-1) * batch.counted).sum()

    scene = Scene(size=size)
    objective, loss, terms = scene.losses()
    expected = seen[0].hidden[:, :2].square().sum()
    torch.testing.assert_close(objective, loss + 0.5 * expected)
    torch.testing.assert_close(loss, token_loss_sum(seen[0].logits, scene.targets))
    (objective - loss).backward()  # type: ignore[no-untyped-call]
    assert scene.norm.weight.grad is not None and scene.norm.weight.grad.abs().sum() > 0
    assert (seen[0].step, seen[0].inputs.equal(scene.inputs)) == (7, True)
    torch.testing.assert_close(terms, expected.detach()[None])


@pytest.mark.parametrize(
    "function",
    [lambda batch: 3.0, lambda batch: batch.logits, lambda batch: torch.zeros(())],
    ids=["a number", "no scalar", "no gradient"],
)
def test_what_is_no_term_is_refused(function: Callable[[LossInputs], Any]) -> None:
    with pytest.raises(UserError, match="The loss hook flat must return one tensor without dimensions"):
        Scene(flat=function).losses()


@pytest.mark.parametrize("message", ["DefaultCPUAllocator: can't allocate memory", "out of memory"])
def test_running_out_of_memory_is_not_blamed_on_the_hook(message: str) -> None:
    def large(batch: LossInputs) -> Tensor:
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match=message):
        Scene(large=large).losses()


def evaluation() -> Evaluation:
    vocabulary = Vocabulary(TokenizerConfig())
    return Evaluation(nn.Dropout(0.5), vocabulary, 3, CPU, lambda: iter(()), lambda tensor: tensor)


def test_a_metric_leaves_the_model_and_the_generators_as_they_were() -> None:
    def drawing(seen: Evaluation) -> Tensor:
        assert not seen.model.training and not torch.is_grad_enabled()
        return torch.rand(()) + random.random()

    seen = evaluation()
    before = torch.get_rng_state(), random.getstate()
    values = measure([Hook("drawn", "metric hook drawn", drawing)], seen)
    assert 0 <= values["drawn"] <= 2
    assert torch.get_rng_state().equal(before[0])
    assert random.getstate() == before[1]
    assert seen.model.training


@pytest.mark.parametrize("value", ["many", None, torch.zeros(2)])
def test_what_is_no_number_is_refused(value: Any) -> None:
    hook = Hook("words", "metric hook words", lambda seen: value)
    with pytest.raises(UserError, match="The metric hook words must return one number"):
        measure([hook], evaluation())
