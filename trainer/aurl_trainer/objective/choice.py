"""Choice of the model and the objective."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aurl_trainer.config import TrainingConfig
from aurl_trainer.data.vocabulary import Vocabulary
from aurl_trainer.errors import UserError
from aurl_trainer.hooks.load import Hook
from aurl_trainer.losses.config import CRITIC_TERMS
from aurl_trainer.losses.heads import LatentHeads
from aurl_trainer.losses.reconstruction import GROUPS
from aurl_trainer.losses.term import TokenTables
from aurl_trainer.losses.weighted import WeightedTerms
from aurl_trainer.model.compilation import TokenLoss
from aurl_trainer.model.critic import Critic
from aurl_trainer.model.transformer import Transformer
from aurl_trainer.model.vae import VAE
from aurl_trainer.objective.adversary import Adversary
from aurl_trainer.objective.autoencoder import AutoencoderObjective
from aurl_trainer.objective.language import ExtraLossesObjective, LanguageObjective, LanguageTermsObjective
from aurl_trainer.objective.objective import Objective


def make_model(config: TrainingConfig, vocabulary_size: int) -> Transformer | VAE:
    """Return the mode's model with initial weights, on the CPU."""
    kind = Transformer if config.mode == "transformer" else VAE
    model = kind(config.model, vocabulary_size)
    model.initialise(config.seed)
    return model


def make_objective(
    config: TrainingConfig,
    model: Transformer | VAE,
    vocabulary: Vocabulary,
    token_loss: TokenLoss,
    device: torch.device,
    hooks: Sequence[Hook] = (),
) -> Objective:
    """Return the objective of the mode, with the user's extra losses if there are `hooks`.

    `token_loss` may overwrite the logits unless there are hooks, which read them.

    Raises UserError if the mode needs tokens that the vocabulary does not have.
    """
    if isinstance(model, VAE) and not vocabulary.count["Bar"]:
        raise UserError(
            f"training.mode {config.mode} has a latent per bar, and dataset.tokenizer.encoding "
            f"{vocabulary.config.encoding} has no bars: set it to remi."
        )
    losses = config.losses
    if isinstance(model, Transformer) and losses.plain(config.mode):
        if hooks:
            return ExtraLossesObjective(model, token_loss, hooks, vocabulary)
        return LanguageObjective(model, token_loss)
    wanted = losses.wanted(config.mode)
    own = [name for name in wanted if name not in CRITIC_TERMS]
    tables = TokenTables(vocabulary, GROUPS, device)
    terms = WeightedTerms(losses, own, config.steps, device).to(device)
    if isinstance(model, Transformer):
        return LanguageTermsObjective(model, terms, tables)
    heads = LatentHeads(config.model.latents, vocabulary, own)
    heads.initialise(config.seed)
    heads.to(device)
    adversary = None
    if config.mode == "vae-gan":
        critic = Critic(config.model)
        critic.initialise(config.seed)
        critic_terms = [name for name in wanted if name in CRITIC_TERMS]
        adversary = Adversary(
            critic.to(device),
            WeightedTerms(losses, critic_terms, config.steps, device),
            config.model.critic,
            config.stability,
            config.clip.max_norm,
            device,
        )
    return AutoencoderObjective(model, terms, heads, tables, config.seed, adversary)
