"""The one exception whose message is meant for the person at the keyboard."""

__all__ = ["UserError"]


class UserError(Exception):
    """Something the user can put right; the message says what is wrong and what is allowed.

    Commands print the message as one line and exit with a non-zero status. In a notebook the
    traceback is replaced by the same line, because where our code noticed it does not help.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]
