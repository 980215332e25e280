"""Configuration of the loss terms: weight, schedule, and the modes and player they belong to.

The value of a term is a mean per item (token, latent, score); `weight` scales it in nats per token. Terms
that are sums in the negative ELBO (reconstruction, kl) enter as sums. Imports no torch: the launcher and the
schema generator read it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import Field

from aurl_trainer.schema import Config, Fraction

Mode = Literal["transformer", "vae", "vae-gan"]
Weight = Annotated[float, Field(ge=0, le=1e6)]


class TermConfig(Config):
    """Weight of a loss term and its schedule."""

    weight: Weight = 0.0
    """Factor of the term after its ramp. 0: off."""
    start: Fraction = 0.0
    """Fraction of the job's steps before the ramp starts; until then the weight is 0."""
    ramp: Fraction = 0.0
    """Fraction of each cycle over which the weight rises linearly from 0. 0: no ramp."""
    cycles: Annotated[int, Field(ge=1, le=1000)] = 1
    """Number of cycles of the ramp between `start` and the end of the job (cyclical annealing, Fu et al.
    2019)."""


class Counted(TermConfig):
    """A term with weight 1 by default."""

    weight: Weight = 1.0


class Divergence(TermConfig):
    """A KL term: β rises slowly, so training starts as a plain autoencoder."""

    weight: Weight = 0.1
    """β, the factor of the term after its ramp. 0: off."""
    ramp: Fraction = 0.8
    """Fraction of each cycle over which β rises linearly from 0."""


class Auxiliary(TermConfig):
    """An auxiliary term with a small weight by default."""

    weight: Weight = 0.3


class Adversarial(TermConfig):
    """A term of the decoder or encoder against the critic; by default late and with a small weight."""

    weight: Weight = 0.05
    start: Fraction = 0.5
    ramp: Fraction = 0.25
    """Fraction of each cycle over which the weight rises linearly from 0."""


class Judging(TermConfig):
    """A term of the critic; by default it starts a little before the adversarial terms."""

    weight: Weight = 1.0
    start: Fraction = 0.4


def _reconstruction(tokens: str) -> Counted:
    field: Counted = Field(
        default_factory=Counted,
        description=f"Cross-entropy of {tokens} given the preceding tokens (and latents).",
    )
    return field


def _ordinal(tokens: str) -> TermConfig:
    field: TermConfig = Field(
        default_factory=TermConfig,
        description=f"Squared earth mover's distance over {tokens}: near misses cost less than far ones (Hou "
        "et al. 2016).",
    )
    return field


