"""Activation checkpointing: which parts are recomputed, how often, and that results stay the same."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from aurl_trainer.errors import UserError
from aurl_trainer.memory.activation import ActivationCheckpointing, Mode
from aurl_trainer.model.config import ModelConfig
from aurl_trainer.model.transformer import Transformer, token_loss_sum

VOCABULARY = 11


def make() -> Transformer:
    model = Transformer(ModelConfig(d_model=16, layers=2, heads=2, dropout=0.2), VOCABULARY)
    model.initialise(0)
    return model


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that really run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def gradients(model: Transformer) -> tuple[list[Tensor], Counter[str], int]:
    """Return the gradients of one pass, the operators that ran, and the bytes kept for the backward pass."""
    kept: dict[int, int] = {}
    own = {parameter.data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.randint(VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    with Counting() as counting:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = token_loss_sum(model(tokens), tokens)
        torch.autograd.backward(loss)
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return found, counting.calls, sum(kept.values())


@pytest.mark.parametrize(
    ("mode", "segments", "products", "attentions", "norms"),
    [
        ("none", [], 9, 2, 5),
        ("selective", [], 9, 2, 9),  # matrix products and attention are kept, norms are recomputed
        ("full", [], 9 + 2 * 4, 4, 9),
        ("full", ["blocks.1"], 9 + 4, 3, 7),
        ("full", ["blocks.*.attention"], 9 + 2 * 2, 4, 7),
        ("full", ["*.feedForward"], 9 + 2 * 2, 2, 7),
    ],
)
def test_what_is_computed_again(
    mode: Mode, segments: list[str], products: int, attentions: int, norms: int
) -> None:
    plain, _, kept = gradients(make())
    model = make()
    checkpointing = ActivationCheckpointing(model, segments)
    checkpointing.switch(mode)
    again, calls, less = gradients(model)
    assert all(a.equal(b) for a, b in zip(plain, again, strict=True))
    assert calls["mm"] == products + 2 * 9  # each product has two more in the backward pass
    assert calls["_scaled_dot_product_flash_attention_for_cpu"] == attentions
    assert calls["native_layer_norm"] == norms
    assert less < kept if mode != "none" else less == kept


def test_names_stay_and_a_copy_is_its_own() -> None:
    model = make()
    names = [name for name, _ in model.named_parameters()]
    ActivationCheckpointing(model).switch("full")
    assert [name for name, _ in model.named_parameters()] == names
    twin = copy.deepcopy(model)
    twin(torch.zeros(1, 4, dtype=torch.int64)).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for parameter in twin.parameters())


def test_switched_off_it_is_gone() -> None:
    model = make()
    checkpointing = ActivationCheckpointing(model)
    checkpointing.switch("full")
    checkpointing.switch("none")
    assert gradients(model)[1] == gradients(make())[1]


@pytest.mark.parametrize(
    ("segments", "complaint"),
    [
        (["block.0"], "names 'block.0', which the model does not have; it has embedding, norm, head"),
        (["blocks.0", "blocks.0.attention"], "blocks.0.attention, which lies inside blocks.0, named too"),
    ],
)
def test_wrong_segments_are_refused(segments: list[str], complaint: str) -> None:
    with pytest.raises(UserError) as refusal:
        ActivationCheckpointing(make(), segments)
    assert complaint in str(refusal.value)
