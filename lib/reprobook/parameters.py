"""The parameters cell of a chapter: read, explained and checked before anything is computed.

A parameters cell holds typed literals, one a line, each with a comment that says what it means and,
in square brackets at its end, what is allowed::

    num_seeds: int = 100  # random problems per measurement, one per seed [1 .. 10000]
    loss: str = "logistic"  # loss of the output [logistic | exponential | linear]
    dims: list[int] = [4, 8, 16]  # dimensions on the horizontal axis [1 .. 512]
    device: str = "cpu"  # where to compute [device]

That comment is the only place where the limits stand: ``papermill --help-notebook`` prints it, the
``reprobook`` command checks against it before it starts a kernel, and the chapter's first cell checks
again, so plain papermill and a hand-edited notebook are covered too.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from reprobook.errors import UserError

__all__ = ["Parameter", "ParameterError", "read_parameters", "parameters_cell", "check_parameters", "parse_value"]

_LINE = re.compile(r"^.*?#\s*(?P<help>.*?)\s*(?:\[(?P<allowed>[^\[\]]+)\])?\s*$")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_TYPES = {"int": int, "float": float, "str": str, "bool": bool}


class ParameterError(UserError):
    """A parameter that the chapter does not have, or a value outside what it allows."""


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell.

    Attributes:
        name: the variable.
        type: ``int``, ``float``, ``str``, ``bool``, or ``list[...]`` of one of these.
        default: the value in the notebook, which is the laptop tier's.
        help: what the comment says.
        allowed: what stands in the brackets: ``low .. high``, ``low ..``, ``a | b | c`` or ``device``.
    """

    name: str
    type: str
    default: Any
    help: str
    allowed: str | None

    def check(self, value: Any) -> Any:
        """Return the value in the parameter's type (an integer serves as a float).

        Raises:
            ParameterError: if the type or the range is wrong; the message is one line.
        """
        if self.type.startswith("list["):
            if not isinstance(value, list | tuple) or not value:
                raise ParameterError(f"{self.name} = {value!r} has the wrong type: a list with at least one "
                                     f"{self.type[5:-1]} is needed ({self.help})")
            return [self._check_one(v, self.type[5:-1]) for v in value]
        return self._check_one(value, self.type)

    def _check_one(self, value: Any, kind: str) -> Any:
        wanted = _TYPES[kind]
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise ParameterError(f"{self.name} = {value!r} has the wrong type: {kind} is needed ({self.help})")
        if kind == "float" and not math.isfinite(value):
            raise ParameterError(f"{self.name} = {value!r} is not a finite number ({self.help})")
        if self.allowed and not _is_allowed(value, self.allowed):
            allowed = "auto, cpu, cuda, cuda:N or mps" if self.allowed == "device" else self.allowed.replace(" |", ",")
            raise ParameterError(f"{self.name} = {value!r} is not allowed; allowed: {allowed} ({self.help})")
        return value


def _is_allowed(value: Any, allowed: str) -> bool:
    if allowed == "device":
        return _DEVICE.fullmatch(value) is not None
    if ".." in allowed:
        low, high = (part.strip() for part in allowed.split(".."))
        return float(low) <= value and (not high or value <= float(high))
    return str(value) in [option.strip() for option in allowed.split("|")]


def parameters_cell(notebook: Mapping) -> str:
    """Return the source of the cell tagged ``parameters``.

    Raises:
        ParameterError: if the notebook has none.
    """
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            return "".join(cell["source"])
    raise ParameterError("the notebook has no cell tagged 'parameters'")


def read_parameters(source: str) -> dict[str, Parameter]:
    """Read the source of a parameters cell.

    Raises:
        ParameterError: if a line is not a typed literal with a comment, or a default is not allowed by
            its own comment.
    """
    found: dict[str, Parameter] = {}
    lines = source.splitlines()
    for node in ast.parse(source).body:
        line = lines[node.lineno - 1]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            raise ParameterError(f"parameters cell: '{line.strip()}' is not of the form 'name: type = literal  # meaning'")
        name, kind = node.target.id, ast.unparse(node.annotation)
        if kind.removeprefix("list[").removesuffix("]") not in _TYPES:
            raise ParameterError(f"parameters cell: {name} has the type {kind}; allowed are int, float, str, bool "
                                 "and lists of these")
        comment = _LINE.match(line[node.value.end_col_offset :])
        if not comment or not comment["help"]:
            raise ParameterError(f"parameters cell: {name} has no comment that says what it means")
        try:
            default = ast.literal_eval(node.value)
        except ValueError:
            raise ParameterError(f"parameters cell: the value of {name} is not a literal") from None
        parameter = Parameter(name, kind, default, comment["help"], comment["allowed"])
        parameter.check(default)
        found[name] = parameter
    return found


def check_parameters(declared: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check given values against the declared parameters and return them in their declared types.

    Raises:
        ParameterError: for a name that is not declared (with the nearest one that is) or a wrong value.
    """
    for name in given:
        if name not in declared:
            raise ParameterError(_unknown(name, declared))
    return {name: declared[name].check(value) for name, value in given.items()}


def _unknown(name: str, declared: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(declared), n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown parameter '{name}'{hint} (this chapter has: {', '.join(declared)})"


def parse_value(text: str) -> Any:
    """Read a value from the command line as YAML: ``3``, ``0.1``, ``1e-3``, ``true``, ``[4, 8]``, ``cpu``."""
    try:
        return float(text) if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", text) else yaml.safe_load(text)
    except yaml.YAMLError:
        return text
