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
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from reprobook.errors import UserError

__all__ = [
    "Parameter",
    "ParameterError",
    "read_parameters",
    "parameters_cell",
    "check_parameters",
    "parse_value",
]

_LINE = re.compile(r"^.*?#\s*(?P<help>.*?)\s*(?:\[(?P<allowed>[^\[\]]+)\])?\s*$")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(r"(\S+) \.\.(?: (\S+))?")
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
        if not self.type.startswith("list["):
            return self._check_one(value, self.type)
        kind = self.type[5:-1]
        if not isinstance(value, list | tuple) or not value:
            raise self._wrong(value, f"has the wrong type: a list with at least one {kind} is needed")
        return [self._check_one(v, kind) for v in value]

    def _check_one(self, value: Any, kind: str) -> Any:
        if not _is_of_type(value, kind):
            raise self._wrong(value, f"has the wrong type: {kind} is needed")
        if kind == "float" and not -sys.float_info.max <= value <= sys.float_info.max:
            raise self._wrong(value, "is not a finite number")
        if self.allowed and not _is_allowed(value, self.allowed):
            allowed = (
                "auto, cpu, cuda, cuda:N or mps"
                if self.allowed == "device"
                else self.allowed.replace(" |", ",")
            )
            raise self._wrong(value, f"is not allowed; allowed: {allowed}")
        return _TYPES[kind](value)

    def _wrong(self, value: Any, why: str) -> ParameterError:
        return ParameterError(f"{self.name} = {value!r} {why} ({self.help})")


def _is_of_type(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "bool"
    return isinstance(value, int | float if kind == "float" else _TYPES[kind])


def _is_allowed(value: Any, allowed: str) -> bool:
    if allowed == "device":
        return _DEVICE.fullmatch(value) is not None
    if limits := _RANGE.fullmatch(allowed):
        return float(limits[1]) <= value <= float(limits[2] or "inf")
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
        ParameterError: if a line is not a typed literal with a comment, a name stands twice, or a default
            is not allowed by its own comment.
    """
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise ParameterError(f"parameters cell: line {error.lineno} is not Python ({error.msg})") from None
    found: dict[str, Parameter] = {}
    for node in body:
        parameter = _read_line(node, source.splitlines()[node.lineno - 1])
        if parameter.name in found:
            raise ParameterError(f"parameters cell: {parameter.name} stands twice")
        found[parameter.name] = replace(parameter, default=parameter.check(parameter.default))
    return found


def _read_line(node: ast.stmt, line: str) -> Parameter:
    is_typed = (
        isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
    )
    if not is_typed or node.end_lineno != node.lineno:
        raise ParameterError(
            f"parameters cell: '{line.strip()}' is not of the form 'name: type = literal  # meaning'"
        )
    name, kind = node.target.id, ast.unparse(node.annotation)
    one = kind.removeprefix("list[").removesuffix("]")
    if one not in _TYPES:
        raise ParameterError(
            f"parameters cell: {name} has the type {kind}; allowed are int, float, str, bool, lists of these"
        )
    comment = _LINE.match(line.encode()[node.value.end_col_offset :].decode())  # the offset counts bytes
    if not comment or not comment["help"]:
        raise ParameterError(f"parameters cell: {name} has no comment that says what it means")
    if comment["allowed"] and not _is_limits(comment["allowed"], one):
        raise ParameterError(
            f"parameters cell: [{comment['allowed']}] does not say what {one} values {name} may have; "
            "write [1 .. 10], [0 ..], [a | b] or [device]"
        )
    try:
        default = ast.literal_eval(node.value)
    except (ValueError, TypeError):
        raise ParameterError(f"parameters cell: the value of {name} is not a literal") from None
    return Parameter(name, kind, default, comment["help"], comment["allowed"])


def _is_limits(allowed: str, kind: str) -> bool:
    if allowed == "device":
        return kind == "str"
    if limits := _RANGE.fullmatch(allowed):
        return kind in ("int", "float") and all(re.fullmatch(_NUMBER, end) for end in limits.groups() if end)
    return "|" in allowed and ".." not in allowed


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


class _Loader(yaml.SafeLoader):
    """YAML that reads ``1e-3`` as a number, as Python does; YAML 1.1 wants ``1.0e-3``."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"{_NUMBER}$"), list("-+.0123456789"))


def parse_value(text: str) -> Any:
    """Read a value from the command line as YAML: ``3``, ``0.1``, ``1e-3``, ``true``, ``[4, 8]``, ``cpu``."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text
