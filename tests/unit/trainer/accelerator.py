"""An accelerator for tests without one: its tensors compute on the host and refuse float64, as MPS does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("meta")
"""PyTorch accepts this device without hardware."""


class DeviceTensor(Tensor):
    """A tensor on DEVICE, with its values in `host`."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> DeviceTensor:
        made: DeviceTensor = Tensor._make_wrapper_subclass(
            cls, host.shape, strides=host.stride(), dtype=host.dtype, device=DEVICE
        )
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # PyTorch types this class method as a method
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(function, args, kwargs or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()


class Accelerator(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's own
    """The context in which tensors can be on DEVICE."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: Any) -> Any:
    seen: list[Tensor] = []

    def to_host(value: Any) -> Any:
        if isinstance(value, DeviceTensor):
            seen.append(value)
            return value.host
        return value

    host_args, host_kwargs = tree_map(to_host, (args, dict(kwargs)))
    wanted = kwargs.get("device")
    if wanted is not None:
        host_kwargs["device"] = "cpu"
    result = function(*host_args, **host_kwargs)
    if torch.device(wanted) != DEVICE if wanted is not None else not seen:
        return result
    if function._schema.is_mutable:
        return args[0]

    def to_device(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.dtype == torch.float64:
            raise TypeError("this device has no float64")
        return DeviceTensor(value)

    return tree_map(to_device, result)
