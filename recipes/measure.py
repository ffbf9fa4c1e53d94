"""Print how large and how readable a checkout's code is, one column a checkout.

    python recipes/measure.py . ../before

Product: the top level, tasks, grading, distilling, evaluating, plumbing, fast. Lines count as
they stand: format first. Code tokens are those of the Python that runs this, without comments,
docstrings and white space.
Complexity is ruff's C901: one, plus every branch, loop, except, case and function inside.
"""

import ast
import io
import re
import statistics
import sys
import tokenize
from pathlib import Path

PRODUCT = ("", "tasks", "grading", "distilling", "evaluating", "plumbing", "fast")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case, *FUNCTIONS)
BLANK = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def read(root: Path, folders: tuple[str, ...]) -> dict[str, str]:
    """Return {file: its text} of the Python files right in these folders."""
    files = [file for folder in folders for file in sorted((root / folder).glob("*.py"))]
    return {str(file.relative_to(root)): file.read_text(encoding="utf-8") for file in files}


def docstring_of(node: ast.AST) -> ast.Constant | None:
    if ast.get_docstring(node, clean=False) is None:
        return None
    return node.body[0].value


def docstrings_of(tree: ast.AST) -> list[ast.Constant]:
    found = [docstring_of(node) for node in ast.walk(tree) if isinstance(node, DOCUMENTED)]
    return [node for node in found if node is not None]


def code_tokens(text: str) -> int:
    docstrings = {node.lineno for node in docstrings_of(ast.parse(text))}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(
        token.type not in BLANK
        and not (token.type == tokenize.STRING and token.start[0] in docstrings)
        for token in tokens
    )


def sentence_lengths(docstring: ast.Constant) -> list[int]:
    """Count the words of each sentence. Lines further in are commands and examples, not prose."""
    further_in = " " * (docstring.col_offset + 2)
    prose = [line for line in docstring.value.splitlines() if not line.startswith(further_in)]
    sentences = re.split(r"(?<=[.!?])\s+|\n\s*\n", "\n".join(prose))
    counts = [len(re.findall(r"\S*\w\S*", sentence)) for sentence in sentences]
    return [count for count in counts if count]


def complexity(function: ast.AST) -> int:
    inside = [node for node in ast.walk(function) if node is not function]
    return 1 + sum(isinstance(node, BRANCHES) for node in inside)


def largest(found: list[tuple[int, str]]) -> str:
    number, name = max(found, default=(0, ""))
    return f"{number} {name}"


def lines_of(texts: dict[str, str]) -> list[str]:
    return [line for text in texts.values() for line in text.splitlines()]


def measure(root: Path) -> dict[str, str]:
    """Measure one checkout. Returns {what: figure}."""
    product = read(root, PRODUCT)
    trees = {file: ast.parse(text) for file, text in product.items()}
    nodes = [(file, node) for file, tree in trees.items() for node in ast.walk(tree)]
    functions = [
        (node, f"{file} {node.name}") for file, node in nodes if isinstance(node, FUNCTIONS)
    ]
    lengths = [(node.end_lineno - node.lineno + 1, name) for node, name in functions]
    branches = [(complexity(node), name) for node, name in functions]
    reading_list = [
        (len(text.splitlines()), file) for file, text in product.items() if "/" not in file
    ]
    docstrings = [node for tree in trees.values() for node in docstrings_of(tree)]
    words = [count for docstring in docstrings for count in sentence_lengths(docstring)]
    long_lines = [line for line in lines_of(product) if len(line) > 100]
    return {
        "files": f"{len(product)}",
        "lines": f"{len(lines_of(product)):,}",
        "lines over 100 columns": f"{len(long_lines):,}",
        "code tokens": f"{sum(map(code_tokens, product.values())):,}",
        "longest file of the top level": largest(reading_list),
        "functions": f"{len(functions):,}",
        "longest function": largest(lengths),
        "functions over 60 lines": f"{sum(length > 60 for length, _ in lengths)}",
        "highest complexity": largest(branches),
        "functions of complexity 20 or more": f"{sum(count > 19 for count, _ in branches)}",
        "conditional expressions": f"{sum(isinstance(node, ast.IfExp) for _, node in nodes)}",
        "docstring sentences": f"{len(words):,}",
        "their words, median": f"{statistics.median(words):g}",
        "longer than 25 words": f"{sum(count > 25 for count in words)}",
        "lines of tests": f"{len(lines_of(read(root, ('tests',)))):,}",
        "lines of recipes": f"{len(lines_of(read(root, ('recipes',)))):,}",
    }


def main(roots: list[str]) -> None:
    columns = [measure(Path(root)) for root in roots]
    print("| | " + " | ".join(roots) + " |")
    print("|---|" + "---|" * len(roots))
    for what in columns[0]:
        print(f"| {what} | " + " | ".join(column[what] for column in columns) + " |")


if __name__ == "__main__":
    main(sys.argv[1:] or ["."])
