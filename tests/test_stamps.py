"""What makes stored outputs stale and what does not, and which modules a notebook reaches."""

import json
import shutil
from pathlib import Path

import pytest

from conftest import edit_cell
from reprobook.errors import UserError
from reprobook.stamps import PACKAGE, code_of, is_stale, reached_modules, stamp


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the library that a test may edit."""
    copy = tmp_path / "library" / "reprobook"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture
def notebook(executed_book: Path) -> Path:
    """The executed notebook of the toy chapter, which is up to date."""
    return executed_book / "chapters" / "toy" / "toy.ipynb"


def test_an_executed_notebook_is_not_stale(notebook, package):
    assert not is_stale(notebook)
    assert not is_stale(notebook, package)


def test_a_notebook_that_was_never_run_is_stale(toy):
    assert is_stale(toy / "toy.ipynb")


def test_a_failed_run_is_stale(notebook):
    text = notebook.read_text()
    assert text.count('"status": "finished"') == 1
    notebook.write_text(text.replace('"status": "finished"', '"status": "failed"'))
    assert is_stale(notebook)


def test_an_edited_code_cell_is_stale(notebook):
    edit_cell(notebook, "draw", "drawing", "painting")
    assert is_stale(notebook)


def test_an_edited_default_is_stale(notebook):
    edit_cell(notebook, "parameters", "= 50", "= 51")
    assert is_stale(notebook)


def test_an_edited_default_leaves_a_run_with_values_of_its_own_as_it_was(notebook):
    values = dict.fromkeys(("seed", "num_seeds", "scale", "device", "trouble"), 1)
    before = stamp(notebook, values)
    edit_cell(notebook, "parameters", "= 50  # draws", "= 51  # how many draws")
    assert stamp(notebook, values) == before


def test_an_edited_markdown_cell_is_not_stale(notebook):
    edit_cell(notebook, "title", "It draws numbers.", "It draws pseudo-random numbers.")
    assert not is_stale(notebook)


def test_an_edited_output_is_not_stale(notebook):
    text = notebook.read_text()
    assert '"drawing\\n"' in text
    notebook.write_text(text.replace('"drawing\\n"', '"drawing something else\\n"'))
    assert not is_stale(notebook)


@pytest.mark.parametrize("name", ["stats.py", "chapter.py", "claims.py", "__init__.py"])
def test_an_edited_module_that_is_reached_is_stale(notebook, package, name):
    module = package / name
    module.write_text(module.read_text() + "\n# a remark\n")
    assert is_stale(notebook, package)


@pytest.mark.parametrize("name", ["device.py", "cli.py", "papers/__init__.py"])
def test_an_edited_module_that_is_not_reached_is_not_stale(notebook, package, name):
    module = package / name
    module.write_text(module.read_text() + "\n# a remark\n")
    assert not is_stale(notebook, package)


def test_an_edit_of_one_paper_makes_exactly_its_chapter_stale(notebook, package):
    (package / "papers" / "mine.py").write_text("A = 1\n")
    (package / "papers" / "other.py").write_text("B = 1\n")
    edit_cell(
        notebook, "begin", "from reprobook.chapter", "import reprobook.papers.mine\nfrom reprobook.chapter"
    )
    before = stamp(notebook, package=package)
    (package / "papers" / "other.py").write_text("B = 2\n")
    assert stamp(notebook, package=package) == before
    (package / "papers" / "mine.py").write_text("A = 2\n")
    assert stamp(notebook, package=package) != before


@pytest.mark.parametrize(
    ("addition", "stale"),
    [
        ("# a remark\n", False),
        ("  - {id: one-more, statement: S, where: W, untested: U}\n", True),
        ("  - {id: one-more, statement: S, where: W, untested: U, notebook: toy}\n", True),
        ("  - {id: one-more, statement: S, where: W, untested: U, notebook: other}\n", False),
        ("no claims file: [\n", True),
    ],
)
def test_an_added_claim_is_stale_where_it_belongs(notebook, addition, stale):
    with (notebook.parent / "claims.yml").open("a") as file:
        file.write(addition)
    assert is_stale(notebook) == stale


def test_an_edited_criterion_is_stale(notebook):
    file = notebook.parent / "claims.yml"
    file.write_text(file.read_text().replace("every trial", "fraction >= 0.5"))
    assert is_stale(notebook)


@pytest.mark.parametrize(
    ("pin", "stale"),
    [
        ("numpy==1.0", True),  # the toy's statistics import it
        ("Scikit_Learn==1.0", True),  # named otherwise than its module, and spelled in another way
        ("joblib==1.0", True),  # what scikit-learn needs, imported by nobody here
        ("h5py==1.0", False),  # this package needs it, but nothing that the toy reaches
        ("papermill==1.0", False),
        ("# a remark", False),
    ],
)
def test_a_pin_counts_where_it_is_needed(notebook, package, executed_book, pin, stale):
    edit_cell(notebook, "draw", "import os", "import numpy, sklearn.svm, os")
    before = stamp(notebook, package=package)
    with (executed_book / "requirements.lock").open("a") as lock:
        lock.write(f"{pin}\n")
    assert (stamp(notebook, package=package) != before) == stale


@pytest.mark.parametrize("name", ["chapters/toy/smoke.yml", "_toc.yml"])
def test_an_edit_of_other_files_is_not_stale(notebook, executed_book, name):
    file = executed_book / name
    file.write_text(file.read_text() + "# a remark\n")
    assert not is_stale(notebook)


def test_line_endings_do_not_matter(notebook, package, executed_book):
    for file in (package / "stats.py", executed_book / "requirements.lock"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert not is_stale(notebook, package)


def test_the_order_of_keys_and_the_form_of_sources_do_not_matter(notebook):
    before = stamp(notebook)
    content = json.loads(notebook.read_text())
    for cell in content["cells"]:
        cell["source"] = "".join(cell["source"])
    notebook.write_text(json.dumps(dict(reversed(content.items()))))
    assert stamp(notebook) == before


def test_the_stamp_depends_on_parameter_values_and_not_on_their_order(toy):
    path = toy / "toy.ipynb"
    assert stamp(path, {"seed": 1, "num_seeds": 3}) == stamp(path, {"num_seeds": 3, "seed": 1})
    assert stamp(path, {"seed": 1}) != stamp(path, {"seed": 2})
    assert stamp(path, {"seed": 0, "scale": 1.0}) == stamp(path)


def test_a_cell_injected_by_papermill_is_no_part_of_the_code(notebook):
    before = stamp(notebook)
    content = json.loads(notebook.read_text())
    cell = dict(
        content["cells"][1], metadata={"tags": ["injected-parameters"]}, source="# Parameters\nseed = 9\n"
    )
    content["cells"].insert(2, cell)
    notebook.write_text(json.dumps(content))
    assert stamp(notebook) == before
    assert not any("seed = 9" in source for source in code_of(content))


# --------------------------------------------------------------------------- reach


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A package whose import statements take every form."""
    root = tmp_path / "lib" / "reprobook"
    for name, text in {
        "__init__.py": "",
        "plain.py": "",
        "deep.py": "def f():\n    from reprobook import late\n",
        "late.py": "",
        "circle.py": "from reprobook import round_about\n",
        "round_about.py": "import reprobook.circle\n",
        "alone.py": "",
        "papers/__init__.py": "",
        "papers/one/__init__.py": "from .parts import thing\n",
        "papers/one/parts.py": "from ...plain import x\nfrom . import sibling\n",
        "papers/one/sibling.py": "from ..two import *\n",
        "papers/one/unused.py": "",
        "papers/two.py": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import numpy, os", []),
        ("import reprobook", ["__init__.py"]),
        ("import reprobook.plain as p", ["__init__.py", "plain.py"]),
        ("from reprobook import plain", ["__init__.py", "plain.py"]),
        ("from reprobook.plain import anything", ["__init__.py", "plain.py"]),
        ("if False:\n    def f():\n        import reprobook.plain", ["__init__.py", "plain.py"]),
        ("import reprobook.deep", ["__init__.py", "deep.py", "late.py"]),
        ("import reprobook.circle", ["__init__.py", "circle.py", "round_about.py"]),
        ("import reprobooks.plain", []),
        (
            "%matplotlib inline\n!ls\nfor i in range(2):\n    %time f()\nimport reprobook.plain",
            ["__init__.py", "plain.py"],
        ),
        (
            "from reprobook.papers import one",
            [
                "__init__.py",
                "papers/__init__.py",
                "papers/one/__init__.py",
                "papers/one/parts.py",
                "papers/one/sibling.py",
                "papers/two.py",
                "plain.py",
            ],
        ),
    ],
)
def test_reached_modules(small, source, expected):
    assert [p.relative_to(small).as_posix() for p in reached_modules(source, small)] == expected


def test_a_module_that_is_not_python_is_named(small):
    (small / "plain.py").write_text("def f(:\n")
    with pytest.raises(UserError, match=r"reprobook/plain\.py is not valid Python: .*line 1"):
        reached_modules("import reprobook.plain", small)


def test_a_notebook_that_is_not_python_is_one_line(toy):
    edit_cell(toy / "toy.ipynb", "draw", "draws =", "draws = =")
    with pytest.raises(UserError, match="the notebook is not valid Python"):
        stamp(toy / "toy.ipynb")
