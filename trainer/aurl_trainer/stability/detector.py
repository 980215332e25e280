"""The interface of the detectors, and the state that checkpoints keep of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from aurl_trainer.metrics import StepMetrics
from aurl_trainer.stability.finding import EvaluationLosses, Finding


class Detector:
    """Keeps the attributes named in `STATE`, numbers and lists of numbers, in checkpoints."""

    STATE: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {name: _copy(getattr(self, name)) for name in self.STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state; attributes that `state` lacks stay as they are."""
        for name in self.STATE:
            if name in state:
                setattr(self, name, _copy(state[name]))


class IntervalDetector(Detector, ABC):
    """Looks at one log interval after the other."""

    @abstractmethod
    def observe(self, metrics: StepMetrics) -> Finding | None:
        """Take the next log interval, and return what is wrong, if anything."""


class EvaluationDetector(Detector, ABC):
    """Looks at one evaluation after the other."""

    @abstractmethod
    def observe(self, evaluation: EvaluationLosses) -> Finding | None:
        """Take the next evaluation, and return what is wrong, if anything."""


def _copy(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value
