"""The grammar of parameters cells, the checks of values, and values typed on a command line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobook.parameters import (
    Parameter,
    ParameterError,
    check_parameters,
    parameters_cell,
    parse_value,
    read_parameters,
)

CELL = """\
# a remark on a line of its own
seed: int = 0  # first seed [0 ..]
num_seeds: int = 100  # problems, one per seed [1 .. 10000]
learning_rate: float = 1e-2  # step size (Sec. 4.1) [0 .. 1.5]
name: str = "Veränderlichkeitsmaßgröße für Übungen # 1"  # a name, anything goes
loss: str = "logistic"  # loss of the output [logistic | linear]
dims: list[int] = [4, 8, 16]  # dimensions on the axis [1 .. 512]
plain: bool = False  # whether to leave the step as it is
device: str = "cpu"  # where to compute [device]
"""


def wrong(declared: dict[str, Parameter], **given) -> str:
    """Return the message with which a value is refused."""
    with pytest.raises(ParameterError) as error:
        check_parameters(declared, given)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def declared():
    return read_parameters(CELL)


def test_a_cell_is_read_name_by_name_with_help_and_limits(declared):
    assert {n: (p.type, p.default, p.help, p.allowed) for n, p in declared.items()} == {
        "seed": ("int", 0, "first seed", "0 .."),
        "num_seeds": ("int", 100, "problems, one per seed", "1 .. 10000"),
        "learning_rate": ("float", 0.01, "step size (Sec. 4.1)", "0 .. 1.5"),
        "name": ("str", "Veränderlichkeitsmaßgröße für Übungen # 1", "a name, anything goes", None),
        "loss": ("str", "logistic", "loss of the output", "logistic | linear"),
        "dims": ("list[int]", [4, 8, 16], "dimensions on the axis", "1 .. 512"),
        "plain": ("bool", False, "whether to leave the step as it is", None),
        "device": ("str", "cpu", "where to compute", "device"),
    }


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("seed = 0  # first", "'seed = 0  # first' is not of the form 'name: type = literal  # meaning'"),
        ("seed: int  # first", "is not of the form"),
        ("import os", "'import os' is not of the form"),
        ("a.b: int = 0  # first", "is not of the form"),
        ("dims: list[int] = [\n    1,\n]  # sizes", "'dims: list[int] = [' is not of the form"),
        ("seed: complex = 0  # first", "seed has the type complex; allowed are int, float, str, bool, lists"),
        ("seed: list = [0]  # first", "seed has the type list"),
        ("seed: list[list[int]] = [[0]]  # first", "seed has the type list[list[int]]"),
        ("seed: int = 0", "seed has no comment"),
        ("seed: int = 0  #", "seed has no comment"),
        ("seed: int = 0  # [0 ..]", "seed has no comment"),
        ("seed: int = 2 * 3  # first", "the value of seed is not a literal"),
        ("seed: int = len('a')  # first", "the value of seed is not a literal"),
        ("seed: int = 0  # first\nseed: int = 1  # second", "seed stands twice"),
        ("seed: int = = 0", "line 1 is not Python"),
        ("seed: int = 0  # first [1 .. many]", "[1 .. many] does not say what int values seed may have"),
        ("seed: int = 0  # first [.. 5]", "[.. 5] does not say"),
        ("seed: int = 0  # first [1..5]", "[1..5] does not say"),
        ("loss: str = 'a'  # loss [0 .. 1]", "[0 .. 1] does not say what str values loss may have"),
        ("size: float = 1.0  # how long [seconds]", "[seconds] does not say"),
        ("size: int = 1  # where [device]", "[device] does not say"),
    ],
)
def test_a_line_outside_the_grammar_is_refused_with_one_line(line, told):
    with pytest.raises(ParameterError) as error:
        read_parameters(line)
    assert str(error.value).startswith("parameters cell: ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("seed: int = -1  # first [0 ..]", "seed = -1 is not allowed; allowed: 0 .. (first)"),
        ("seed: int = 1.0  # first", "seed = 1.0 has the wrong type: int is needed (first)"),
        ("loss: str = 'c'  # loss [a | b]", "loss = 'c' is not allowed; allowed: a, b (loss)"),
    ],
)
def test_a_default_must_keep_its_own_limits(line, told):
    with pytest.raises(ParameterError) as error:
        read_parameters(line)
    assert str(error.value) == told


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("num_seeds", 0, "num_seeds = 0 is not allowed; allowed: 1 .. 10000 (problems, one per seed)"),
        ("num_seeds", 10001, "is not allowed"),
        ("num_seeds", 5.0, "num_seeds = 5.0 has the wrong type: int is needed (problems, one per seed)"),
        ("num_seeds", True, "num_seeds = True has the wrong type: int is needed"),
        ("num_seeds", "5", "num_seeds = '5' has the wrong type"),
        ("num_seeds", None, "num_seeds = None has the wrong type"),
        ("num_seeds", [5], "num_seeds = [5] has the wrong type: int is needed"),
        ("seed", -1, "seed = -1 is not allowed; allowed: 0 .."),
        ("learning_rate", -1e-9, "is not allowed"),
        ("learning_rate", 1.6, "is not allowed"),
        ("learning_rate", float("nan"), "learning_rate = nan is not a finite number"),
        ("learning_rate", float("inf"), "is not a finite number"),
        ("learning_rate", 10**400, "is not a finite number"),
        ("learning_rate", True, "learning_rate = True has the wrong type: float is needed"),
        ("learning_rate", "small", "learning_rate = 'small' has the wrong type: float is needed"),
        ("loss", "hinge", "loss = 'hinge' is not allowed; allowed: logistic, linear (loss of the output)"),
        ("loss", 1, "loss = 1 has the wrong type: str is needed"),
        ("dims", 4, "dims = 4 has the wrong type: a list with at least one int is needed"),
        ("dims", [], "dims = [] has the wrong type: a list with at least one int is needed"),
        ("dims", [4, 0], "dims = 0 is not allowed; allowed: 1 .. 512"),
        ("dims", [4, 0.5], "dims = 0.5 has the wrong type: int is needed"),
        ("dims", "48", "dims = '48' has the wrong type"),
        ("plain", 1, "plain = 1 has the wrong type: bool is needed"),
        ("plain", "yes", "plain = 'yes' has the wrong type"),
        (
            "device",
            "gpu",
            "device = 'gpu' is not allowed; allowed: auto, cpu, cuda, cuda:N or mps (where to compute)",
        ),
        ("device", "cuda:", "is not allowed"),
        (
            "num_sseeds",
            5,
            "unknown parameter 'num_sseeds'; did you mean 'num_seeds'? (this chapter has: seed, num_",
        ),
        ("zzz", 5, "unknown parameter 'zzz' (this chapter has: seed, num_seeds,"),
    ],
)
def test_a_wrong_value_is_refused_with_one_line_that_says_what_is_allowed(declared, name, value, told):
    assert told in wrong(declared, **{name: value})


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:11"])
def test_every_way_to_name_a_device_passes(declared, device):
    assert check_parameters(declared, {"device": device}) == {"device": device}


def test_an_integer_serves_as_a_float_and_becomes_one(declared):
    (value,) = check_parameters(declared, {"learning_rate": 1}).values()
    assert (type(value), value) == (float, 1.0)


def test_a_tuple_serves_as_a_list_and_becomes_one(declared):
    assert check_parameters(declared, {"dims": (1, 512)}) == {"dims": [1, 512]}


def test_an_integer_default_of_a_float_is_a_float():
    assert type(read_parameters("x: float = 1  # size")["x"].default) is float


def test_good_values_pass_unchanged_and_nothing_is_added(declared):
    given = {"seed": 3, "num_seeds": 10000, "plain": True, "loss": "linear", "name": ""}
    assert check_parameters(declared, given) == given


@given(st.integers())
def test_a_range_holds_exactly_what_is_between_its_ends(value):
    parameter = read_parameters("n: int = 5  # number [-3 .. 7]")["n"]
    try:
        assert parameter.check(value) == value
        passed = True
    except ParameterError:
        passed = False
    assert passed == (-3 <= value <= 7)


one_value = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()


@given(one_value | st.lists(one_value) | st.dictionaries(st.text(), one_value))
def test_any_value_at_all_is_either_kept_or_refused_with_one_line(value):
    for parameter in read_parameters(CELL).values():
        try:
            assert parameter.check(value) == value
        except ParameterError as error:
            assert len(str(error).splitlines()) == 1


def test_the_cell_is_found_by_its_tag():
    cells = [
        {"metadata": {}, "source": "a"},
        {"metadata": {"tags": ["x", "parameters"]}, "source": ["b: int = 1  # n\n", "c: int = 2  # m"]},
    ]
    assert list(read_parameters(parameters_cell({"cells": cells}))) == ["b", "c"]
    with pytest.raises(ParameterError, match="the notebook has no cell tagged 'parameters'"):
        parameters_cell({"cells": cells[:1]})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("0.1", 0.1),
        ("1e-3", 1e-3),
        ("1E3", 1000.0),
        ("-2.5e+4", -25000.0),
        (".5e2", 50.0),
        ("true", True),
        ("[4, 8]", [4, 8]),
        ("[1e-3, 2]", [1e-3, 2]),
        ("cpu", "cpu"),
        ("cuda:1", "cuda:1"),
        ("1e", "1e"),
        ("", None),
        ("[4, 8", "[4, 8"),
        ("a: b: c", "a: b: c"),
    ],
)
def test_words_on_a_command_line_become_values(text, value):
    found = parse_value(text)
    assert (type(found), found) == (type(value), value)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_every_number_that_python_prints_is_read_back(number):
    assert parse_value(repr(number)) == number
    assert type(parse_value(repr(number))) is type(number)
