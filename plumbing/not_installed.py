"""A package that is missing: one sentence that says what to type, instead of a traceback.

Imports next to nothing: a script asks for this before anything else.
"""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def explain_imports():
    """Let Python say of an import that finds no package what to type. Other errors stay as is."""
    sys.excepthook = _explain


def _explain(kind, error, trace):
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if not issubclass(kind, ModuleNotFoundError) or not name or _is_ours(name):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {sentence(name)}", file=sys.stderr)
    sys.exit(2)


def _is_ours(name):
    """Tell whether a module is one of this repository's: then the error is a mistake of ours."""
    return any(os.path.exists(os.path.join(ROOT, name + end)) for end in (".py", ""))


def sentence(name):
    """Say that a package is missing, and which commands help."""
    activate = os.path.join(".venv", "bin", "activate")
    remedy = f"type: make install, then: . {activate}"
    if os.path.exists(os.path.join(ROOT, activate)):
        remedy = f"type: . {os.path.relpath(os.path.join(ROOT, activate))}"
        if os.path.realpath(sys.prefix) == os.path.realpath(os.path.join(ROOT, ".venv")):
            remedy = "type: make install"
    return f"the package {name} is not installed for {sys.executable}; {remedy}"
