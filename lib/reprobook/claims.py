"""Claims of a paper as data, and the verdicts computed from what was measured.

A chapter's ``claims.yml`` says what the paper asserts and, before any run, what would count as
reproducing it. A run hands over values, one a trial; from these follow an estimate with its interval
(:mod:`reprobook.stats`) and a verdict. Nobody types a verdict.

==================  =========================================================================
verdict             when
==================  =========================================================================
reproduced          every part's whole interval satisfies the criterion
partly              some parts are reproduced, others are not
not reproduced      no part is reproduced, and at least one part's whole interval fails
inconclusive        none of the above: an interval straddles the bound
not attempted       nothing was measured in this run, or the claim cannot be tested here
==================  =========================================================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from html import escape
from pathlib import Path

import yaml

from reprobook.errors import UserError
from reprobook.stats import STATISTICS, Estimate, estimate

__all__ = [
    "Verdict",
    "Criterion",
    "Claim",
    "Paper",
    "ClaimSheet",
    "Result",
    "ClaimsFileError",
    "load_claims",
    "judge",
    "count_verdicts",
    "results_to_data",
    "results_from_data",
    "claims_html",
    "claims_text",
    "TIERS",
]

#: The tiers that a claim can name; a paper with several experiments has a tier ``paper-NAME`` for each.
TIERS = ("smoke", "laptop", "paper", "paper-NAME")
_TIER = re.compile(r"smoke|laptop|paper(-[a-z0-9_]+)*")


class ClaimsFileError(UserError):
    """A claims file that does not follow the schema; the message names the file, the claim and the key."""


class Verdict(StrEnum):
    """What a measurement says about a claim; ``sign`` is a mark that reads without colour."""

    REPRODUCED = "reproduced"
    PARTLY = "partly"
    NOT_REPRODUCED = "not reproduced"
    INCONCLUSIVE = "inconclusive"
    NOT_ATTEMPTED = "not attempted"

    @property
    def sign(self) -> str:
        return {"reproduced": "✓", "partly": "◐", "not reproduced": "✗", "inconclusive": "?"}.get(
            self.value, "–"
        )

    @property
    def css(self) -> str:
        return "rb-" + self.value.replace(" ", "-")


# --------------------------------------------------------------------------- criteria

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_INEQUALITY = re.compile(rf"^(\w+) (>=|<=|>|<) ({_NUMBER})$")
_INTERVAL = re.compile(rf"^(\w+) in \[({_NUMBER}), ({_NUMBER})\]$")


@dataclass(frozen=True)
class Criterion:
    """A statistic and the range it must fall into, written as a reader would: ``mean >= 0.99``.

    The grammar has three forms: ``STATISTIC >= NUMBER`` (also ``<=``, ``>``, ``<``),
    ``STATISTIC in [LOW, HIGH]``, and ``every trial``. Statistics are those of :mod:`reprobook.stats`.
    """

    text: str
    statistic: str
    low: float = -math.inf
    high: float = math.inf
    strict: bool = False

    @classmethod
    def parse(cls, text: str) -> Criterion:
        """Read a criterion.

        Raises:
            ValueError: if the text does not follow the grammar, names an unknown statistic, or its
                interval is empty.
        """
        if text == "every trial":
            return cls(text, "every", low=1.0)
        if m := _INEQUALITY.match(text):
            statistic, sign, bound = m[1], m[2], float(m[3])
            side = {"low": bound} if sign[0] == ">" else {"high": bound}
            found = cls(text, statistic, strict=len(sign) == 1, **side)
        elif m := _INTERVAL.match(text):
            found = cls(text, m[1], float(m[2]), float(m[3]))
        else:
            raise ValueError(
                f"'{text}' is not a criterion: write 'mean >= 0.9', 'fraction in [0.4, 0.6]' or 'every trial'"
            )
        if found.statistic not in STATISTICS or found.statistic == "every":
            allowed = ", ".join(s for s in STATISTICS if s != "every")
            raise ValueError(f"unknown statistic '{found.statistic}' in '{text}': allowed are {allowed}")
        if found.low > found.high:
            raise ValueError(f"the interval of '{text}' is empty")
        return found

    def _allows(self, x: float) -> bool:
        return self.low < x < self.high if self.strict else self.low <= x <= self.high

    def judge(self, estimate: Estimate) -> Verdict:
        """Compare an interval with the allowed range: inside, outside, or straddling its edge."""
        if self._allows(estimate.low) and self._allows(estimate.high):
            return Verdict.REPRODUCED
        beyond = estimate.high < self.low or estimate.low > self.high
        touching = self.strict and (estimate.high <= self.low or estimate.low >= self.high)
        return Verdict.NOT_REPRODUCED if beyond or touching else Verdict.INCONCLUSIVE


# --------------------------------------------------------------------------- the file


@dataclass(frozen=True)
class Paper:
    """What the chapter's paper is: read from the head of ``claims.yml``."""

    title: str
    authors: str
    year: int
    arxiv: str
    cite: str


