"""The smoke tier of every notebook: quick, finished, with a verdict on every claim that is tested there."""

import resource

import pytest

from reprobook import running
from reprobook.claims import Verdict, load_claims
from reprobook.paths import chapter_folder

SECONDS = 20


def processor_seconds() -> float:
    """Return the processor time of all processes that this one has started and seen end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.parametrize("name", running.notebooks_of_book())
def test_the_smoke_tier_finishes_in_20_seconds_with_its_claims_measured(name, tmp_path):
    before = processor_seconds()
    done = running.run(name, "smoke", out=tmp_path)
    processor = processor_seconds() - before
    assert processor > 1, "the kernel's time was not seen, so nothing is known of its speed"
    assert min(done.record.wall_seconds, processor) <= SECONDS  # waiting for a busy machine does not count
    claims = load_claims(chapter_folder(done.record.slug) / "claims.yml").of_notebook(done.record.notebook)
    attempted = {r.claim.id for r in done.record.results() if r.verdict is not Verdict.NOT_ATTEMPTED}
    assert {i for i, claim in claims.items() if "smoke" in claim.tiers} <= attempted
