"""The schema of claims files, the verdict logic, and the tables made from results."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobook.claims import (
    Claim,
    ClaimsFileError,
    Criterion,
    Result,
    Verdict,
    claims_html,
    claims_text,
    count_verdicts,
    judge,
    load_claims,
    results_from_data,
    results_to_data,
)
from reprobook.stats import Estimate

R, P, N, I, NA = (
    Verdict.REPRODUCED,
    Verdict.PARTLY,
    Verdict.NOT_REPRODUCED,
    Verdict.INCONCLUSIVE,
    Verdict.NOT_ATTEMPTED,
)

PAPER = "paper: {title: T, authors: A, year: 2024, arxiv: '2401.00001', cite: key}\n"
GOOD = """\
  - id: small-error
    statement: The error is small.
    where: Theorem 1
    value: 0.1
    criterion: mean <= 0.2
    reason: twice the paper's value
    tiers: [smoke, laptop]
"""
UNTESTED = """\
  - {id: too-dear, statement: It scales., where: Table 2, untested: needs a thousand GPUs}
"""


def sheet(folder: Path, text: str):
    """Write a claims file into a chapter's folder and load it."""
    path = folder / "demo" / "claims.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return load_claims(path)


def claim(criterion: str = "mean >= 0.5", **other) -> Claim:
    return Claim("the-claim", "It holds.", "Sec. 1", criterion=Criterion.parse(criterion), **other)


def point(x: float) -> Estimate:
    return Estimate("largest", x, x, x, 3)


def between(low: float, high: float) -> Estimate:
    return Estimate("mean", (low + high) / 2, low, high, 5)


# --------------------------------------------------------------------------- the file


def test_a_good_file_is_read_in_its_order(tmp_path):
    found = sheet(tmp_path, PAPER + "claims:\n" + GOOD + UNTESTED)
    assert list(found.claims) == ["small-error", "too-dear"]
    assert found.paper.year == 2024
    small = found.claims["small-error"]
    assert (small.value, small.tiers, small.criterion.high) == ("0.1", ("smoke", "laptop"), 0.2)
    assert found.claims["too-dear"].criterion is None


def test_a_claim_names_each_of_the_papers_tiers_by_its_full_name(tmp_path):
    text = GOOD.replace("[smoke, laptop]", "[paper, paper-msda, paper-mnist_m-long]")
    found = sheet(tmp_path, PAPER + "claims:\n" + text).claims["small-error"]
    assert found.tiers == ("paper", "paper-msda", "paper-mnist_m-long")


def test_line_breaks_in_a_statement_are_spaces(tmp_path):
    text = GOOD.replace("The error is small.", "|\n      The error\n      is   small.\n")
    assert (
        sheet(tmp_path, PAPER + "claims:\n" + text).claims["small-error"].statement == "The error is small."
    )


def test_a_notebook_answers_for_its_own_claims_and_for_those_without_a_notebook(tmp_path):
    other = GOOD.replace("small-error", "other").replace("where:", "notebook: second\n    where:")
    found = sheet(tmp_path, PAPER + "claims:\n" + GOOD + other)
    assert list(found.of_notebook("first")) == ["small-error"]
    assert list(found.of_notebook("second")) == ["small-error", "other"]


