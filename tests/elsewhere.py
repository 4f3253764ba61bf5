"""A second device for machines that have none: numbers of the CPU that claim to lie elsewhere.

A tensor that is `Elsewhere` says that its device is `meta`, and holds real numbers. While
`second_device()` is active, what is made on `meta` or sent there is such a tensor, and an operation
that mixes one with a tensor of the CPU raises the error that a GPU would. As on a GPU, numbers
without dimensions mix with anything, indices may lie on the CPU, and a generator must lie where the
numbers are drawn.
"""

import contextlib

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
META, CPU = torch.device("meta"), torch.device("cpu")
# What may move numbers from one device to the other, or look at both.
_MOVES = {aten.copy_.default}
_INDEXED = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}


class Elsewhere(Tensor):
    """A tensor that claims to lie on another device."""

    @staticmethod
    def __new__(cls, source: Tensor, _is_param: bool = False, **_):
        """Of a tensor. accelerate copies parameters with all their attributes."""
        numbers = _numbers(source)
        self = Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=META,
        )
        self.numbers = numbers
        if _is_param:
            self._is_param = True  # what makes a tensor of a class of its own a parameter
        return self

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})

    def __repr__(self):
        return f"Elsewhere({self.numbers})"

    def tolist(self):
        return self.numbers.tolist()


def _numbers(x):
    return x.numbers if isinstance(x, Elsewhere) else x


def _run(function, args, kwargs):
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    there = any(isinstance(x, Elsewhere) for x in tensors)
    device = kwargs.get("device")
    goal = torch.device(device) if device is not None else META if there else CPU
    if there and function not in _MOVES:
        looked_at = tree_flatten(args[:1] if function in _INDEXED else (args, kwargs))[0]
        here = [x for x in looked_at if isinstance(x, Tensor) and not isinstance(x, Elsewhere)]
        if any(x.ndim for x in here):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"meta and cpu! ({function})"
            )
    generator = kwargs.get("generator")
    if generator is not None and goal == META:
        raise RuntimeError("Expected a 'meta' device type for generator but found 'cpu'")
    if function in _INDEXED and not isinstance(args[0], Elsewhere) and there:
        raise RuntimeError("indices should be either on cpu or on the same device as the tensor")
    plain_args, plain = tree_map(_numbers, (args, kwargs))
    if device is not None and goal == META:
        plain = plain | {"device": CPU}
    out = function(*plain_args, **plain)
    if goal == META:
        out = tree_map(lambda x: Elsewhere(x) if isinstance(x, Tensor) else x, out)
    if not there:
        return out
    if function in _MOVES and not isinstance(args[0], Elsewhere):
        return args[0]
    return out if goal == CPU else return_and_correct_aliasing(function, args, kwargs, out)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class _FromPython(TorchFunctionMode):
    """Tensors made of Python's numbers do not come by the mode above."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        return function(*args, **kwargs)


@contextlib.contextmanager
def second_device():
    """While this is active, `meta` is a device with numbers."""
    with _Mode(), _FromPython():
        yield


def send(module: nn.Module) -> None:
    """Move the weights and buffers of a module, in place."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None and not isinstance(weight, Elsewhere):
                part._parameters[name] = nn.Parameter(Elsewhere(weight.data), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None and not isinstance(buffer, Elsewhere):
                part._buffers[name] = Elsewhere(buffer)
