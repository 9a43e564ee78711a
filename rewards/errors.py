"""The exceptions a user of Laconic can meet.

The whole tree::

    LaconicError
    ├── RecipeError   (ValueError)    a recipe, an override or a reward parameter is wrong
    ├── DataError     (ValueError)    a data file, a data set or a rollouts file is wrong
    ├── ModelError    (ValueError)    a model folder cannot be used
    └── LaunchError   (RuntimeError)  this machine cannot do what was asked

All of them are the user's to mend: the command line prints the message without a traceback and leaves with
``exit_code`` 2. A new class joins the tree by inheriting from `LaconicError` and from the standard error that a
caller without knowledge of Laconic would catch.
"""

from __future__ import annotations


class LaconicError(Exception):
    """Something the user can mend; the message says what, and `cure` says how.

    Args:
        message: What is wrong, naming the key or the file, and the value that was found.
        cure: What to do about it, in the imperative. Printed on its own line.
    """

    exit_code = 2

    def __init__(self, message: str, *, cure: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure

    def __str__(self) -> str:
        return self.message if self.cure is None else f"{self.message}\n  -> {self.cure}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are pickled when they cross a process; the default would lose the keyword argument.
        return (_rebuild, (type(self), self.message, self.cure))


def _rebuild(kind: type[LaconicError], message: str, cure: str | None) -> LaconicError:
    return kind(message, cure=cure)


class RecipeError(LaconicError, ValueError):
    """A recipe, an override or a reward parameter is wrong."""


class DataError(LaconicError, ValueError):
    """A data file, a data set or a rollouts file is missing, empty or malformed."""


class ModelError(LaconicError, ValueError):
    """A model folder is missing a part, or what was saved does not load as it was."""


class LaunchError(LaconicError, RuntimeError):
    """This machine cannot do what was asked: no such device, no disk space, a missing package."""