def without(key: str) -> str:
    return "".join(line for line in GOOD.splitlines(keepends=True) if f"{key}:" not in line)


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        *[(without(k), f"small-error: key '{k}' is missing") for k in ("statement", "where")],
        *[
            (without(k), f"small-error: key '{k}' is missing (or say why it is 'untested')")
            for k in ("criterion", "reason", "tiers")
        ],
        (GOOD + GOOD, "small-error: this id stands twice"),
        (GOOD + "  - statement: no id\n", "claim 2: key 'id' is missing"),
        (
            GOOD.replace("laptop]", "desktop]"),
            "small-error: unknown tier 'desktop'; allowed are smoke, laptop, paper, paper-NAME",
        ),
        *[
            (GOOD.replace("laptop]", f"{tier}]"), f"small-error: unknown tier '{tier}'; allowed are smoke")
            for tier in ("paper-", "papers", "laptop-big", "paper-Big", "paper-a/b", "3")
        ],
        (GOOD + "    untested: too hard\n", "small-error: has both 'untested' and 'criterion'"),
        (GOOD.replace("mean <= 0.2", "about 0.2"), "small-error: 'about 0.2' is not a criterion: write "),
        (GOOD.replace("mean <= 0.2", "median <= 0.2"), "small-error: unknown statistic 'median'"),
        (
            GOOD.replace("mean <= 0.2", "mean in [0.3, 0.2]"),
            "small-error: the interval of 'mean in [0.3, 0.2]' is empty",
        ),
        (
            GOOD.replace("small-error", "Small Error"),
            "Small Error: an id is lower-case words joined by hyphens",
        ),
        (GOOD + "    colour: red\n", "small-error: unknown key 'colour'; allowed are id, statement, where"),
        (GOOD.replace("where: Theorem 1", "where: 1"), "small-error: 'where' has the wrong type or is empty"),
        (
            GOOD.replace("where: Theorem 1", "where: ' '"),
            "small-error: 'where' has the wrong type or is empty",
        ),
        (GOOD.replace("[smoke, laptop]", "smoke"), "small-error: 'tiers' has the wrong type or is empty"),
        (GOOD + "  - just text\n", "claim 2: must be a mapping of keys to values"),
        (GOOD.replace("id: small-error", 'id: "two\\nlines"'), "two lines: an id is lower-case words"),
    ],
)
def test_a_fault_in_a_claim_is_one_line_with_file_claim_and_key(tmp_path, claims, told):
    with pytest.raises(ClaimsFileError) as error:
        sheet(tmp_path, PAPER + "claims:\n" + claims)
    assert str(error.value).startswith("demo/claims.yml: " + told)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "demo/claims.yml: needs exactly the keys 'paper' and 'claims'"),
        ("just text", "demo/claims.yml: needs exactly the keys 'paper' and 'claims'"),
        (PAPER, "demo/claims.yml: needs exactly the keys 'paper' and 'claims'"),
        (PAPER + "claims: []\n", "demo/claims.yml: 'claims' must be a list with at least one claim"),
        (PAPER + "claims: 3\n", "demo/claims.yml: 'claims' must be a list with at least one claim"),
        (
            PAPER.replace("year: 2024, ", "") + "claims:\n" + GOOD,
            "demo/claims.yml: paper: key 'year' is missing",
        ),
        (
            PAPER.replace("2024", "soon") + "claims:\n" + GOOD,
            "demo/claims.yml: paper: 'year' has the wrong type",
        ),
        ("paper: {title: T\nclaims: []\n", "demo/claims.yml, line 2: not valid YAML ("),
        ("paper:\n\t- tab\n", "demo/claims.yml, line 2: not valid YAML ("),
        ("paper: \x07\n", "demo/claims.yml: not valid YAML ("),
        (PAPER + "claims:\n" + GOOD + "    where: Theorem 2\n", "demo/claims.yml, line 10: not valid YAML ("),
    ],
)
def test_a_fault_of_the_whole_file_is_one_line_with_the_file(tmp_path, text, told):
    with pytest.raises(ClaimsFileError) as error:
        sheet(tmp_path, text)
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_not_text_is_one_line(tmp_path):
    with pytest.raises(
        ClaimsFileError, match=r"^demo/claims\.yml: cannot be read \(No such file or directory\)$"
    ):
        load_claims(tmp_path / "demo" / "claims.yml")
    path = tmp_path / "claims.yml"
    path.write_bytes(b"paper: \xff\xfe\n")
    with pytest.raises(ClaimsFileError, match=r"claims\.yml: not text in UTF-8$"):
        load_claims(path)


# --------------------------------------------------------------------------- criteria


@pytest.mark.parametrize(
    ("text", "statistic", "low", "high", "strict"),
    [
        ("mean >= 0.99", "mean", 0.99, math.inf, False),
        ("largest < 1e-9", "largest", -math.inf, 1e-9, True),
        ("smallest > -2.5", "smallest", -2.5, math.inf, True),
        ("fraction in [0.4, 0.6]", "fraction", 0.4, 0.6, False),
        ("mean in [-1E+2, .5]", "mean", -100.0, 0.5, False),
        ("every trial", "every", 1.0, math.inf, False),
    ],
)
def test_the_grammar_of_criteria(text, statistic, low, high, strict):
    assert Criterion.parse(text) == Criterion(text, statistic, low, high, strict)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mean",
        "mean = 1",
        "mean >=1",
        "0.5 < mean",
        "mean >= big",
        "mean in (0, 1)",
        "every >= 1",
        "Mean >= 1",
    ],
)
def test_what_is_not_in_the_grammar_is_refused(text):
    with pytest.raises(ValueError):
        Criterion.parse(text)


