"""How a lab's checks speak: what is wrong in one or two sentences, without a traceback.

A check is a notebook cell that begins with `# CHECK (name)`. It passes if nothing is raised.

    mine = checks.run(advantage, rewards, 4)                  # calls what the student wrote
    checks.close(mine, reference, "the advantage", "Divide by the group's own deviation.")
    checks.passed("advantages")
"""

from __future__ import annotations

import contextlib
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


def text(value: object, name: str, hint: str) -> None:
    """Raise Wrong for a blank, or for what is no text."""
    filled(value, name, hint)
    true(isinstance(value, str), f"`{name}` should be a text in quotes, but is {value!r:.60}.")


def number(value: object, name: str, hint: str = "") -> float:
    """Return a number as a float. Raises Wrong for a blank, or for what is no number."""
    filled(value, name, hint)
    if not isinstance(value, str):
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            return float(value)
    raise Wrong(f"`{name}` should be a number, but is {value!r:.60}.")


def run(function: Callable, *args: object, **kwargs: object) -> object:
    """Call what the student wrote, and return what it returns.

    Raises Wrong, in words, if it is not written yet, raises, or returns nothing.
    """
    result = call(function, *args, **kwargs)
    if result is None or result is ...:
        given = ", ".join(map(repr, args))
        is_short = len(given) < 60 and not set("<\n") & set(given)
        where = f" for {given}" if args and is_short else ""
        raise Wrong(
            f"`{name_of(function)}` returns nothing{where}. "
            "Does every way through it end with `return` and a value?"
        )
    return result


def call(function: Callable, *args: object, **kwargs: object) -> object:
    """Do as `run` does, but None is a result like others."""
    name = name_of(function)
    if not callable(function):
        raise Wrong(f"`{name}` should be a function, but is {function!r:.60}.")
    try:
        return function(*args, **kwargs)
    except NotImplementedError as error:
        raise Wrong(f"`{name}` is not written yet. {error}") from None
    except Exception as error:
        raise Wrong(f"`{name}` stops with {cause(error)}") from None


def name_of(function: object) -> str:
    """Return the name of a function; of something else, a word for it."""
    return getattr(function, "__name__", "the function")


def raises(kind: type[Exception], function: Callable, *args: object, silent: str) -> str:
    """Call what the student wrote, which should raise an error of this kind; return its text.

    Raises Wrong if it raises another one, or none: then with the sentence `silent`.
    """
    try:
        function(*args)
    except kind as error:
        return str(error)
    except Exception as error:
        raise Wrong(
            f"`{name_of(function)}` should raise {kind.__name__} here, but raises {cause(error)}"
        ) from None
    raise Wrong(silent)


def cause(error: Exception) -> str:
    """Say what an error is, where it came up, and how to get on if shapes do not fit."""
    first_line = str(error).partition("\n")[0]
    hint = ""
    if "must match the size of tensor b (0)" in first_line:
        hint = ". The second one is empty"
    elif "must match the size of tensor" in first_line:
        hint = (
            ". Two shapes do not fit: print them. A number for each row needs the shape (N, 1), "
            "by keepdim=True or [:, None]"
        )
    return f"{type(error).__name__}: {first_line}{place(error)}{hint}"


def place(error: Exception) -> str:
    """Say in which line of the student's function an error came up; "" if that is unknown."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is in this file
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


def gradient(mine: Tensor, of: Tensor, hint: str) -> Tensor:
    """Return the gradient of mine's sum with respect to `of`. Raises Wrong if there is none."""
    import torch

    found = None
    if mine.requires_grad:
        [found] = torch.autograd.grad(mine.sum(), of, allow_unused=True)
    if found is None:
        raise Wrong(hint)
    return found


def same(mine: object, other: Tensor) -> bool:
    """Tell whether `mine` is a tensor equal to a known wrong answer, to name the mistake."""
    import torch

    is_alike = torch.is_tensor(mine) and mine.shape == other.shape
    return is_alike and torch.allclose(mine.detach().double(), other.double(), atol=1e-4)
