"""Numbers, arrays and tensors as JSON, and back: all that travels between a student's process and a grader's.

Nothing else passes, on purpose: whatever needs pickle could run code on the other side. This file is also
read by the student's process, which has no access to the rest of the library: it imports nothing of it.
"""

import base64
from typing import Any

import numpy as np

__all__ = ["pack", "unpack", "NotPlain"]


class NotPlain(TypeError):
    """A value is not made of numbers, strings, arrays, tensors, tuples, lists and dicts."""


def pack(value: Any) -> Any:
    """Return a value as JSON can hold it.

    Raises:
        NotPlain: if it is of any other kind, subclasses of the plain ones included.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return {"float": value.hex()}
    if kind is complex:
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if kind is np.ndarray or isinstance(value, np.generic):
        return {"scalar" if kind is not np.ndarray else "array": _pack_array(np.asarray(value))}
    if kind in (tuple, list):
        return {kind.__name__: [pack(v) for v in value]}
    if kind is dict:
        return {"dict": [[pack(k), pack(v)] for k, v in value.items()]}
    if kind.__module__.split(".")[0] == "torch":
        import torch

        if kind in (torch.Tensor, torch.nn.Parameter):
            return {"tensor": _pack_array(value.detach().cpu().contiguous().resolve_conj().numpy())}
    raise NotPlain(f"an object of the class {kind.__name__}")


def unpack(packed: Any) -> Any:
    """Return the value that :func:`pack` made JSON of.

    Raises:
        ValueError: if it is nothing that ``pack`` would make.
    """
    if not isinstance(packed, dict):
        return packed
    try:
        ((kind, inner),) = packed.items()
        if kind == "float":
            return float.fromhex(inner)
        if kind == "complex":
            return complex(*map(float.fromhex, inner))
        if kind == "array":
            return _unpack_array(inner)
        if kind == "scalar":
            return _unpack_array(inner)[()]
        if kind == "tensor":
            import torch

            return torch.from_numpy(_unpack_array(inner))
        if kind in ("tuple", "list"):
            return (tuple if kind == "tuple" else list)(unpack(v) for v in inner)
        if kind == "dict":
            return {unpack(k): unpack(v) for k, v in inner}
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"not a packed value: {error}") from None
    raise ValueError(f"not a packed value: {kind!r}")


def _pack_array(array: np.ndarray) -> list[Any]:
    if array.dtype.kind not in "biufc":
        raise NotPlain(f"an array of the type {array.dtype}")
    return [array.dtype.str, list(array.shape), base64.b64encode(np.ascontiguousarray(array)).decode()]


def _unpack_array(inner: list[Any]) -> np.ndarray:
    dtype, shape, data = inner
    if np.dtype(dtype).kind not in "biufc":
        raise ValueError(f"not numbers: {dtype}")
    return np.frombuffer(bytearray(base64.b64decode(data)), np.dtype(dtype)).reshape(shape)