@pytest.mark.parametrize(
    ("criterion", "low", "high", "verdict"),
    [
        ("mean >= 0.5", 0.5, 0.9, R),
        ("mean >= 0.5", 0.4, 0.9, I),
        ("mean >= 0.5", 0.4, 0.5, I),
        ("mean >= 0.5", 0.1, 0.4, N),
        ("mean > 0.5", 0.5, 0.9, I),
        ("mean > 0.5", 0.51, 0.9, R),
        ("mean > 0.5", 0.4, 0.5, N),
        ("mean < 0.5", 0.5, 0.6, N),
        ("mean < 0.5", 0.4, 0.49, R),
        ("mean < 0.5", 0.4, 0.5, I),
        ("mean <= 0.5", 0.4, 0.5, R),
        ("mean in [0.4, 0.6]", 0.4, 0.6, R),
        ("mean in [0.4, 0.6]", 0.39, 0.6, I),
        ("mean in [0.4, 0.6]", 0.1, 0.9, I),
        ("mean in [0.4, 0.6]", 0.61, 0.9, N),
        ("mean in [0.4, 0.6]", 0.1, 0.39, N),
        ("mean >= 0.5", -math.inf, math.inf, I),
    ],
)
def test_inside_is_reproduced_outside_is_not_and_straddling_is_inconclusive(criterion, low, high, verdict):
    assert Criterion.parse(criterion).judge(between(low, high)) is verdict


@pytest.mark.parametrize(
    ("criterion", "x", "verdict"),
    [("largest < 1", 1.0, N), ("largest <= 1", 1.0, R), ("largest > 1", 1.0, N)],
)
def test_a_point_on_a_strict_bound_fails(criterion, x, verdict):
    assert Criterion.parse(criterion).judge(point(x)) is verdict


reals = st.floats(-100, 100)
intervals = st.tuples(reals, reals).map(sorted)
ORDER = {N: 0, I: 1, R: 2}


@given(intervals, reals, reals, st.sampled_from([">=", ">"]))
def test_a_weaker_bound_never_gives_a_worse_verdict(interval, a, b, sign):
    weak, strong = (Criterion.parse(f"mean {sign} {x!r}").judge(between(*interval)) for x in sorted((a, b)))
    assert ORDER[weak] >= ORDER[strong]


@given(intervals, reals)
def test_strict_and_weak_bounds_differ_only_on_the_bound(interval, bound):
    weak, strict = (Criterion.parse(f"mean {s} {bound!r}").judge(between(*interval)) for s in ("<=", "<"))
    assert weak is strict or bound in interval


@given(intervals, reals)
def test_above_and_below_are_never_both_reproduced_unless_on_the_point(interval, bound):
    above, below = (Criterion.parse(f"mean {s} {bound!r}").judge(between(*interval)) for s in (">=", "<="))
    assert {above, below} != {R} or interval == [bound, bound]
    assert {above, below} != {N}


# --------------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ([], NA),
        ([R], R),
        ([N], N),
        ([I], I),
        ([R, R], R),
        ([R, N], P),
        ([R, I], I),
        ([N, I], N),
        ([R, N, I], P),
    ],
)
def test_the_verdict_over_parts(parts, verdict):
    interval = {R: between(0.6, 0.7), N: between(0.1, 0.2), I: between(0.4, 0.6)}
    result = Result(claim("mean >= 0.5"), {str(i): interval[v] for i, v in enumerate(parts)})
    assert list(result.part_verdicts.values()) == parts
    assert result.verdict is verdict


@given(st.lists(intervals, min_size=1, max_size=6), st.randoms())
def test_the_order_of_the_parts_does_not_matter(found, random):
    parts = {f"part {i}": between(*ends) for i, ends in enumerate(found)}
    shuffled = dict(random.sample(list(parts.items()), len(parts)))
    c = claim("mean in [-10, 10]")
    assert Result(c, parts).verdict is Result(c, shuffled).verdict


def test_values_become_estimates_by_the_criterions_statistic():
    result = judge(claim("fraction >= 0.5"), {"d=4": [True] * 20, 8: [True, False] * 10})
    assert {n: (e.statistic, e.value, e.n) for n, e in result.parts.items()} == {
        "d=4": ("fraction", 1.0, 20),
        "8": ("fraction", 0.5, 20),
    }
    assert result.verdict is I


def test_one_counterexample_refutes_a_claim_of_every_trial():
    assert judge(claim("every trial"), [True] * 99).verdict is R
    assert judge(claim("every trial"), [True] * 99 + [False]).verdict is N


