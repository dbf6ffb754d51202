"""Chapters as course assignments: what their tests call, and what hands out, grades and reports.

The test cells of an assignment use four functions of this package: :func:`fresh`, :func:`same`,
:func:`unchanged` and :func:`probe`. Everything else is for teachers.
"""

from reprobook.course.checks import Wrong, fresh, probe, same, unchanged

__all__ = ["Wrong", "fresh", "probe", "same", "unchanged"]
