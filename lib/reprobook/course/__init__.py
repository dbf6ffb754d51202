"""Chapters as course assignments: what their tests call, and what hands out, grades and reports.

The test cells of an assignment use four functions of this package: :func:`~.checks.fresh`,
:func:`~.checks.same`, :func:`~.checks.unchanged` and :func:`~.checks.probe`. All else is for teachers.
"""

from reprobook.course.checks import Wrong, fresh, probe, same, unchanged

__all__ = ["Wrong", "fresh", "probe", "same", "unchanged"]
