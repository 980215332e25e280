"""Activation checkpointing (Chen et al. 2016): segments of the model keep their inputs and are recomputed.

A segment is a module, or a method that a module lists in its `segments`. Its call is replaced on the object,
so parameter names stay the same, and a sharded or compiled module around it sees one plain call. Random
generators are restored before a segment is recomputed: dropout drops the same activations, and results have
the same bits as without checkpointing.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias

import torch
from pydantic.alias_generators import to_camel
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from aurl_trainer.errors import UserError

Mode: TypeAlias = Literal["none", "selective", "full"]
Segment: TypeAlias = tuple[nn.Module, str]
"""A module and the name of its method that is recomputed."""

_PACKETS = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "convolution",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
"""Operators whose results `selective` keeps: they do most of a step's arithmetic."""


class ActivationCheckpointing:
    """Chooses what a model recomputes in its backward pass.

    Raises UserError for a name that the model does not have, or one that lies inside another.
    """

    def __init__(self, model: nn.Module, wanted: Sequence[str] = ()) -> None:
        """`wanted` has names of segments, `*` for any characters; if empty, every block of the model."""
        known = named_segments(model)
        self.names = _choose(known, wanted) if wanted else _blocks(model)
        self._segments = [known[name] for name in self.names]
        self.mode: Mode = "none"

    def switch(self, mode: Mode) -> None:
        """Use `mode` from now on."""
        for module, method in self._segments:
            vars(module).pop(method, None)
            if mode != "none":
                setattr(module, method, Recomputed(getattr(module, method), selective=mode == "selective"))
        self.mode = mode


class Recomputed:
    """A method whose activations are recomputed in the backward pass; a plain call without gradients."""

    def __init__(self, method: Callable[..., Any], *, selective: bool) -> None:
        self.method, self.selective = method, selective

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the method."""
        if not torch.is_grad_enabled():
            return self.method(*arguments, **options)
        if self.selective:
            options["context_fn"] = _selective_contexts
        return checkpoint(self.method, *arguments, use_reentrant=False, **options)


def named_segments(model: nn.Module) -> dict[str, Segment]:
    """Return all segments by their names in the configuration (camelCase, dotted)."""
    found: dict[str, Segment] = {}
    for path, module in model.named_modules():
        if not path or next(module.parameters(), None) is None:
            continue
        name = ".".join(to_camel(part) for part in path.split("."))
        if not isinstance(module, nn.ModuleList | nn.ModuleDict):
            found[name] = (module, "forward")
        for method in getattr(module, "segments", ()):
            found[f"{name}.{to_camel(method)}"] = (module, method)
    return found


def _blocks(model: nn.Module) -> list[str]:
    """Return the names of the items of the outermost module lists."""
    lists = [path for path, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [path for path in lists if not any(path.startswith(f"{other}.") for other in lists)]
    camel = [".".join(to_camel(part) for part in path.split(".")) for path in outer]
    return [name for name in named_segments(model) if name.rpartition(".")[0] in camel]


def _choose(known: Mapping[str, Segment], wanted: Sequence[str]) -> list[str]:
    chosen: list[str] = []
    for pattern in wanted:
        matches = [name for name in known if fnmatchcase(name, pattern)]
        if not matches:
            raise UserError(
                f"training.memory.segments names {pattern!r}, which the model does not have; it has "
                f"{', '.join(_summary(known))}."
            )
        chosen += [name for name in matches if name not in chosen]
    for name in chosen:
        outer = next((other for other in chosen if name.startswith(f"{other}.")), None)
        if outer is not None:
            raise UserError(
                f"training.memory.segments names {name}, which lies inside {outer}, named too: "
                "leave one of them out."
            )
    return chosen


def _summary(names: Iterable[str]) -> list[str]:
    """Return the names with the last number of each as a range: `blocks.0-3.attention`."""
    numbers: dict[tuple[str, str], list[int]] = {}
    plain = []
    for name in names:
        match = re.fullmatch(r"(.*?\.)(\d+)((?:\.[^.\d][^.]*)*)", name)
        if match:
            numbers.setdefault((match[1], match[3]), []).append(int(match[2]))
        else:
            plain.append(name)
    ranges = [
        f"{before}{found[0]}{f'-{found[-1]}' if len(found) > 1 else ''}{after}"
        for (before, after), found in numbers.items()
    ]
    return plain + ranges


def _selective_contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    return create_selective_checkpoint_contexts(_kept())  # type: ignore[no-untyped-call,no-any-return]


@functools.cache
def _kept() -> list[Any]:
    """Return the overloads of the operators in `_PACKETS` that exist in this version of PyTorch."""
    packets = [getattr(torch.ops.aten, name, None) for name in _PACKETS]
    return [packet.default for packet in packets if packet is not None and "default" in packet.overloads()]
