"""The transformer: causal, equal with and without a cache, able to learn and unable to cheat."""

from __future__ import annotations

import math

import pytest
import torch

from aurl_trainer.model.config import ModelConfig
from aurl_trainer.model.transformer import Transformer, token_loss_sum

VOCABULARY = 11


def make(**changes: object) -> Transformer:
    config = ModelConfig.model_validate({"dModel": 16, "layers": 2, "heads": 2, **changes})
    model = Transformer(config, VOCABULARY)
    model.initialise(0)
    return model


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("position", [1, 5, 11])
def test_a_future_token_changes_no_earlier_logit(position: int) -> None:
    model = make()
    inputs = tokens(2, 12)
    changed = inputs.clone()
    changed[:, position] = (changed[:, position] + 1) % VOCABULARY
    before, after = model(inputs), model(changed)
    assert torch.equal(before[:, :position], after[:, :position])
    assert not torch.allclose(before[:, position], after[:, position])


def test_order_of_earlier_tokens_matters() -> None:
    model = make()
    inputs = tokens(1, 6)
    swapped = inputs[:, [1, 0, 2, 3, 4, 5]]
    assert not torch.allclose(model(inputs)[:, -1], model(swapped)[:, -1])


LOCAL = {"kind": "local-global", "window": 3, "globalEvery": 9}


@pytest.mark.parametrize("attention", [{}, LOCAL, LOCAL | {"globalEvery": 2}, LOCAL | {"window": 4}])
@pytest.mark.parametrize("chunks", [(12,), (1,) * 12, (5, 1, 6)])
def test_cached_logits_equal_uncached(chunks: tuple[int, ...], attention: dict[str, object]) -> None:
    model = make(attention=attention)
    inputs = tokens(3, 12)
    cache = model.new_cache(3, 12)
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in torch.split(inputs, list(chunks), dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(inputs), atol=1e-5, rtol=1e-5)
    assert cache.length == 12


@pytest.mark.parametrize(("every", "reach"), [(9, 4), (2, 11)])
def test_a_local_block_sees_its_window_alone(every: int, reach: int) -> None:
    """Two blocks with a window of 3 reach 4 tokens back; with a global one among them, all."""
    model = make(attention=LOCAL | {"globalEvery": every})
    inputs = tokens(1, 13)  # 13 is not a multiple of the window
    changed = inputs.clone()
    changed[0, 1] = (changed[0, 1] + 1) % VOCABULARY
    differs = (model(inputs) != model(changed)).any(-1)[0].tolist()
    assert differs == [1 <= position <= 1 + reach for position in range(13)]


def test_a_full_cache_is_refused() -> None:
    model = make()
    with pytest.raises(ValueError, match="the cache has room for 4 tokens and 5 are needed"):
        model(tokens(1, 5), cache=model.new_cache(1, 4))


def train(model: Transformer, batches: list[torch.Tensor]) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for batch in batches:
        loss = token_loss_sum(model(batch[:, :-1]), batch[:, 1:]) / batch[:, 1:].numel()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_loss_on_noise_stays_at_its_entropy() -> None:
    """A model that sees its targets would get below the entropy of independent uniform tokens."""
    source = torch.Generator().manual_seed(2)
    batches = [torch.randint(VOCABULARY, (32, 17), generator=source) for _ in range(60)]
    losses = train(make(), batches)
    # 20 batches of 512 tokens; the deviation of -log p is under 0.3 for a model this close to uniform.
    assert sum(losses[-20:]) / 20 == pytest.approx(math.log(VOCABULARY), abs=0.02)


def test_loss_on_structure_falls() -> None:
    """Each token is one more than the last, from a random start: only the first cannot be predicted."""
    source = torch.Generator().manual_seed(3)
    starts = [torch.randint(VOCABULARY, (32, 1), generator=source) for _ in range(80)]
    losses = train(make(), [(start + torch.arange(17)) % VOCABULARY for start in starts])
    assert losses[0] == pytest.approx(math.log(VOCABULARY), abs=0.1)
    assert losses[-1] < 0.5


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    first = make()
    torch.manual_seed(6)
    second = make()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    second.initialise(1)
    assert not torch.equal(first.embedding.weight, second.embedding.weight)


@pytest.mark.parametrize(("tied", "tensors"), [(True, 14), (False, 15)])
def test_tied_embeddings_are_one_parameter(tied: bool, tensors: int) -> None:
    model = make(tieEmbeddings=tied)
    assert len(list(model.parameters())) == tensors
    assert (model.head.weight is model.embedding.weight) == tied


def test_ignored_targets_do_not_count() -> None:
    model = make()
    inputs, targets = tokens(2, 8), tokens(2, 8)
    whole = token_loss_sum(model(inputs)[:, :5], targets[:, :5])
    targets[:, 5:] = -100
    torch.testing.assert_close(token_loss_sum(model(inputs), targets), whole)


def test_dropout_can_be_changed() -> None:
    model = Transformer(ModelConfig(d_model=16, layers=2, heads=2), 20)
    model.initialise(0)
    tokens = torch.arange(12).view(1, 12)
    plain = model(tokens)
    model.set_dropout(0.5)
    assert not model(tokens).equal(plain)
    model.eval()
    assert model(tokens).equal(plain)
    model.train()
    model.set_dropout(0.0)
    assert model(tokens).equal(plain)
