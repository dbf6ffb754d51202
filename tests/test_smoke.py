"""The smoke tier of every notebook: quick, finished, with a verdict on every claim that is tested there."""

import pytest

from reprobook import running
from reprobook.claims import Verdict, load_claims
from reprobook.paths import chapter_folder

SECONDS = 20


@pytest.mark.slow
@pytest.mark.parametrize("name", running.notebooks_of_book())
def test_the_smoke_tier_finishes_in_20_seconds_with_its_claims_measured(name, tmp_path):
    done = running.run(name, "smoke", out=tmp_path)
    seconds = done.record.wall_seconds
    if seconds > SECONDS:  # a busy machine gets a second chance, a slow chapter does not get a third
        seconds = running.run(name, "smoke", out=tmp_path, force=True).record.wall_seconds
    assert seconds <= SECONDS
    claims = load_claims(chapter_folder(done.record.slug) / "claims.yml").of_notebook(done.record.notebook)
    attempted = {r.claim.id for r in done.record.results() if r.verdict is not Verdict.NOT_ATTEMPTED}
    assert {i for i, claim in claims.items() if "smoke" in claim.tiers} <= attempted