@dataclass(frozen=True)
class Claim:
    """One assertion of a paper; either ``criterion``, ``reason`` and ``tiers``, or ``untested``, is set.

    Attributes:
        id: lower-case words joined by hyphens, unique in the file.
        statement: the assertion in our words.
        where: section, theorem, equation, figure or table of the paper, or ``beyond the paper``.
        value: the paper's own number, if it has one.
        criterion: what would count as reproducing it.
        reason: why this tolerance.
        tiers: the tiers at which it is tested, each by its exact name.
        untested: why it cannot be tested here.
        notebook: the notebook that tests it; the chapter's only one by default.
    """

    id: str
    statement: str
    where: str
    value: str | None = None
    criterion: Criterion | None = None
    reason: str | None = None
    tiers: tuple[str, ...] = ()
    untested: str | None = None
    notebook: str | None = None


@dataclass(frozen=True)
class ClaimSheet:
    """A chapter's paper and its claims, in the order of the file."""

    paper: Paper
    claims: dict[str, Claim]

    def of_notebook(self, notebook: str) -> dict[str, Claim]:
        """Return the claims that a notebook answers for."""
        return {i: c for i, c in self.claims.items() if c.notebook in (None, notebook)}


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is a fault, where plain YAML keeps the last one."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key '{key.value}' stands twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def load_claims(path: Path | str) -> ClaimSheet:
    """Read and check a claims file.

    Raises:
        ClaimsFileError: for broken YAML, a missing, repeated or unknown key, a duplicate or malformed id, an
            unknown tier, or a criterion outside the grammar. The message is one line that names the
            file and the claim.
    """
    path = Path(path)
    name = f"{path.parent.name}/{path.name}"
    data = _read_yaml(path, name)
    if not isinstance(data, dict) or set(data) != {"paper", "claims"}:
        raise ClaimsFileError(f"{name}: needs exactly the keys 'paper' and 'claims'")

    paper = _read(Paper, data["paper"], f"{name}: paper")
    if not isinstance(data["claims"], list) or not data["claims"]:
        raise ClaimsFileError(f"{name}: 'claims' must be a list with at least one claim")
    claims: dict[str, Claim] = {}
    for number, entry in enumerate(data["claims"], 1):
        label = entry.get("id", f"claim {number}") if isinstance(entry, dict) else f"claim {number}"
        claim = _read_claim(entry, f"{name}: {' '.join(str(label).split())}")
        if claim.id in claims:
            raise ClaimsFileError(f"{name}: {claim.id}: this id stands twice")
        claims[claim.id] = claim
    return ClaimSheet(paper, claims)