@pytest.mark.parametrize(
    ("claim_", "values", "options", "told"),
    [
        (Claim("c", "s", "w", untested="dear"), [1.0], {}, "marked untested"),
        (claim(), [], {}, "no values"),
        (claim(), {}, {}, "no values"),
        (claim(), {"": []}, {"excluded": 3}, "say why 3 trials"),
        (claim(), {"a": [1.0], "b": []}, {}, "no values"),
        (claim(), [1.0, math.nan], {}, "not finite"),
        (claim(), [1.0], {"excluded": 2}, "say why 2 trials were left out"),
        (claim(), [1.0], {"excluded": -1, "why_excluded": "x"}, "left out"),
    ],
)
def test_unfit_values_are_refused_with_the_claims_name(claim_, values, options, told):
    with pytest.raises(ValueError, match=f"claim '{claim_.id}'.*{told}"):
        judge(claim_, values, **options)


def test_a_part_without_values_is_left_out_with_a_reason_and_alone_is_not_attempted():
    some = judge(claim(), {"a": [1.0, 1.0], "b": []}, excluded=2, why_excluded="no solution")
    assert (list(some.parts), some.verdict) == (["a"], R)
    none = judge(claim(), [], excluded=2, why_excluded="no solution")
    assert (none.parts, none.verdict) == ({}, NA)
    assert "2 left out: no solution" in claims_html([none])
    assert results_from_data(results_to_data([none]), _Sheet(none.claim)) == [none]


def test_counting_lists_every_verdict():
    good, bad = judge(claim(), [1.0, 1.0]), judge(claim(), [0.0, 0.0])
    assert count_verdicts([good, bad, good]) == {R: 2, P: 0, N: 1, I: 0, NA: 0}


# --------------------------------------------------------------------------- data and tables


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=4), st.integers(0, 3))
def test_results_survive_json_infinities_included(values, excluded):
    result = judge(
        claim("mean >= 0.5"), {"a": values, "b": [0.25]}, excluded=excluded, why_excluded="no solution"
    )
    text = json.dumps(results_to_data([result]), allow_nan=False)
    assert results_from_data(json.loads(text), _Sheet(result.claim)) == [result]


def test_verdicts_are_computed_anew_when_read_back():
    data = results_to_data([judge(claim("mean >= 0.5"), [0.7, 0.7])])
    (stricter,) = results_from_data(data, _Sheet(claim("mean >= 0.9")))
    assert data[0]["verdict"] == "reproduced"
    assert stricter.verdict is N


def _Sheet(*claims: Claim):
    from reprobook.claims import ClaimSheet, Paper

    return ClaimSheet(Paper("T", "A", 2024, "2401.00001", "key"), {c.id: c for c in claims})


def test_the_text_has_a_line_a_claim_with_sign_and_verdict():
    results = [judge(claim(), [1.0, 1.0]), Result(Claim("x", "s", "w", untested="dear"))]
    assert claims_text(results) == "✓ the-claim  reproduced\n– x          not attempted"


def test_every_verdict_has_its_own_sign_and_class():
    assert len({v.sign for v in Verdict}) == len({v.css for v in Verdict}) == len(Verdict) == 5


def test_what_authors_write_is_escaped_in_the_table():
    evil = "<script>alert('x')</script> & \"more\""
    c = Claim("the-claim", evil, evil, value=evil, criterion=Criterion.parse("mean < 1"), reason=evil)
    for html in (
        claims_html([judge(c, {evil: [0.5, 0.5], "b": [0.1]}, excluded=1, why_excluded=evil)]),
        claims_html([Result(Claim("the-claim", evil, evil, untested=evil))]),
    ):
        assert "<script>" not in html
        assert "&lt;script&gt;" in html
    assert "mean &lt; 1" in claims_html([Result(c)])


def test_the_table_shows_estimate_count_exclusions_and_verdict():
    html = claims_html(
        [judge(claim("every trial"), {"d=4": [True, False]}, excluded=3, why_excluded="infeasible")]
    )
    for shown in ("d=4", "1 of 2", "n=2", "3 left out: infeasible", "✗ not reproduced", "rb-not-reproduced"):
        assert shown in html


def test_a_table_has_a_cell_a_column_and_a_row_a_claim():
    from html.parser import HTMLParser

    class Tags(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.seen = [], []

        def handle_starttag(self, tag, attrs):
            self.open.append(tag)
            self.seen.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    tags = Tags()
    tags.feed(claims_html([judge(claim(), {"a": [1.0], "b": [0.1, 0.2]}), Result(claim())]))
    assert tags.open == []
    assert (tags.seen.count("tr"), tags.seen.count("th"), tags.seen.count("td")) == (3, 5, 10)
