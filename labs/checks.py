"""How a lab's checks speak: what is wrong in one or two sentences, without a traceback.

A check is a notebook cell that begins with `# CHECK (name)`. It passes if nothing is raised.

    mine = checks.run(advantage, rewards, 4)                  # calls what the student wrote
    checks.close(mine, reference, "the advantage", "Divide by the group's own deviation.")
    checks.passed("advantages")
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where it is used: a grader starts a process for each student
    from torch import Tensor


class Wrong(AssertionError):
    """What a check found. A notebook shows the sentence alone."""

    def _render_traceback_(self) -> list[str]:
        """Replace the traceback in Jupyter, which asks for this by name."""
        return [f"Not yet: {self}"]


def passed(what: str) -> None:
    """Say that a check is passed."""
    print(f"Right: {what}.")


def true(condition: object, why: str) -> None:
    """Raise Wrong with the sentence `why` unless the condition holds."""
    if not bool(condition):
        raise Wrong(why)


def filled(value: object, name: str, hint: str) -> None:
    """Raise Wrong if a value still is the blank `...`, or nothing."""
    if value is ... or value is None:
        raise Wrong(f"`{name}` is still empty. {hint}")


def run(function: Callable, *args: object, **kwargs: object) -> object:
    """Call what the student wrote, and return what it returns.

    Raises Wrong, in words, if it is not written yet, raises, or returns nothing.
    """
    name = getattr(function, "__name__", "the function")
    if not callable(function):
        raise Wrong(f"`{name}` should be a function, but is {function!r:.60}.")
    try:
        result = function(*args, **kwargs)
    except NotImplementedError as error:
        raise Wrong(f"`{name}` is not written yet. {error}") from None
    except Exception as error:
        raise Wrong(f"`{name}` stops with {type(error).__name__}: {error}{place(error)}") from None
    if result is None or result is ...:
        raise Wrong(f"`{name}` returns nothing. Does it end with `return`?")
    return result


def place(error: Exception) -> str:
    """Say in which line of the student's function an error came up; "" if that is unknown."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is `run` itself
    if not frames or not frames[0].line:
        return ""
    return f". That is in its line `{frames[0].line}`"


def shape(mine: object, shape: tuple[int, ...], name: str, hint: str = "") -> None:
    """Raise Wrong unless `mine` is a tensor of this shape."""
    import torch

    if not torch.is_tensor(mine):
        raise Wrong(f"{name} should be a tensor, but is a {type(mine).__name__}. {hint}")
    if tuple(mine.shape) != tuple(shape):
        raise Wrong(
            f"{name} should have the shape {tuple(shape)}, but has {tuple(mine.shape)}. {hint}"
        )


def close(mine: object, right: Tensor, name: str, hint: str = "", tolerance: float = 1e-4) -> None:
    """Raise Wrong unless two tensors agree; it names the first place where they do not."""
    import torch

    shape(mine, tuple(right.shape), name, hint)
    mine, right = mine.detach().double(), right.detach().double()
    if not torch.isfinite(mine).all():
        raise Wrong(f"{name} has a value that is not a number (nan or inf). {hint}")
    apart = (mine - right).abs() > tolerance
    if apart.any():
        where = apart.nonzero()[0].tolist()
        spot = "" if not where else f" at {where}"
        raise Wrong(
            f"{name}{spot} is {float(mine[tuple(where)]):.4g}, "
            f"but should be {float(right[tuple(where)]):.4g}. {hint}"
        )


def same(mine: object, other: Tensor) -> bool:
    """Tell whether `mine` is a tensor equal to a known wrong answer, to name the mistake."""
    import torch

    is_alike = torch.is_tensor(mine) and mine.shape == other.shape
    return is_alike and torch.allclose(mine.detach().double(), other.double(), atol=1e-4)
