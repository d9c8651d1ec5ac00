"""The Python code in an answer. Nothing is run."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings

_FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*([\w+-]*).*")
_PYTHON = ("", "py", "python", "python3", "py3")
_CODE = re.compile(r"(?:def|class|import|from|async def|@)\b|@\w|[A-Za-z_]\w*\s*=")
_LONGEST = 20_000


def code_in(text: str, entry: str) -> str | None:
    """The code that an answer gives for a function; None if it holds no code.

    Of several fenced blocks those up to the last one that defines the function, in order: what comes after shows how it
    is used. Without fences the text from its first line of code on, as far as it is code.
    """
    blocks = [block for block in map(_longest, _fenced(text)) if block]
    if not blocks:
        lines = text.splitlines()
        starts = [i for i, line in enumerate(lines) if _CODE.match(line)]
        blocks = [block for start in starts[:20] if (block := _longest("\n".join(lines[start:])))][:1]
    defining = [i for i, block in enumerate(blocks) if entry in _defined(block)]
    code = "\n".join(blocks[: defining[-1] + 1] if defining else blocks)
    return code if code.strip() else None


def parsed(code: str) -> ast.Module | None:
    """The tree of some code, None if it is no Python."""
    if len(code) > _LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _fenced(text: str) -> list[str]:
    """What stands in each code fence that is said to be of Python or of nothing; the last one may be open."""
    found: list[list[str]] = []
    mark = ""
    for line in text.splitlines():
        fence = _FENCE.fullmatch(line)
        if fence and not mark:
            mark = fence[1]
            kept = fence[2].lower() in _PYTHON
            found += [[]] if kept else []
        elif fence and fence[1].startswith(mark) and not fence[2]:
            mark = ""
        elif mark and kept:
            found[-1].append(line)
    return [textwrap.dedent("\n".join(lines)) for lines in found]


def _longest(code: str) -> str:
    """The code up to where it is no longer Python: words after it, or the cut of the token limit."""
    lines = code.splitlines()
    while lines:
        source = "\n".join(lines)
        if parsed(source) is not None:
            return source
        lines = lines[: _bad_line(source, len(lines)) - 1]
    return ""


def _bad_line(source: str, n: int) -> int:
    """The line where the parser gives up, from 1; the last one where it does not say."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(source[:_LONGEST])
    except SyntaxError as error:
        return max(1, min(error.lineno or n, n))
    except (ValueError, RecursionError, MemoryError):
        pass
    return n


def _defined(code: str) -> set[str]:
    """The names that code defines outermost."""
    tree = parsed(code)
    names: set[str] = set()
    for statement in tree.body if tree else []:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(statement.name)
        elif isinstance(statement, ast.Assign):
            names |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return names
