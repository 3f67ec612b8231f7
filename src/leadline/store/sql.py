"""As much of ClickHouse's grammar as is needed to cut text into statements and clauses; nothing here decides what is allowed.

Text is read as tokens (words, quoted names, strings, numbers, punctuation); comments and white space are left out.
Bytes of an unknown encoding may be read as latin-1, so that positions stay byte positions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|--[^\n]*|\#[ !][^\n]*|/\*.*?(?:\*/|\Z))
    | (?P<string>'(?:[^'\\]|\\.|'')*(?:'|\Z)|‘[^’]*(?:’|\Z)|\$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z))
    | (?P<name>`(?:[^`\\]|\\.|``)*(?:`|\Z)|"(?:[^"\\]|\\.|"")*(?:"|\Z)|“[^”]*(?:”|\Z))
    | (?P<word>[^\W\d]\w*)
    | (?P<number>\d[\w.]*)
    | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of text: `kind` is ``word``, ``name`` (quoted), ``string``, ``number`` or ``mark``; `depth` counts open brackets."""

    kind: str
    text: str
    start: int
    end: int
    depth: int

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.upper() in words


def tokens(text: str, start: int = 0) -> Iterator[Token]:
    """The tokens of `text` from `start`, in order; a string or comment that is not closed runs to the end."""
    depth = 0
    for match in _TOKEN.finditer(text, start):
        kind = match.lastgroup or "mark"
        if match["string"] is not None:
            kind = "string"
        if kind == "space":
            continue
        piece = match.group()
        if kind == "mark" and piece in ")]}":
            depth = max(0, depth - 1)
        yield Token(kind, piece, match.start(), match.end(), depth)
        if kind == "mark" and piece in "([{":
            depth += 1


def statements(text: str) -> list[str]:
    """The statements of a script: each ends with `;`; comments before a statement belong to it; empty ones are left out.

    A `;` inside strings, quoted names and comments does not end anything.
    """
    found, start, something = [], 0, False
    for token in tokens(text):
        if token.kind == "mark" and token.text == ";":
            if something:
                found.append(text[start : token.start].strip())
            start, something = token.end, False
        else:
            something = True
    if something:
        found.append(text[start:].strip())
    return found


@dataclass(frozen=True, slots=True)
class Query:
    """A statement that returns rows, with its FORMAT clause and closing `;` taken off.

    Parameters
    ----------
    text : str
    verb : str
        The first word, upper case; ``(`` for a query in brackets.
    format : str or None
        What FORMAT asked for.
    totals : bool
        Whether WITH TOTALS occurs.
    """

    text: str
    verb: str
    format: str | None
    totals: bool


def query(text: str) -> Query:
    """Reads one statement."""
    all_tokens = list(tokens(text))
    while all_tokens and all_tokens[-1].text == ";":
        text = text[: all_tokens.pop().start]
    verb = all_tokens[0].text.upper() if all_tokens else ""
    totals = any(a.is_word("WITH") and b.is_word("TOTALS") for a, b in pairwise(all_tokens))
    name = None
    for at in range(len(all_tokens) - 2, 0, -1):
        here, after = all_tokens[at], all_tokens[at + 1]
        ends = at + 2 == len(all_tokens) or all_tokens[at + 2].is_word("SETTINGS", "INTO")
        if here.depth == 0 and here.is_word("FORMAT") and after.kind in ("word", "name") and ends:
            name = after.text.strip('`"')
            text = f"{text[: here.start]} {text[after.end :]}"
            break
    return Query(text.rstrip(), verb, name, totals)


@dataclass(frozen=True, slots=True)
class Insert:
    """The head of an INSERT whose rows follow as data.

    Parameters
    ----------
    text : str
        ``INSERT INTO t (a, b)`` with its SETTINGS, without FORMAT or VALUES.
    format : str
    data_at : int
        Where the rows begin in the text that was read.
    """

    text: str
    format: str
    data_at: int


def insert(text: str) -> Insert | None:
    """The head of an INSERT with data; None if it is INSERT … SELECT, FROM INFILE, or no INSERT.

    ClickHouse's rule for where data begins is kept: after FORMAT and its name, blanks and one line end are skipped.
    """
    stream = tokens(text)
    first = next(stream, None)
    if first is None or not first.is_word("INSERT"):
        return None
    head_end = None
    for token in stream:
        if token.depth:
            continue
        if token.is_word("SELECT", "WITH", "WATCH", "INFILE"):
            return None
        if token.is_word("VALUES"):
            return Insert(text[: token.start].rstrip(), "Values", token.end)
        if token.is_word("FORMAT"):
            name = next(stream, None)
            if name is None:
                return None
            data_at = name.end
            while data_at < len(text) and text[data_at] in " \t\f":
                data_at += 1
            if text[data_at : data_at + 1] == "\r":
                data_at += 1
            if text[data_at : data_at + 1] == "\n":
                data_at += 1
            return Insert(text[: token.start].rstrip(), name.text.strip('`"'), data_at)
        head_end = token.end
    return Insert(text[:head_end].rstrip().rstrip(";"), "Values", len(text))


def quoted(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quoted_name(value: str) -> str:
    """A name in backticks."""
    return "`" + value.replace("\\", "\\\\").replace("`", "\\`") + "`"
