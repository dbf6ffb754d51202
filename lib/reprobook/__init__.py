"""Papers You Can Rerun: the library behind the book.

Nothing is imported here, so that a notebook which only checks its parameters starts at once.
The parts are ``reprobook.papers.<slug>`` (one paper's method), the bricks they stand on
(``device``, ``stats``, ``plotting``), and what makes a chapter a chapter (``chapter``, ``claims``,
``parameters``, ``running``, ``cli``).
"""

__version__ = "0.1.0"