class LossesConfig(Config):
    """Loss terms. Terms of another mode are rejected."""

    balance: Literal["fixed", "uncertainty"] = "fixed"
    """fixed: the weights as given. uncertainty: each reconstruction and auxiliary term L enters as weight ·
    (exp(−s)·L + s), with s trained and saved with the model (Kendall et al. 2018)."""
    free_bits: Annotated[float, Field(ge=0, le=10)] = 0.25
    """Nats per dimension below which the KL terms have no gradient (Kingma et al. 2016)."""

    reconstruction_end: Counted = _reconstruction("end-of-piece tokens")
    reconstruction_bar: Counted = _reconstruction("bar tokens")
    reconstruction_meter: Counted = _reconstruction("meter tokens")
    reconstruction_position: Counted = _reconstruction("position tokens (time within the bar)")
    reconstruction_tempo: Counted = _reconstruction("tempo tokens")
    reconstruction_track: Counted = _reconstruction("track tokens (drum tracks included)")
    reconstruction_program: Counted = _reconstruction("program tokens")
    reconstruction_pitch: Counted = _reconstruction("pitch tokens")
    reconstruction_drum: Counted = _reconstruction("drum-note tokens")
    reconstruction_velocity: Counted = _reconstruction("velocity tokens")
    reconstruction_duration: Counted = _reconstruction("duration tokens")
    reconstruction_other: Counted = _reconstruction("tokens of all other kinds")

    ordinal_position: TermConfig = _ordinal("positions")
    ordinal_pitch: TermConfig = _ordinal("pitches")
    ordinal_velocity: TermConfig = _ordinal("velocities")
    ordinal_duration: TermConfig = _ordinal("durations")

    label_smoothing: TermConfig = Field(default_factory=TermConfig)
    """Cross-entropy against the uniform distribution (Szegedy et al. 2016)."""
    confidence_penalty: TermConfig = Field(default_factory=TermConfig)
    """Negative entropy of the predictions (Pereyra et al. 2017)."""
    logit_scale: TermConfig = Field(default_factory=TermConfig)
    """Squared log-normaliser of the logits (z-loss), against drift (Chowdhery et al. 2022)."""
    repetition: TermConfig = Field(default_factory=TermConfig)
    """Unlikelihood of tokens of the last 32 steps that are not the target (Welleck et al. 2020)."""
    activation: TermConfig = Field(default_factory=TermConfig)
    """Mean square of the final hidden states (AR, Merity et al. 2017)."""
    temporal_activation: TermConfig = Field(default_factory=TermConfig)
    """Mean squared difference between the final hidden states of adjacent tokens (TAR, Merity et al.
    2017)."""
    dropout_consistency: TermConfig = Field(default_factory=TermConfig)
    """Symmetric KL between the predictions of two passes with different dropout (R-Drop, Liang et al. 2021).
    Costs a second forward pass."""

    kl_global: Divergence = Field(default_factory=Divergence)
    """KL of the sample's latent from its prior, in nats."""
    kl_phrase: Divergence = Field(default_factory=Divergence)
    """KL of the phrases' latents from their prior, in nats."""
    kl_bar: Divergence = Field(default_factory=Divergence)
    """KL of the bars' latents from their prior, in nats."""
    total_correlation: TermConfig = Field(default_factory=TermConfig)
    """Total correlation between the dimensions of the bars' latents, estimated over the micro-batch (β-TCVAE,
    Chen et al. 2018)."""
    latent_covariance: TermConfig = Field(default_factory=TermConfig)
    """Mean squared difference between the covariance of the bars' posterior means and the identity (DIP-VAE,
    Kumar et al. 2018)."""
    aggregate_posterior: TermConfig = Field(default_factory=TermConfig)
    """Maximum mean discrepancy between the bars' sampled latents and their prior, with an inverse
    multiquadratic kernel (InfoVAE, Zhao et al. 2019)."""
    latent_smoothness: TermConfig = Field(default_factory=TermConfig)
    """Mean squared difference between the posterior means of adjacent bars (slow features, Wiskott and
    Sejnowski 2002)."""
    bar_content: Auxiliary = Field(default_factory=Auxiliary)
    """Cross-entropy of a bar's tokens, in any order, given its latents alone (bag of words, Zhao et al.
    2017). Keeps the latents in use."""
    bar_onsets: TermConfig = Field(default_factory=TermConfig)
    """Binary cross-entropy of the set of position tokens in a bar (its rhythm), given its latents."""
    bar_density: TermConfig = Field(default_factory=TermConfig)
    """Squared error of ln(1 + number of tokens in a bar), given its latents."""
    bar_prediction: TermConfig = Field(default_factory=TermConfig)
    """Pick the next bar's latent among those of all bars in the micro-batch (InfoNCE, van den Oord et al.
    2018)."""
    bar_similarity: TermConfig = Field(default_factory=TermConfig)
    """Difference between the self-similarity matrices of a sample's bars (the form of the piece) in latents
    and in tokens (relational distillation, Park et al. 2019)."""
    corruption_consistency: TermConfig = Field(default_factory=TermConfig)
    """KL of the posteriors given the tokens with a fifth of them hidden from those given all tokens (CR-VAE,
    Sinha and Dieng 2021). Costs an encoder pass."""
    cycle_consistency: TermConfig = Field(default_factory=TermConfig)
    """Squared error of the posterior means re-encoded from the decoder's expected tokens (latent regression,
    Zhu et al. 2017). Costs an encoder pass."""
    latent_use: TermConfig = Field(default_factory=TermConfig)
    """Hinge loss: another sample's latents should cost 0.5 nats per token more than the sample's own
    (max-margin, against posterior collapse). Costs a decoder pass."""

    adversarial_states: Adversarial = Field(default_factory=Adversarial)
    """The critic should take decoder states on sampled tokens for those on real tokens (professor forcing,
    Lamb et al. 2016, with one parallel draw, Duckworth et al. 2019). Hinge form."""
    adversarial_latents: Adversarial = Field(default_factory=Adversarial)
    """The critic should take the encoder's latents for the prior's (Makhzani et al. 2015)."""
    feature_matching: Adversarial = Field(default_factory=Adversarial)
    """Mean absolute difference between the critic's mean features for decoder states on sampled and on real
    tokens (Salimans et al. 2016)."""
    critic_states: Judging = Field(default_factory=Judging)
    """Hinge loss of the critic on decoder states (Lim and Ye 2017, Miyato et al. 2018)."""
    critic_latents: Judging = Field(default_factory=Judging)
    """Hinge loss of the critic on latents; draws from the prior count as real."""
    r1_states: Judging = Field(default_factory=Judging)
    """Half the squared gradient of the critic's scores at real decoder states (R1, Mescheder et al. 2018)."""
    r1_latents: Judging = Field(default_factory=Judging)
    """Half the squared gradient of the critic's scores at draws from the prior."""
    critic_drift: TermConfig = Field(default_factory=TermConfig)
    """Mean square of the critic's scores for real examples (Karras et al. 2018)."""

    def term(self, name: str) -> TermConfig:
        """Return the configuration of a term."""
        term: TermConfig = getattr(self, name)
        return term

    def wanted(self, mode: Mode) -> list[str]:
        """Return the terms of a mode with non-zero weight, in order."""
        return [name for name in TERMS if self.term(name).weight > 0 and belongs(name, mode)]

    def faults_in(self, mode: Mode) -> Iterator[str]:
        """Yield a message per setting without effect in this mode, and one if nothing would be learned."""
        for name in TERMS:
            if not belongs(name, mode) and self.term(name) != type(self.term(name))():
                alias = type(self).model_fields[name].alias
                yield f"losses.{alias} has no effect in mode {mode}: leave it out"
        if mode == "transformer" and self.free_bits != type(self)().free_bits:
            yield "losses.freeBits has no effect in mode transformer: leave it out"
        if not any(name.startswith("reconstruction_") for name in self.wanted(mode)):
            yield "losses leaves out every reconstruction term: nothing would be learned"

    def plain(self, mode: Mode) -> bool:
        """Return True if the loss is the plain cross-entropy of all tokens."""
        standard = Counted()
        return self.balance == "fixed" and all(
            (self.term(name) == standard)
            if name.startswith("reconstruction_")
            else self.term(name).weight == 0
            for name in TERMS
            if belongs(name, mode)
        )


