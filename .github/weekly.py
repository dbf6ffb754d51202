"""Run a chapter's notebooks at some tiers with ``reprobook run``, and print what came of each as Markdown.

Used by the weekly workflow, whose summary shows the table: ``python .github/weekly.py SLUG TIER...``. A line
says whether the run finished, how long it took, its verdicts, and at the laptop tier which of them are others
than those that the book shows. The exit code is 1 if a run failed. A verdict that turned is no failure: it is
for a person to judge.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from reprobook.cards import duration
from reprobook.errors import UserError
from reprobook.jobs import LAPTOP
from reprobook.paths import notebook_names, notebook_path
from reprobook.records import Record, read_record

HEAD = "| notebook | tier | outcome | verdicts |\n|---|---|---|---|"


def main(slug: str, tiers: Iterable[str]) -> int:
    """Run every notebook of a chapter at every tier and return the exit code."""
    failed = 0
    print(HEAD, flush=True)
    for notebook in notebook_names(slug):
        for tier in tiers:
            record = run(f"{slug}/{notebook}", tier)
            print(row(f"{slug}/{notebook}", tier, record), flush=True)
            failed += record is None
    return min(failed, 1)


def run(name: str, tier: str) -> Record | None:
    """Run a notebook; what the command says goes to the log. None if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "reprobook.cli", "run", name, "--tier", tier, "--out", folder]
        done = subprocess.run(words, stdout=sys.stderr, check=False)
        found = [path for path in Path(folder).glob("*.ipynb") if not path.name.endswith(".failed.ipynb")]
        return read_record(found[0]) if done.returncode == 0 and found else None


def row(name: str, tier: str, record: Record | None) -> str:
    """Return a line of the table."""
    if record is None:
        return f"| {name} | {tier} | ✗ **failed** | see the log |"
    counts = Counter(result.verdict.value for result in record.results())
    verdicts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))
    stored = read_record(notebook_path(name)) if tier == LAPTOP else None
    turned = [f"{claim}: {change}" for claim, change in differences(stored, record).items()] if stored else []
    others = f"; **turned:** {'; '.join(turned)}" if turned else "; as in the book" if stored else ""
    return f"| {name} | {tier} | ✓ {duration(record.wall_seconds)} | {verdicts}{others} |"


def differences(stored: Record, now: Record) -> dict[str, str]:
    """Return the claims whose verdict is another one than in the stored run, with both verdicts."""
    before = {result.claim.id: result.verdict.value for result in stored.results()}
    return {
        r.claim.id: f"{before[r.claim.id]} → {r.verdict.value}"
        for r in now.results()
        if before.get(r.claim.id, r.verdict.value) != r.verdict.value
    }


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], sys.argv[2:]))
    except UserError as error:
        sys.exit(f"weekly: {error}")