def _read_yaml(path: Path, name: str):
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise ClaimsFileError(f"{name}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ClaimsFileError(f"{name}: not text in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise ClaimsFileError(f"{name}{line}: not valid YAML ({problem})") from None


def _read(kind, entry, label):
    """Build a dataclass from a mapping whose keys must be the fields; defaults may be left out."""
    if not isinstance(entry, dict):
        raise ClaimsFileError(f"{label}: must be a mapping of keys to values")
    fields = kind.__dataclass_fields__
    required = {n for n, f in fields.items() if f.default is f.default_factory}  # both MISSING
    if missing := sorted(required - set(entry)):
        raise ClaimsFileError(f"{label}: key '{missing[0]}' is missing")
    if unknown := sorted(set(entry) - set(fields)):
        raise ClaimsFileError(f"{label}: unknown key '{unknown[0]}'; allowed are {', '.join(fields)}")
    for key, value in entry.items():
        allowed = {"tiers": list, "year": int, "value": (str, int, float)}.get(key, str)
        if not isinstance(value, allowed) or (isinstance(value, str) and not value.strip()):
            raise ClaimsFileError(f"{label}: '{key}' has the wrong type or is empty")
    return kind(**{k: " ".join(v.split()) if isinstance(v, str) else v for k, v in entry.items()})


def _read_claim(entry, label) -> Claim:
    claim = _read(Claim, entry, label)
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", claim.id):
        raise ClaimsFileError(f"{label}: an id is lower-case words joined by hyphens")
    tested = {k for k in ("criterion", "reason", "tiers") if getattr(claim, k)}
    if claim.untested and tested:
        raise ClaimsFileError(f"{label}: has both 'untested' and '{sorted(tested)[0]}'")
    if not claim.untested and len(tested) < 3:
        missing = sorted({"criterion", "reason", "tiers"} - tested)[0]
        raise ClaimsFileError(f"{label}: key '{missing}' is missing (or say why it is 'untested')")
    for tier in claim.tiers:
        if not isinstance(tier, str) or not _TIER.fullmatch(tier):
            raise ClaimsFileError(f"{label}: unknown tier '{tier}'; allowed are {', '.join(TIERS)}")
    try:
        criterion = Criterion.parse(claim.criterion) if claim.criterion else None
    except ValueError as error:
        raise ClaimsFileError(f"{label}: {error}") from None
    value = None if claim.value is None else str(claim.value)
    return Claim(**{**vars(claim), "criterion": criterion, "value": value, "tiers": tuple(claim.tiers)})


# --------------------------------------------------------------------------- measured values


@dataclass(frozen=True)
class Result:
    """What one run says about one claim: an estimate a part, and how many trials were left out."""

    claim: Claim
    parts: dict[str, Estimate] = field(default_factory=dict)
    excluded: int = 0
    why_excluded: str = ""

    @property
    def part_verdicts(self) -> dict[str, Verdict]:
        """The verdict of each part."""
        return {name: self.claim.criterion.judge(e) for name, e in self.parts.items()}

    @property
    def verdict(self) -> Verdict:
        """The verdict over all parts (see the table at the top of this module)."""
        found = list(self.part_verdicts.values())
        if not found:
            return Verdict.NOT_ATTEMPTED
        if all(v is Verdict.REPRODUCED for v in found):
            return Verdict.REPRODUCED
        if Verdict.NOT_REPRODUCED in found:
            return Verdict.PARTLY if Verdict.REPRODUCED in found else Verdict.NOT_REPRODUCED
        return Verdict.INCONCLUSIVE


def judge(
    claim: Claim,
    values: Sequence[float] | Mapping[str, Sequence[float]],
    *,
    excluded: int = 0,
    why_excluded: str = "",
) -> Result:
    """Turn values into a result.

    Args:
        claim: a claim with a criterion.
        values: one number or truth value a trial; or several parts by name, each judged by the same
            criterion (a claim "for every d" has one part a d).
        excluded: how many trials could not be measured and are not among the values.
        why_excluded: the reason, shown beside the number; needed when ``excluded`` is not 0. With a
            reason, parts may be empty (all their trials were left out, or the case did not come up); a
            claim with no values at all counts as not attempted.

    Raises:
        ValueError: if the claim is untested, a part holds a value that is not finite, or there are no
            values or excluded trials without a reason.
    """
    if claim.criterion is None:
        raise ValueError(f"claim '{claim.id}' is marked untested, so it takes no values")
    if excluded < 0 or (excluded and not why_excluded):
        raise ValueError(f"claim '{claim.id}': say why {excluded} trials were left out")
    parts = values if isinstance(values, Mapping) else {"": values}
    if not why_excluded and not (parts and all(len(v) for v in parts.values())):
        raise ValueError(f"claim '{claim.id}': no values were handed over, and no reason")
    try:
        measured = {str(n): estimate(claim.criterion.statistic, v) for n, v in parts.items() if len(v)}
    except ValueError as error:
        raise ValueError(f"claim '{claim.id}': {error}") from None
    return Result(claim, measured, int(excluded), why_excluded)


def count_verdicts(results: Iterable[Result]) -> dict[Verdict, int]:
    """Return how many results have each verdict, every verdict listed."""
    found = [r.verdict for r in results]
    return {v: found.count(v) for v in Verdict}


# --------------------------------------------------------------------------- to and from JSON


def results_to_data(results: Iterable[Result]) -> list[dict]:
    """Return results as plain JSON data: claim, verdict, parts with their intervals."""
    return [
        {
            "id": r.claim.id,
            "verdict": r.verdict.value,
            "excluded": r.excluded,
            "why_excluded": r.why_excluded,
            "parts": [
                {
                    "name": n,
                    **{k: _finite(v) for k, v in vars(e).items()},
                    "verdict": r.part_verdicts[n].value,
                }
                for n, e in r.parts.items()
            ],
        }
        for r in results
    ]


def results_from_data(data: list[dict], sheet: ClaimSheet) -> list[Result]:
    """Rebuild results from :func:`results_to_data`, with the verdicts computed anew from the claims file."""
    results = []
    for entry in data:
        parts = {
            p["name"]: Estimate(
                p["statistic"], p["value"], _limit(p["low"], -1), _limit(p["high"], 1), p["n"]
            )
            for p in entry["parts"]
        }
        results.append(Result(sheet.claims[entry["id"]], parts, entry["excluded"], entry["why_excluded"]))
    return results


def _finite(v):
    """JSON has no infinity: an interval without an end is null."""
    return None if isinstance(v, float) and math.isinf(v) else v


def _limit(v, sign):
    return sign * math.inf if v is None else v


# --------------------------------------------------------------------------- tables


def claims_text(results: Iterable[Result]) -> str:
    """Return the verdicts as plain text, a line a claim: stable across processors, so nbval compares it."""
    results = list(results)
    width = max(len(r.claim.id) for r in results)
    lines = [f"{r.verdict.sign} {r.claim.id:<{width}}  {r.verdict.value}" for r in results]
    return "\n".join(lines)


def claims_html(results: Iterable[Result], anchor: str = "claim-") -> str:
    """Return the claims table: statement, the paper's value, ours with its interval, criterion, verdict.

    Args:
        results: one a row.
        anchor: what a row's ``id`` has before the claim's; another one for each further table of a page.
    """
    rows = "\n".join(_row(r, anchor) for r in results)
    head = "".join(
        f"<th scope='col'>{h}</th>" for h in ("Claim", "Paper", "Measured here", "Criterion", "Verdict")
    )
    return (
        "<div class='rb-claims-box' tabindex='0' role='region' aria-label='Claims and verdicts'>"
        f"<table class='rb-claims'><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>"
    )


def _row(r: Result, anchor: str) -> str:
    c = r.claim
    left_out = f"<p class='rb-note'>{r.excluded} left out: {escape(r.why_excluded)}</p>" if r.excluded else ""
    if r.parts:
        many = len(r.parts) > 1
        measured = (
            "<ul class='rb-parts'>"
            + "".join(
                f"<li>{_part_name(name)}<span class='rb-number'>{escape(str(e))}</span> "
                f"<span class='rb-n'>n={e.n}</span>{f' {r.part_verdicts[name].sign}' if many else ''}</li>"
                for name, e in r.parts.items()
            )
            + f"</ul>{left_out}"
        )
    else:
        why = c.untested or r.why_excluded or "not measured in this run"
        measured = left_out or f"<p class='rb-note'>{escape(why)}</p>"
    criterion = f"<span class='rb-criterion'>{escape(c.criterion.text)}</span>" if c.criterion else "–"
    reason = f"<p class='rb-note'>{escape(c.reason)}</p>" if c.reason else ""
    cells = (
        (
            "Claim",
            f"<p>{escape(c.statement)}</p><p class='rb-note'><code>{c.id}</code> · {escape(c.where)}</p>",
        ),
        ("Paper", escape(c.value) if c.value else "–"),
        ("Measured here", measured),
        ("Criterion", criterion + reason),
        ("Verdict", f"<span class='rb-verdict {r.verdict.css}'>{r.verdict.sign} {r.verdict.value}</span>"),
    )
    tds = "".join(f"<td data-label='{label}'>{content}</td>" for label, content in cells)
    return f"<tr id='{anchor}{c.id}'>{tds}</tr>"


def _part_name(name: str) -> str:
    return f"<span class='rb-part'>{escape(name)}</span> " if name else ""
