"""The gate between gradients and optimizer."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from aurl_trainer.optim.adamw import AdamW
from aurl_trainer.optim.choice import make_optimizer
from aurl_trainer.optim.config import OptimizerConfig
from aurl_trainer.optim.guard import INITIAL_SCALE, MAX_EXCESS, UpdateGuard
from aurl_trainer.stability.config import StabilityConfig

Kind = Literal["adamw", "lion", "adafactor"]
KINDS: tuple[Kind, ...] = ("adamw", "lion", "adafactor")


class Scene:
    """A tiny model, its optimizer and a guard."""

    def __init__(
        self,
        *,
        max_norm: float = 1.0,
        max_value: float = 0.0,
        adaptive_ratio: float = 0.0,
        sigma: float = 6.0,
        scaled: bool = False,
        kind: Kind = "adamw",
    ) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Linear(4, 3)
        self.optimizer = make_optimizer(dict(self.model.named_parameters()), OptimizerConfig(kind=kind))
        config = StabilityConfig(window=8, spike_sigma=sigma)
        self.guard = UpdateGuard(
            config,
            max_norm,
            max_value=max_value,
            adaptive_ratio=adaptive_ratio,
            parameters=list(self.model.parameters()),
            scaled=scaled,
            device=torch.device("cpu"),
        )
        self.steps = 0

    def step(self, size: float, normaliser: float = 1.0) -> bool:
        """Take a step with a random gradient of length `size`; return True if anything has changed."""
        self.steps += 1
        gradient = torch.randn(15)
        gradient *= size / gradient.norm() / normaliser * self.guard.scale
        self.model.weight.grad, self.model.bias.grad = gradient[:12].view(3, 4), gradient[12:]
        before = self.everything()
        gradients = [self.model.weight.grad, self.model.bias.grad]
        self.optimizer.step(0.1, 0.1, *self.guard.admit(gradients, normaliser, self.steps))
        return any(not a.equal(b) for a, b in zip(before, self.everything(), strict=True))

    def everything(self) -> list[torch.Tensor]:
        tensors = self.optimizer.tensors().values()
        return [tensor.detach().clone() for tensor in (*self.model.parameters(), *tensors)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [{}, {"max_value": 0.1}, {"adaptive_ratio": 0.1}])
@pytest.mark.parametrize("size", [float("nan"), float("inf")])
def test_nonfinite_gradient_touches_nothing(size: float, clip: dict[str, Any], kind: Kind) -> None:
    scene = Scene(kind=kind, **clip)
    assert scene.step(1.0)
    assert not scene.step(size)
    assert scene.guard.read().nonfinite == scene.guard.read().consecutive == 1
    assert scene.guard.read().last_rejected == 2
    assert scene.step(1.0)
    assert scene.guard.read().consecutive == 0
    assert scene.guard.read().last_rejected == 2


def test_spike_is_left_out_once_the_window_is_full() -> None:
    scene = Scene()
    assert scene.step(1000.0)  # nothing to compare with yet
    for number in range(8):
        assert scene.step(1.0 + 0.01 * number)
    window = scene.guard.window.clone()
    assert not scene.step(2.0)
    assert scene.guard.read().spikes == 1
    assert scene.guard.window.equal(window)  # rejected samples stay out of the statistics
    assert scene.step(1.05)


def test_without_sigma_only_nonfinite_gradients_are_left_out() -> None:
    scene = Scene(sigma=0)
    for _ in range(8):
        assert scene.step(1.0)
    assert scene.step(1e6)


@pytest.mark.parametrize(("max_norm", "size"), [(1.0, 5.0), (1.0, 0.5), (0.0, 5.0), (2.0, 2.0)])
@pytest.mark.parametrize("normaliser", [1.0, 3.0])
@pytest.mark.parametrize("scaled", [False, True])
def test_update_equals_that_of_clipped_gradient(
    max_norm: float, size: float, normaliser: float, scaled: bool
) -> None:
    scene, plain = Scene(max_norm=max_norm, scaled=scaled), Scene()
    groups = [
        {"params": [plain.model.weight], "weight_decay": 0.1},
        {"params": [plain.model.bias], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.95))
    for _ in range(3):
        torch.manual_seed(7)
        scene.step(size, normaliser)
        assert float(scene.guard.norm) == pytest.approx(size, rel=1e-5)
        torch.manual_seed(7)
        gradient = torch.randn(15)
        gradient *= size / gradient.norm()
        plain.model.weight.grad, plain.model.bias.grad = gradient[:12].view(3, 4), gradient[12:]
        if max_norm:
            torch.nn.utils.clip_grad_norm_(plain.model.parameters(), max_norm)
        reference.step()
    for mine, theirs in zip(scene.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("max_norm", [0.0, 0.2])
@pytest.mark.parametrize(("normaliser", "scaled"), [(1.0, False), (3.0, True)])
def test_values_are_cut_before_the_norm(max_norm: float, normaliser: float, scaled: bool) -> None:
    scene = Scene(max_norm=max_norm, max_value=0.1, scaled=scaled)
    gradient = torch.linspace(-1, 1, 15)
    raw = gradient / normaliser * scene.guard.scale
    scene.model.weight.grad, scene.model.bias.grad = raw[:12].view(3, 4).clone(), raw[12:].clone()
    gradients = [scene.model.weight.grad, scene.model.bias.grad]
    divisor, rejected = scene.guard.admit(gradients, normaliser, 1)
    expected = gradient.clamp(-0.1, 0.1)
    expected *= min(1.0, max_norm / float(expected.norm())) if max_norm else 1.0
    applied = torch.cat([part.flatten() for part in gradients]) / divisor
    torch.testing.assert_close(applied, expected)
    assert float(scene.guard.norm) == pytest.approx(float(gradient.norm()))
    assert not rejected


def test_lion_follows_its_formula() -> None:
    scene = Scene(kind="lion", max_norm=0.0)
    weights = scene.model.weight.detach().double().clone()
    momentum = torch.zeros_like(weights)
    for size in (1.0, 0.5, 2.0):
        torch.manual_seed(int(10 * size))
        scene.step(size)
        torch.manual_seed(int(10 * size))
        gradient = torch.randn(15)
        gradient = (gradient * (size / gradient.norm()))[:12].view(3, 4).double()
        weights -= 0.1 * ((0.9 * momentum + 0.1 * gradient).sign() + 0.1 * weights)
        momentum = 0.95 * momentum + 0.05 * gradient
    torch.testing.assert_close(scene.model.weight.detach().double(), weights, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_first_update_leaves_no_trace(kind: Kind) -> None:
    refused, plain = Scene(kind=kind), Scene(kind=kind)
    assert not refused.step(float("nan"))
    for scene in (refused, plain):
        torch.manual_seed(1)
        assert scene.step(1.0)
    assert all(a.equal(b) for a, b in zip(refused.everything(), plain.everything(), strict=True))


def test_adafactor_follows_its_formula() -> None:
    scene = Scene(kind="adafactor", max_norm=0.0)
    weight, bias = (parameter.detach().double().clone() for parameter in scene.model.parameters())
    rows, columns, second = torch.zeros(3).double(), torch.zeros(4).double(), torch.zeros(3).double()
    for step, size in enumerate((1.0, 0.01, 40.0), start=1):
        torch.manual_seed(step)
        scene.step(size)
        torch.manual_seed(step)
        gradient = torch.randn(15)
        gradient = (gradient * (size / gradient.norm())).double()
        matrix, vector, keep = gradient[:12].view(3, 4), gradient[12:], 1 - step**-0.8
        rows = keep * rows + (1 - keep) * matrix.square().mean(1)
        columns = keep * columns + (1 - keep) * matrix.square().mean(0)
        second = keep * second + (1 - keep) * vector.square()
        for parameter, update, kept in (
            (weight, matrix / (torch.outer(rows, columns) / rows.mean()).sqrt(), 1 - 0.1 * 0.1),
            (bias, vector / second.sqrt(), 1.0),
        ):
            parameter *= kept
            parameter -= 0.1 * update / max(1.0, float(update.square().mean().sqrt()))
    torch.testing.assert_close(scene.model.weight.detach().double(), weight, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(scene.model.bias.detach().double(), bias, atol=1e-6, rtol=1e-5)


def test_adamw_in_single_operations_equals_the_fused_kernel() -> None:
    fused, composed = Scene(), Scene()
    assert isinstance(composed.optimizer, AdamW)
    composed.optimizer._update = composed.optimizer._composed
    for step, size in enumerate((1.0, float("nan"), 0.1, 30.0)):
        for scene in (fused, composed):
            torch.manual_seed(step)
            assert scene.step(size) == (size == size)
    for mine, theirs in zip(composed.everything(), fused.everything(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(("normaliser", "scaled"), [(1.0, False), (3.0, True)])
def test_units_are_clipped_by_the_size_of_their_weights(normaliser: float, scaled: bool) -> None:
    scene = Scene(max_norm=0.0, adaptive_ratio=0.5, scaled=scaled)
    with torch.no_grad():
        scene.model.weight.copy_(torch.tensor([[3.0, 0, 4, 0], [0, 0, 0, 0], [1, 1, 1, 1]]))
        scene.model.bias.copy_(torch.tensor([2.0, -2.0, 0.0]))
    matrix = torch.tensor([[0.0, 10, 0, 0], [0, 0, 8, 0], [0.1, 0, 0, 0]])
    vector = torch.tensor([4.0, -0.5, 0.0])
    raw = [gradient / normaliser * scene.guard.scale for gradient in (matrix, vector)]
    divisor, _ = scene.guard.admit(raw, normaliser, 1)
    # Rows of norm 5, 0 (counts as 0.001) and 2 may have gradients of half that.
    expected = torch.tensor([[0.0, 2.5, 0, 0], [0, 0, 0.0005, 0], [0.1, 0, 0, 0]])
    torch.testing.assert_close(raw[0] / divisor, expected)
    torch.testing.assert_close(raw[1] / divisor, torch.tensor([1.0, -0.5, 0.0]))


def test_loss_scale_halves_after_an_overflow() -> None:
    scene = Scene(scaled=True)
    assert scene.step(1.0)
    assert not scene.step(float("inf"))
    assert float(scene.guard.scale) == INITIAL_SCALE / 2
    assert scene.step(1.0)


def test_state_survives_saving_and_a_changed_window() -> None:
    scene, other = Scene(), Scene()
    for _ in range(3):
        scene.step(1.0)
    saved = {name: tensor.clone() for name, tensor in scene.guard.tensors().items()}
    other.guard.restore(saved)
    assert all(other.guard.tensors()[name].equal(saved[name]) for name in saved)
    longer = UpdateGuard(StabilityConfig(window=16), 1.0, scaled=False, device=torch.device("cpu"))
    longer.restore(saved)
    assert longer.counters.tolist()[0] == 0
    assert longer.window.eq(0).all()


def test_norms_of_another_kind_are_not_compared() -> None:
    """As when a curriculum reaches longer samples: otherwise all their updates would be skipped, forever."""
    scene = Scene()
    for _ in range(8):
        assert scene.step(1.0)
    assert not scene.step(50.0)
    scene.guard.forget_norms()
    assert not scene.step(float("nan"))
    for size in (45.0, 55.0) * 4:
        assert scene.step(size)
    assert scene.step(52.0)
    assert not scene.step(5000.0)
    assert scene.guard.read().spikes == 2


def outcomes(scene: Scene, sizes: list[float]) -> str:
    """Return a letter for each size: `a`pplied or `s`kipped."""
    return "".join("a" if scene.step(size) else "s" for size in sizes)


CALM = [1.0] * 12
NAN = float("nan")


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        pytest.param([3.0] * 20, "s" * MAX_EXCESS + "a" * 15, id="a lasting step of 3x"),
        pytest.param([10.0] * 20, "s" * MAX_EXCESS + "a" * 15, id="a lasting step of 10x"),
        pytest.param([10.0] * 20 + [500.0, 10.0], "s" * MAX_EXCESS + "a" * 15 + "sa", id="judged again"),
        pytest.param([50.0, 1.0, 50.0, 1.0], "sasa", id="single spikes"),
        pytest.param(([50.0] * 3 + [1.0] * 3) * 3, "sssaaa" * 3, id="a few spikes in a row"),
        pytest.param([50.0, 50.0, 1.0] * 5, "ssa" * 4 + "aaa", id="a lasting change in most steps"),
        pytest.param([NAN, 1.0, float("inf"), 1.0], "sasa", id="not finite"),
        pytest.param([NAN] * 10 + [50.0, 1.0], "s" * 11 + "a", id="no spike is admitted after NaNs"),
        pytest.param([50.0] * 5 + [NAN] * 3 + [50.0, 50.0], "s" * 8 + "aa", id="NaNs in a lasting step"),
        pytest.param([1.5, 1.3, 1.5], "aaa", id="equal norms leave room"),
        pytest.param([1.02**place for place in range(200)], "a" * 200, id="a growing norm"),
        pytest.param([0.1] * 20, "a" * 20, id="a shorter norm"),
    ],
)
def test_a_lasting_change_is_normal_and_a_single_spike_is_not(after: list[float], expected: str) -> None:
    scene = Scene()
    assert outcomes(scene, CALM) == "a" * len(CALM)
    assert outcomes(scene, after) == expected


def test_an_excess_of_spikes_continues_from_saved_state() -> None:
    scene, other = Scene(), Scene()
    outcomes(scene, [*CALM, *[10.0] * 3])
    other.guard.restore({name: tensor.clone() for name, tensor in scene.guard.tensors().items()})
    other.steps = scene.steps
    assert outcomes(other, [10.0] * 4) == outcomes(scene, [10.0] * 4) == "ssaa"
    assert other.guard.counters.equal(scene.guard.counters)
