"""Every term of the loss with its weight and schedule, and which mode and player it belongs to.

The value of a term is the mean per thing it is about (token, latent, score); its `weight` counts it in nats
per token, but for terms that are sums in the negative ELBO (reconstruction, kl): those enter as sums.
No torch: the launcher and the operator's schema read this too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from pydantic import Field

from aurl_trainer.schema import Config

Mode = Literal["transformer", "vae", "vae-gan"]


class TermConfig(Config):
    """One term: its weight, and how that changes over the job."""

    weight: float = Field(
        default=0.0, ge=0, le=1e6, description="Factor of the term when it has risen. 0: left out."
    )
    start: float = Field(
        default=0.0, ge=0, le=1, description="Share of the job's steps before which the weight is 0."
    )
    ramp: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of each cycle over which the weight rises linearly from 0; 0: it does not rise.",
    )
    cycles: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Number of times that the rise is repeated between `start` and the job's end (cyclical "
        "annealing, Fu et al. 2019).",
    )


class Counted(TermConfig):
    """A term that counts in full unless told otherwise."""

    weight: float = Field(
        default=1.0, ge=0, le=1e6, description="Factor of the term when it has risen. 0: left out."
    )


class Divergence(TermConfig):
    """A KL term: training begins as an autoencoder, and the prior presses ever more."""

    weight: float = Field(
        default=0.1, ge=0, le=1e6, description="β, the factor of the term when it has risen. 0: left out."
    )
    ramp: float = Field(
        default=0.8, ge=0, le=1, description="Share of each cycle over which β rises linearly from 0."
    )


class Auxiliary(TermConfig):
    """A term that helps a little unless told otherwise."""

    weight: float = Field(
        default=0.3, ge=0, le=1e6, description="Factor of the term when it has risen. 0: left out."
    )


class Adversarial(TermConfig):
    """A term of the decoder's or encoder's play against the critic: late and light."""

    weight: float = Field(
        default=0.05, ge=0, le=1e6, description="Factor of the term when it has risen. 0: left out."
    )
    start: float = Field(
        default=0.5, ge=0, le=1, description="Share of the job's steps before which the weight is 0."
    )
    ramp: float = Field(
        default=0.25, ge=0, le=1, description="Share of the rest over which the weight rises from 0."
    )


class Judging(TermConfig):
    """A term of the critic: it begins a little before the others play against it."""

    weight: float = Field(
        default=1.0, ge=0, le=1e6, description="Factor of the term when it has risen. 0: left out."
    )
    start: float = Field(
        default=0.4, ge=0, le=1, description="Share of the job's steps before which the weight is 0."
    )


def _reconstruction(tokens: str) -> Counted:
    field: Counted = Field(
        default_factory=Counted, description=f"Cross-entropy of {tokens}, given those before (and latents)."
    )
    return field


def _ordinal(tokens: str) -> TermConfig:
    field: TermConfig = Field(
        default_factory=TermConfig,
        description=f"Squared earth mover's distance over {tokens} in their order: a near miss costs less "
        "than a far one (Hou et al. 2016).",
    )
    return field


class LossesConfig(Config):
    """The terms of the loss. Terms of another mode are refused."""

    balance: Literal["fixed", "uncertainty"] = Field(
        default="fixed",
        description="uncertainty: each reconstruction and auxiliary term L has a learned s and counts as "
        "weight · (exp(−s)·L + s) (Kendall et al. 2018); s is trained and saved with the model.",
    )
    free_bits: float = Field(
        default=0.25,
        ge=0,
        le=10,
        description="Nats per dimension below which the KL terms do not press (Kingma et al. 2016).",
    )

    reconstruction_end: Counted = _reconstruction("the token that ends a piece")
    reconstruction_bar: Counted = _reconstruction("bar tokens")
    reconstruction_meter: Counted = _reconstruction("metres")
    reconstruction_position: Counted = _reconstruction("positions in the bar")
    reconstruction_tempo: Counted = _reconstruction("tempi")
    reconstruction_track: Counted = _reconstruction("track tokens, the drums' included")
    reconstruction_program: Counted = _reconstruction("programs")
    reconstruction_pitch: Counted = _reconstruction("pitches")
    reconstruction_drum: Counted = _reconstruction("drum notes")
    reconstruction_velocity: Counted = _reconstruction("velocities")
    reconstruction_duration: Counted = _reconstruction("durations")
    reconstruction_other: Counted = _reconstruction("tokens of all other kinds")

    ordinal_position: TermConfig = _ordinal("positions")
    ordinal_pitch: TermConfig = _ordinal("pitches")
    ordinal_velocity: TermConfig = _ordinal("velocities")
    ordinal_duration: TermConfig = _ordinal("durations")

    label_smoothing: TermConfig = Field(
        default_factory=TermConfig,
        description="Cross-entropy against the uniform distribution (Szegedy et al. 2016).",
    )
    confidence_penalty: TermConfig = Field(
        default_factory=TermConfig, description="Negative entropy of the predictions (Pereyra et al. 2017)."
    )
    logit_scale: TermConfig = Field(
        default_factory=TermConfig,
        description="Square of the logits' log-normaliser: keeps them from drifting (Chowdhery et al. 2022).",
    )
    repetition: TermConfig = Field(
        default_factory=TermConfig,
        description="Unlikelihood of the tokens of the last 32 steps where they are wrong (Welleck et al. "
        "2020).",
    )
    activation: TermConfig = Field(
        default_factory=TermConfig, description="Mean square of the last states (AR, Merity et al. 2017)."
    )
    temporal_activation: TermConfig = Field(
        default_factory=TermConfig,
        description="Mean square of the difference of the last states of adjacent tokens (TAR, Merity et al. "
        "2017).",
    )
    dropout_consistency: TermConfig = Field(
        default_factory=TermConfig,
        description="Symmetric KL between the predictions of two passes with different dropout (R-Drop, "
        "Liang et al. 2021); costs a second pass.",
    )

    kl_global: Divergence = Field(
        default_factory=Divergence, description="KL of the sample's latent from its prior, in nats."
    )
    kl_phrase: Divergence = Field(
        default_factory=Divergence, description="KL of the phrases' latents from their prior, in nats."
    )
    kl_bar: Divergence = Field(
        default_factory=Divergence, description="KL of the bars' latents from their prior, in nats."
    )
    total_correlation: TermConfig = Field(
        default_factory=TermConfig,
        description="Dependence between the dimensions of the bars' latents, estimated over the micro-batch "
        "(β-TCVAE, Chen et al. 2018).",
    )
    latent_covariance: TermConfig = Field(
        default_factory=TermConfig,
        description="Distance of the covariance of the bars' posterior means from the identity (DIP-VAE, "
        "Kumar et al. 2018).",
    )
    aggregate_posterior: TermConfig = Field(
        default_factory=TermConfig,
        description="Maximum mean discrepancy between drawn latents and the prior's, with an inverse "
        "multiquadratic kernel (InfoVAE, Zhao et al. 2019).",
    )
    latent_smoothness: TermConfig = Field(
        default_factory=TermConfig,
        description="Mean squared difference of the posterior means of adjacent bars (slow features, Wiskott "
        "and Sejnowski 2002).",
    )
    bar_content: Auxiliary = Field(
        default_factory=Auxiliary,
        description="Cross-entropy of a bar's tokens in any order given its latent alone (bag of words, Zhao "
        "et al. 2017): keeps the latents in use.",
    )
    bar_onsets: TermConfig = Field(
        default_factory=TermConfig,
        description="Binary cross-entropy of which position tokens a bar has, from its latent: its rhythm.",
    )
    bar_density: TermConfig = Field(
        default_factory=TermConfig,
        description="Squared error of the logarithm of 1 + a bar's number of tokens, from its latent.",
    )
    bar_prediction: TermConfig = Field(
        default_factory=TermConfig,
        description="Tell the next bar's latent from those of other bars of the batch (InfoNCE, van den Oord "
        "et al. 2018).",
    )
    bar_similarity: TermConfig = Field(
        default_factory=TermConfig,
        description="Difference between the self-similarity of a sample's bars in the latents and in their "
        "tokens: the form of the piece (relational distillation, Park et al. 2019).",
    )
    corruption_consistency: TermConfig = Field(
        default_factory=TermConfig,
        description="KL from the posteriors of tokens to those of the same with a fifth hidden (CR-VAE, "
        "Sinha and Dieng 2021); costs an encoder pass.",
    )
    cycle_consistency: TermConfig = Field(
        default_factory=TermConfig,
        description="Squared error of the latents' means read back from the decoder's expected next tokens "
        "(latent regression, Zhu et al. 2017); costs an encoder pass.",
    )
    latent_use: TermConfig = Field(
        default_factory=TermConfig,
        description="Hinge that another sample's latents cost 0.5 nats per token more than a sample's own "
        "(max-margin, against posterior collapse); costs a decoder pass.",
    )

    adversarial_states: Adversarial = Field(
        default_factory=Adversarial,
        description="Decoder states on its own tokens should be taken for those on real ones (professor "
        "forcing, Lamb et al. 2016, over one parallel draw, Duckworth et al. 2019); hinge form.",
    )
    adversarial_latents: Adversarial = Field(
        default_factory=Adversarial,
        description="The encoder's latents should be taken for the prior's (Makhzani et al. 2015).",
    )
    feature_matching: Adversarial = Field(
        default_factory=Adversarial,
        description="Distance of the critic's mean features of decoder states on own and on real tokens "
        "(Salimans et al. 2016).",
    )
    critic_states: Judging = Field(
        default_factory=Judging,
        description="Hinge loss of the critic on decoder states (Lim and Ye 2017, Miyato et al. 2018).",
    )
    critic_latents: Judging = Field(
        default_factory=Judging, description="Hinge loss of the critic on latents: the prior's are real."
    )
    r1_states: Judging = Field(
        default_factory=Judging,
        description="Squared gradient of the critic's scores at real decoder states (R1, Mescheder et al. "
        "2018), halved.",
    )
    r1_latents: Judging = Field(
        default_factory=Judging, description="Squared gradient of the critic's scores at the prior's latents."
    )
    critic_drift: TermConfig = Field(
        default_factory=TermConfig,
        description="Mean square of the critic's scores of what is real (Karras et al. 2018).",
    )

    def term(self, name: str) -> TermConfig:
        """Return the configuration of a term."""
        term: TermConfig = getattr(self, name)
        return term

    def wanted(self, mode: Mode) -> list[str]:
        """Return the terms of a mode whose weight is not 0, in order."""
        return [name for name in TERMS if self.term(name).weight > 0 and belongs(name, mode)]

    def faults(self, mode: Mode) -> Iterator[str]:
        """Yield settings without effect in this mode, and whether nothing would be learned."""
        for name in TERMS:
            if not belongs(name, mode) and self.term(name) != type(self.term(name))():
                alias = type(self).model_fields[name].alias
                yield f"losses.{alias} has no effect in mode {mode}: leave it out"
        if mode == "transformer" and self.free_bits != type(self)().free_bits:
            yield "losses.freeBits has no effect in mode transformer: leave it out"
        if not any(name.startswith("reconstruction_") for name in self.wanted(mode)):
            yield "losses leaves out every reconstruction term: nothing would be learned"

    def plain(self, mode: Mode) -> bool:
        """Tell whether the loss is the cross-entropy of all tokens and nothing else."""
        standard = Counted()
        return self.balance == "fixed" and all(
            (self.term(name) == standard)
            if name.startswith("reconstruction_")
            else self.term(name).weight == 0
            for name in TERMS
            if belongs(name, mode)
        )


TERMS: Final = tuple(name for name in LossesConfig.model_fields if name not in ("balance", "free_bits"))
"""The names of all terms, in order."""

_FIRST_LATENT, _FIRST_ADVERSARIAL = TERMS.index("kl_global"), TERMS.index("adversarial_states")
CRITIC_TERMS: Final = TERMS[TERMS.index("critic_states") :]
"""The terms that train the critic; all others train the model."""


def belongs(name: str, mode: Mode) -> bool:
    """Tell whether a term exists in a mode."""
    place = TERMS.index(name)
    return place < {"transformer": _FIRST_LATENT, "vae": _FIRST_ADVERSARIAL, "vae-gan": len(TERMS)}[mode]


def weight_at(term: TermConfig, step: int, total_steps: int) -> float:
    """Return a term's weight at optimizer step `step`, counted from 1 to `total_steps`.

    With p the share of the job that is done: 0 before `start`; then the rest is cut into equal cycles, in
    each of which the weight rises linearly over its first `ramp` and stays.
    """
    p = (step - 1) / max(1, total_steps)
    if p < term.start:
        return 0.0
    if term.ramp == 0:
        return term.weight
    within = (p - term.start) / max(1.0 - term.start, 1e-12) * term.cycles % 1.0
    return term.weight * min(1.0, within / term.ramp)
