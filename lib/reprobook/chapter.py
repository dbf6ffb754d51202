"""What a chapter's notebook says to the book: its parameters, its measurements, its verdicts.

The whole interface, as a notebook uses it::

    from reprobook.chapter import Chapter

    chapter = Chapter.begin("transformers_as_svm", globals())   # checks the parameters, or stops
    chapter.source(att_svm)                                      # shows a library function as it is
    for step in chapter.track(steps, "gradient descent"): ...    # progress of long work
    chapter.measure("w-follows-frobenius", correlations)         # values over trials, by claim
    chapter.number("gap", 0.123)                                 # a number for the text
    chapter.verdicts()                                           # plain text, compared by nbval
    chapter.claims_table()                                       # the table, and the data for the scoreboard
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from reprobook.claims import Result, claims_html, claims_text, judge, load_claims, results_to_data
from reprobook.parameters import check_parameters, parameters_cell, read_parameters
from reprobook.paths import notebook_path

__all__ = ["Chapter", "Source", "CLAIMS_MIME", "PROGRESS_VARIABLE"]

#: The MIME type under which a notebook stores the measured claims.
CLAIMS_MIME = "application/vnd.reprobook.claims+json"
#: The environment variable that names the file in which progress is noted.
PROGRESS_VARIABLE = "REPROBOOK_PROGRESS"
T = TypeVar("T")


class Chapter:
    """One run of one notebook: its parameters, and what it has measured so far.

    Attributes:
        name: ``slug`` or ``slug/notebook``.
        parameters: the checked parameters of this run, by name.
        claims: the claims that this notebook answers for, by id.
        results: what has been measured so far, by claim id.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any]) -> None:
        path = notebook_path(name)
        self.name = name
        self.parameters = dict(parameters)
        self.claims = load_claims(path.parent / "claims.yml").of_notebook(path.stem)
        self.results: dict[str, Result] = {}

    @classmethod
    def begin(cls, name: str, namespace: dict[str, Any]) -> Chapter:
        """Check the parameters that stand in a notebook's namespace, and start the run.

        Values are put back into the namespace in their declared types (``1`` for a float becomes
        ``1.0``).

        Args:
            name: ``slug``, or ``slug/notebook`` where a chapter has several notebooks.
            namespace: the notebook's ``globals()``.

        Raises:
            ParameterError: for a wrong value, or a name injected by papermill that the parameters cell
                does not have.
        """
        declared = read_parameters(
            parameters_cell(json.loads(notebook_path(name).read_text(encoding="utf-8")))
        )
        given = {
            k: namespace[k] for k in [*declared, *_injected_names(namespace.get("In", []))] if k in namespace
        }
        checked = check_parameters(declared, given)
        namespace.update(checked)
        return cls(name, checked)

    def measure(
        self,
        claim: str,
        values: Sequence[float] | Mapping[str, Sequence[float]],
        *,
        excluded: int = 0,
        why_excluded: str = "",
    ) -> None:
        """Hand over what was measured for a claim; arguments as in :func:`reprobook.claims.judge`.

        Raises:
            KeyError: if the claims file has no such claim for this notebook.
            ValueError: if the claim was measured already, or the values are unfit.
        """
        if claim not in self.claims:
            raise KeyError(f"no claim '{claim}' in the claims file; it has: {', '.join(self.claims)}")
        if claim in self.results:
            raise ValueError(f"claim '{claim}' was measured already in this run")
        self.results[claim] = judge(self.claims[claim], values, excluded=excluded, why_excluded=why_excluded)

    def all_results(self) -> list[Result]:
        """Return a result for every claim of the notebook, in the order of the claims file."""
        return [self.results.get(i, Result(c)) for i, c in self.claims.items()]

    def verdicts(self) -> None:
        """Print the verdicts, a line a claim."""
        print(claims_text(self.all_results()))

    def claims_table(self) -> None:
        """Display the claims table and, with it, the data that scoreboard and records are made from."""
        from IPython.display import display

        results = self.all_results()
        bundle = {
            "text/html": claims_html(results),
            "text/plain": claims_text(results),
            CLAIMS_MIME: results_to_data(results),
        }
        display(bundle, raw=True)

    def number(self, **values: float) -> None:
        """Keep numbers for the text, which takes them by name with the ``glue:text`` role."""
        from myst_nb import glue

        for name, value in values.items():
            glue(name, float(value), display=False)

    def source(self, *objects: Any) -> Source:
        """Show library functions as they stand in the tested module."""
        return Source(*objects)

    def track(self, steps: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """Yield from ``steps`` and report progress to whoever runs the notebook.

        The ``reprobook`` command shows it under its progress bar. Nothing is written into the notebook,
        where a progress bar would be a stored output that no rerun matches.

        Args:
            steps: any iterable.
            label: what is being done, in a few words.
            total: how many steps there are, if ``len(steps)`` does not know.
        """
        total = total if total is not None else getattr(steps, "__len__", lambda: None)()
        channel = os.environ.get(PROGRESS_VARIABLE)
        last = 0.0
        for done, step in enumerate(steps):
            if channel and time.monotonic() - last > 0.2:
                last = time.monotonic()
                with Path(channel).open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"label": label, "done": done, "total": total}) + "\n")
            yield step


class Source:
    """The source of functions or classes, shown with highlighting in a page and in Jupyter."""

    def __init__(self, *objects: Any) -> None:
        self.text = "\n\n".join(textwrap.dedent(inspect.getsource(o)).rstrip() for o in objects)

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.text}\n```"

    def __repr__(self) -> str:
        return self.text


def _injected_names(history: Sequence[str]) -> list[str]:
    """Return the names that papermill's injected cells assign, from IPython's list of executed cells."""
    names = []
    for source in history:
        if source.startswith("# Parameters\n"):
            for node in ast.parse(source).body:
                if isinstance(node, ast.Assign):
                    names += [t.id for t in node.targets if isinstance(t, ast.Name)]
    return names