TERMS: Final = tuple(name for name in LossesConfig.model_fields if name not in ("balance", "free_bits"))
"""Names of all terms, in order."""

_FIRST_LATENT, _FIRST_ADVERSARIAL = TERMS.index("kl_global"), TERMS.index("adversarial_states")
CRITIC_TERMS: Final = TERMS[TERMS.index("critic_states") :]
"""Terms that train the critic; all others train the model."""


def belongs(name: str, mode: Mode) -> bool:
    """Return True if a term exists in a mode."""
    place = TERMS.index(name)
    return place < {"transformer": _FIRST_LATENT, "vae": _FIRST_ADVERSARIAL, "vae-gan": len(TERMS)}[mode]


def weight_at(term: TermConfig, step: int, total_steps: int) -> float:
    """Return a term's weight at optimizer step `step`, counted from 1 to `total_steps`.

    The weight is 0 before the fraction `start` of the job. The rest is divided into equal cycles; in each,
    the weight rises linearly over the first fraction `ramp` of the cycle and then stays.
    """
    p = (step - 1) / max(1, total_steps)
    if p < term.start:
        return 0.0
    if term.ramp == 0:
        return term.weight
    within = (p - term.start) / max(1.0 - term.start, 1e-12) * term.cycles % 1.0
    return term.weight * min(1.0, within / term.ramp)
