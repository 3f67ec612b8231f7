r"""Conditions: one language for policies, SLIs and segments; compiled once to ClickHouse SQL and once to numpy.

The language is a closed part of SQL, with ClickHouse's meaning::

    AND OR NOT   = != <> < <= > >=   IS [NOT] NULL   [NOT] IN ('a', 'b')   [NOT] BETWEEN a AND b   [NOT] LIKE 'a%\_'
    + - * / %    -x   ( )   12  1.5e3  'text'  TRUE FALSE NULL   a column   segments['country']
    abs(x) lower(t) upper(t) length(t) coalesce(a, b, …) least(a, b, …) greatest(a, b, …) if(condition, a, b)

sqlglot parses it. Everything else is refused with its column: first by the tokens (`_check_tokens`), where the place is exact, then
by kind. What a reader may stumble over:

* Missing is NULL and logic is three-valued: a condition is true, false or unknown. A segment that a row does not have is NULL.
* NaN is a number: it differs from every number, itself included, and no `<` or `>` holds for it. NULL is not NaN.
* Integers and floats compare by their exact values: 9007199254740993 is not 9007199254740992.0.
* `/` always divides floats; `%` takes the sign of its left side; its right side is a number above 0, written out.
* Integers are 64 bits and wrap. `lower` and `upper` change ASCII letters; `length` counts bytes.
* `least` and `greatest` pass over NULL and NaN.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from leadline.errors import ExpressionError
from leadline.model.columns import Column, Columns


class Kind(StrEnum):
    """What a column or a part of an expression holds."""

    INTEGER = "an integer"
    FLOAT = "a number"
    TEXT = "text"
    BOOL = "a condition"
    NULL = "NULL"


PREDICTION_COLUMNS: Mapping[str, Kind] = {
    "model": Kind.TEXT,
    "version": Kind.TEXT,
    "role": Kind.TEXT,
    "task": Kind.TEXT,
    "predicted": Kind.TEXT,
    "score": Kind.FLOAT,
    "confidence": Kind.FLOAT,
    "duration_ms": Kind.FLOAT,
    "duration_ns": Kind.INTEGER,
    "error_type": Kind.TEXT,
    "segments.*": Kind.TEXT,
}
"""The slim prediction row. ``segments.*`` allows ``segments['any']``; see `with_segments` for bare names."""

TRACE_COLUMNS: Mapping[str, Kind] = {**PREDICTION_COLUMNS, "span_count": Kind.INTEGER, "error": Kind.BOOL, "service": Kind.TEXT}
"""What sampling policies see: a prediction's row and its trace. These three have no column in table `predictions`."""

MAX_LENGTH = 16_384
MAX_DEPTH = 24
"""Characters of a condition, and parentheses or operators inside each other: parsing recurses, so both are bounded."""

Values = NDArray[Any]
Nulls = NDArray[np.bool_] | None


def with_segments(names: Sequence[str], columns: Mapping[str, Kind] = PREDICTION_COLUMNS) -> dict[str, Kind]:
    """`columns`, and the configured segments: ``country`` then means ``segments['country']``, unless a column has that name."""
    return {**columns, **{f"segments.{name}": Kind.TEXT for name in names}}


class Expression:
    """A condition, compiled. Immutable; equal texts over equal columns give equal results.

    Attributes
    ----------
    text : str
        As written.
    columns : frozenset of str
        What it reads: names of `PREDICTION_COLUMNS` and ``segments.<name>``.
    """

    __slots__ = ("_run", "_sql", "columns", "text")

    def __init__(self, text: str, columns: frozenset[str], sql: str, run: Callable[[Columns], _Value]) -> None:
        self.text, self.columns, self._sql, self._run = text, columns, sql, run

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def sql(self) -> str:
        """The condition for ClickHouse, in parentheses where it needs them: NULL where it is unknown."""
        return self._sql

    def evaluate(self, columns: Columns, n_rows: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Evaluates all rows at once.

        Parameters
        ----------
        columns : mapping of name to Column, each of `n_rows`
            ``duration_ms`` is made from ``duration_ns`` where only that is given. A segment that is not there is NULL throughout.
        n_rows : int

        Returns
        -------
        true, null : bool arrays, shape (n_rows,)
            `true` is False where `null` is True.

        Raises
        ------
        KeyError
            If a column that the expression reads is missing.
        """
        with np.errstate(all="ignore"):
            value = self._run(columns)
        null = np.zeros(n_rows, np.bool_) if value.null is None else np.broadcast_to(value.null, (n_rows,)).copy()
        return np.broadcast_to(value.values, (n_rows,)).astype(np.bool_) & ~null, null


@dataclass(frozen=True, slots=True)
class _Value:
    """Rows of a part: shape (n,), or (1,) for what is the same in every row."""

    values: Values
    null: Nulls = None
    words: tuple[str, ...] = ()  # of text: what the codes in `values` index


@dataclass(frozen=True, slots=True)
class _Term:
    """A part in both forms. `wide` says that ClickHouse computes it in 64 bits; a literal takes as few as it needs."""

    kind: Kind
    sql: str
    run: Callable[[Columns], _Value]
    column: int
    wide: bool = True


def compile_expression(text: str, *, columns: Mapping[str, Kind] = PREDICTION_COLUMNS) -> Expression:
    """Parses and checks a condition, and compiles it both ways.

    Parameters
    ----------
    text : str
        The condition; line breaks count as spaces.
    columns : mapping of name to Kind
        What may be read; ``segments.*`` stands for every segment.

    Raises
    ------
    ExpressionError
        For everything outside the grammar, names that `columns` has not, and kinds that do not fit; with the column.
    """
    # Imported here: sqlglot takes 0.2 s to load, and a sidecar without expressions never needs it.
    from sqlglot import errors, exp
    from sqlglot.dialects.clickhouse import ClickHouse

    shown = re.sub(r"\s", " ", text)
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"expected at most {MAX_LENGTH} characters, got {len(text)}", text=shown[:80], column=1)
    if comment := re.search(r"--|#|/\*", _QUOTED.sub(lambda quoted: "'" * len(quoted[0]), shown)):
        raise ExpressionError("comments are not part of the language of conditions", text=shown, column=comment.start() + 1)
    try:
        tokens = ClickHouse().tokenize(shown)
    except errors.TokenError:
        raise ExpressionError("a quote is not closed", text=shown, column=_open_quote(shown)) from None
    if not tokens:
        raise ExpressionError("expected a condition, got nothing", text=shown, column=1)
    _check_tokens(tokens, text, shown, columns)
    try:
        tree = ClickHouse().parser().parse_into(exp.Condition, tokens, shown)[0]
    except errors.ParseError as error:
        raise ExpressionError(_parse_fault(error), text=shown, column=_parse_column(error)) from None
    except RecursionError:
        raise ExpressionError(f"nested more than {MAX_DEPTH} deep; simplify it", text=shown, column=1) from None
    assert tree is not None
    compiler = _Compiler(shown, columns)
    term = compiler.term(tree, 0)
    if term.kind not in (Kind.BOOL, Kind.NULL):
        compiler.refuse(f"expected a condition, got {term.kind}; compare it with something", term.column)
    return Expression(text, frozenset(compiler.read), term.sql, term.run)


# Tokens. A place is exact here, so whatever can be refused by its tokens is.

_FUNCTIONS = {
    "abs": (1, 1),
    "lower": (1, 1),
    "upper": (1, 1),
    "length": (1, 1),
    "if": (3, 3),
    "coalesce": (1, 16),
    "least": (2, 8),
    "greatest": (2, 8),
}
_OPERATORS = frozenset({"=", "!=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "(", ")", ",", "]"})
_AFTER: dict[str, tuple[str | tuple[str, ...], str]] = {
    "IN": ("(", "a list in parentheses"),
    "LIKE": ("'", "a text in single quotes"),
    "IS": (("NULL", "NOT"), "NULL or NOT NULL"),
}
_NOTHING: tuple[str | tuple[str, ...], str] = ("", "")
_WORDS = frozenset({"AND", "OR", "NOT", "NULL", "BETWEEN", "TRUE", "FALSE", *_AFTER})
_NUMBER = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+)?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.|'')*'?")


def _check_tokens(tokens: Sequence[Any], text: str, shown: str, columns: Mapping[str, Kind]) -> None:
    def refuse(message: str, token: Any) -> NoReturn:
        raise ExpressionError(message, text=shown, column=token.start + 1)

    words = [shown[token.start : token.end + 1] for token in tokens] + ["", "", ""]
    depth, in_list = 0, False
    for index, token in enumerate(tokens):
        kind, word, after, follows = token.token_type.name, words[index], (*tokens, token)[index + 1], words[index + 1]
        depth += {"(": 1, ")": -1}.get(word, 0)
        if depth > MAX_DEPTH:
            refuse(f"parentheses are nested more than {MAX_DEPTH} deep", token)
        if in_list and kind not in ("NUMBER", "STRING") and word not in {"(", ")", ",", "-"}:
            refuse(f"IN takes a list of numbers or texts, got {word}", token)
        in_list = (in_list and word != ")") or (index > 0 and words[index - 1].upper() == "IN")
        before = words[index - 1].upper() if index else ""
        if word == ")" and before == "(" and index > 1 and words[index - 2].upper() == "IN":
            refuse("IN takes at least one number or text", token)
        if before == "NOT" and index > 1 and words[index - 2].upper() == "IS" and word.upper() != "NULL":
            refuse(f"IS NOT takes NULL, got {word}", token)
        if before in ("", "(") and word in _OPERATORS - {"-", "(", ")"}:
            refuse(f"expected something before {word}", token)
        if kind == "STRING":
            if index and tokens[index - 1].token_type.name == "STRING":
                refuse(f"did not expect {word} here", token)
            if word[0] != "'":
                refuse(f"text is written in plain single quotes, got {word}", token)
            if re.search(r"[\r\n]", text[token.start : token.end + 1]):
                refuse("text may not hold a line break; write \\n", token)
        elif kind == "NUMBER":
            if not _NUMBER.fullmatch(word):
                refuse(f"expected a number such as 12, 0.5 or 1e3, got {word}", token)
        elif kind == "IDENTIFIER" or (_NAME.fullmatch(word) and word.upper() not in _WORDS and follows != "("):
            name = token.text
            if name == "segments" and follows == "[":
                continue
            if name not in columns and f"segments.{name}" not in columns:
                if kind not in ("VAR", "IDENTIFIER"):
                    refuse(f"{word} is not part of the language of conditions", token)
                hint = f" (text is written in single quotes: '{name}')" if kind == "IDENTIFIER" else ""
                refuse(f"there is no column {name}{hint}; expected one of {_listed(columns)}", token)
        elif word.upper() in _WORDS:
            starts, expected = _AFTER.get(word.upper(), _NOTHING)
            if not follows.upper().startswith(starts) or (expected and not follows):
                refuse(f"{word.upper()} takes {expected}, got {follows or 'the end'}", after)
        elif _NAME.fullmatch(word):
            if word.lower() not in _FUNCTIONS:
                refuse(f"there is no function {word}; expected one of {', '.join(_FUNCTIONS)}", token)
        elif word == "[":
            if (
                words[index - 1] != "segments"
                or tokens[min(index + 1, len(tokens) - 1)].token_type.name != "STRING"
                or words[index + 2] != "]"
            ):
                refuse("square brackets are for segments alone, as in segments['country']", token)
        elif word not in _OPERATORS:
            refuse(f"{word} is not part of the language of conditions", token)


def _listed(columns: Mapping[str, Kind]) -> str:
    return ", ".join("segments['…']" if name == "segments.*" else name.removeprefix("segments.") for name in columns)


# Parts. Each operator makes its SQL and its numpy side by side, so that a reader sees both meanings at once.

_COMPARISONS = {"eq": "=", "neq": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "div": "/", "mod": "%"}
_UFUNCS: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": np.equal, "!=": np.not_equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide,
}  # fmt: skip
_ZEROS = frozenset({"0", "(0)", "0.0", "(-0.0)"})
_NUMBERS = (Kind.INTEGER, Kind.FLOAT)
_NULL_OF = {Kind.INTEGER: "Nullable(Int64)", Kind.FLOAT: "Nullable(Float64)", Kind.TEXT: "Nullable(String)", Kind.BOOL: "Nullable(UInt8)"}
_DTYPE = {Kind.INTEGER: np.int64, Kind.FLOAT: np.float64, Kind.TEXT: np.int64, Kind.BOOL: np.bool_, Kind.NULL: np.bool_}


class _Compiler:
    """Walks sqlglot's tree. `term` dispatches on the node's key; what has no method is outside the grammar."""

    def __init__(self, text: str, columns: Mapping[str, Kind]) -> None:
        self.text, self.columns, self.read = text, columns, set[str]()

    def refuse(self, message: str, column: int) -> NoReturn:
        raise ExpressionError(message, text=self.text, column=column)

    def term(self, node: Any, depth: int, near: int = 1) -> _Term:
        column = min((part.meta["start"] + 1 for part in node.walk() if "start" in part.meta), default=near)
        if depth > 4 * MAX_DEPTH:
            self.refuse(f"nested more than {4 * MAX_DEPTH} deep; simplify it", column)
        key = node.key
        if key in ("and", "or"):
            return self._connect(key, [self._condition(part, depth + 1, column) for part in _flat(node)], column)
        if key in _COMPARISONS:
            left, right = (self.term(node.args[side], depth + 1, column) for side in ("this", "expression"))
            return self._compare(_COMPARISONS[key], left, right)
        if key in _ARITHMETIC:
            left, right = (self._number(node.args[side], depth + 1, column) for side in ("this", "expression"))
            if key == "mod" and (node.expression.key != "literal" or right.sql in _ZEROS):
                self.refuse("the right side of % must be a number above 0, written out", right.column)
            return self._arithmetic(_ARITHMETIC[key], left, right, column)
        method = getattr(self, f"_{key}", None)
        if method is None or not hasattr(node, "this"):
            self.refuse(f"{key} is not part of the language of conditions", column)
        result: _Term = method(node, depth + 1, column)
        return result

    def _condition(self, node: Any, depth: int, near: int) -> _Term:
        return self._of((Kind.BOOL,), self.term(node, depth, near))

    def _number(self, node: Any, depth: int, near: int) -> _Term:
        return self._of(_NUMBERS, self.term(node, depth, near))

    def _of(self, kinds: tuple[Kind, ...], term: _Term) -> _Term:
        if term.kind is Kind.NULL:
            return _null_of(kinds[-1], term.column)
        if term.kind not in kinds:
            self.refuse(f"expected {kinds[-1]}, got {term.kind}", term.column)
        return term

    def _same(self, terms: Sequence[_Term], what: str) -> list[_Term]:
        """The terms as one kind: integers become floats beside floats, NULL becomes anything; text and numbers do not mix."""
        kinds = {term.kind for term in terms} - {Kind.NULL}
        if len(kinds) > 1 and not kinds <= set(_NUMBERS):
            first = next(term for term in terms if term.kind is not Kind.NULL)
            alike = _NUMBERS if first.kind in _NUMBERS else (first.kind,)
            other = next(term for term in terms if term.kind not in (*alike, Kind.NULL))
            self.refuse(f"{what} {first.kind} and {other.kind}; both sides must be of one kind", other.column)
        kind = Kind.FLOAT if len(kinds) > 1 else next(iter(kinds), Kind.NULL)
        return [_cast(term, kind) for term in terms]

    # leaves

    def _paren(self, node: Any, depth: int, column: int) -> _Term:
        return self.term(node.this, depth, column)

    def _literal(self, node: Any, _depth: int, column: int, sign: int = 1) -> _Term:
        text: str = node.this
        if node.is_string:
            return _constant(Kind.TEXT, _quoted(text), np.zeros(1, np.int64), column, (text,))
        if text.isdigit():
            number = sign * int(text)
            if abs(number) >= 2**63:
                self.refuse(f"{text} does not fit into 64 bits; write {text}.0 for a float", column)
            return _constant(Kind.INTEGER, f"({number})" if sign < 0 else str(number), np.array([number]), column)
        value = sign * float(text)
        if np.isinf(value):
            self.refuse(f"{text} is too large for a float", column)
        return _constant(Kind.FLOAT, f"({value!r})" if sign < 0 else repr(value), np.array([value]), column)

    def _null(self, _node: Any, _depth: int, column: int) -> _Term:
        return _null_of(Kind.NULL, column)

    def _boolean(self, node: Any, _depth: int, column: int) -> _Term:
        return _constant(Kind.BOOL, "true" if node.this else "false", np.array([bool(node.this)]), column)

    def _column(self, node: Any, _depth: int, column: int) -> _Term:
        name: str = node.name
        return self._read(name if name in self.columns else f"segments.{name}", column)

    def _bracket(self, node: Any, _depth: int, column: int) -> _Term:
        name = f"segments.{node.expressions[0].this}"
        if name not in self.columns and "segments.*" not in self.columns:
            self.refuse(f"there is no segment {name.removeprefix('segments.')}; expected one of {_listed(self.columns)}", column)
        return self._read(name, column)

    def _read(self, name: str, column: int) -> _Term:
        kind = self.columns.get(name, Kind.TEXT)
        self.read.add(name)
        if name.startswith("segments."):
            key = _quoted(name.removeprefix("segments."))
            sql = f"if(mapContains(segments, {key}), segments[{key}], NULL)"
        elif name == "duration_ms":
            sql = "(duration_ns / 1e6)"
        else:
            sql = name if _NAME.fullmatch(name) else f"`{name.replace(chr(92), chr(92) * 2).replace('`', chr(92) + '`')}`"
            sql = f"toInt64({sql})" if kind is Kind.INTEGER else sql
        return _Term(kind, sql, lambda columns: _column_value(name, kind, columns), column)

    # conditions

    def _connect(self, key: str, terms: Sequence[_Term], column: int) -> _Term:
        """Kleene's logic: false decides AND, true decides OR, even beside NULL."""
        decides = key == "or"

        def run(columns: Columns) -> _Value:
            values = [term.run(columns) for term in terms]
            decided: Any = np.False_
            unknown: Any = np.False_
            for value in values:
                is_null = np.False_ if value.null is None else value.null
                decided = decided | ((value.values == decides) & ~is_null)
                unknown = unknown | is_null
            result = decided if decides else ~decided
            return _Value(np.atleast_1d(result), np.atleast_1d(unknown & ~decided))

        return _Term(Kind.BOOL, "(" + f" {key.upper()} ".join(term.sql for term in terms) + ")", run, column)

    def _not(self, node: Any, depth: int, column: int) -> _Term:
        term = self._condition(node.this, depth, column)

        def run(columns: Columns) -> _Value:
            value = term.run(columns)
            return _Value(~value.values.astype(np.bool_), value.null)

        return _Term(Kind.BOOL, f"(NOT {term.sql})", run, column)

    def _is(self, node: Any, depth: int, column: int) -> _Term:
        term = self.term(node.this, depth, column)
        if node.expression.key != "null":
            self.refuse("IS takes NULL or NOT NULL", column)

        def run(columns: Columns) -> _Value:
            value = term.run(columns)
            return _Value(np.zeros(value.values.shape, np.bool_) if value.null is None else value.null)

        return _Term(Kind.BOOL, f"isNull({term.sql})", run, column)

    def _compare(self, operator: str, left: _Term, right: _Term) -> _Term:
        kinds = {left.kind, right.kind}
        if not kinds <= {*_NUMBERS, Kind.NULL}:
            left, right = self._same([left, right], "cannot compare")
        elif Kind.NULL in kinds:
            left, right = (self._of((Kind.INTEGER, Kind.FLOAT), term) for term in (left, right))
        if left.kind is Kind.BOOL and operator not in ("=", "!="):
            self.refuse("conditions have no order; expected = or !=", left.column)

        def run(columns: Columns) -> _Value:
            a, b = left.run(columns), right.run(columns)
            null = _either(a.null, b.null)
            if left.kind is Kind.TEXT:
                x, y = _ranks(a, b)
            elif left.kind is not right.kind:
                if left.kind is Kind.INTEGER:
                    order, comparable = _order(a.values, b.values)
                else:
                    order, comparable = _order(b.values, a.values)
                    order = -order
                result = _UFUNCS[operator](order, 0)
                return _Value(result | ~comparable if operator == "!=" else result & comparable, null)
            else:
                x, y = a.values, b.values
            return _Value(_UFUNCS[operator](x, y), null)

        sql = f"({left.sql} {operator} {right.sql})"
        if operator in ("=", "!=") and Kind.FLOAT in (left.kind, right.kind) and (zero := _ZEROS & {left.sql, right.sql}):
            # ClickHouse makes an IN of a chain of equalities, and looks 0.0 and -0.0 up as different keys.
            equal = f"(abs({right.sql if left.sql in zero else left.sql}) <= 0)"
            sql = equal if operator == "=" else f"(NOT {equal})"
        return _Term(Kind.BOOL, sql, run, left.column)

    def _between(self, node: Any, depth: int, column: int) -> _Term:
        term, low, high = (self.term(node.args[name], depth, column) for name in ("this", "low", "high"))
        return self._connect("and", [self._compare(">=", term, low), self._compare("<=", term, high)], column)

    def _in(self, node: Any, depth: int, column: int) -> _Term:
        """As equalities: ClickHouse's own IN would first turn the list into the column's type."""
        if not node.expressions or node.args.get("query") or node.args.get("field"):
            self.refuse("IN takes a list of numbers or texts in parentheses", column)
        term = self.term(node.this, depth, column)
        items = [self.term(item, depth, column) for item in node.expressions]
        tests = [self._compare("=", term, item) for item in items]
        if term.kind is not Kind.TEXT:
            return self._connect("or", tests, column) if len(tests) > 1 else tests[0]
        listed = _Value(np.arange(len(items)), None, tuple(item.run({}).words[0] for item in items))

        def run(columns: Columns) -> _Value:
            value = term.run(columns)
            wanted = set(listed.words)
            return _Value(np.array([word in wanted for word in value.words] or [False])[value.values], value.null)

        return _Term(Kind.BOOL, f"({term.sql} IN ({', '.join(item.sql for item in items)}))", run, column)

    def _like(self, node: Any, depth: int, column: int) -> _Term:
        term = self._of((Kind.TEXT,), self.term(node.this, depth, column))
        pattern = node.expression
        if pattern.key != "literal" or not pattern.is_string:
            self.refuse("LIKE takes a text in single quotes", column)
        if re.search(r"(?<!\\)(\\\\)*\\([^%_\\]|$)", pattern.this, re.DOTALL):
            place = pattern.meta.get("start", column - 1) + 1
            self.refuse(r"in a LIKE pattern a backslash stands before %, _ or another backslash alone (written '\\\\' in quotes)", place)
        regex = like_regex(pattern.this)

        def run(columns: Columns) -> _Value:
            value = term.run(columns)
            return _Value(np.array([regex.fullmatch(word) is not None for word in value.words] or [False])[value.values], value.null)

        return _Term(Kind.BOOL, f"({term.sql} LIKE {_quoted(pattern.this)})", run, column)

    # numbers

    def _neg(self, node: Any, depth: int, column: int) -> _Term:
        if node.this.key == "literal" and not node.this.is_string:
            return self._literal(node.this, depth, column, -1)
        term = self._number(node.this, depth, column)

        def run(columns: Columns) -> _Value:
            value = term.run(columns)
            return _Value(np.negative(value.values), value.null)

        return _Term(term.kind, f"(-{_wide(term)})", run, column)

    def _arithmetic(self, operator: str, left: _Term, right: _Term, column: int) -> _Term:
        whole = left.kind is right.kind is Kind.INTEGER and operator != "/"

        def run(columns: Columns) -> _Value:
            a, b = left.run(columns), right.run(columns)
            null = _either(a.null, b.null)
            x, y = (value.values.astype(np.int64 if whole else np.float64, copy=False) for value in (a, b))
            if operator != "%":
                return _Value(_UFUNCS[operator](x, y), null)
            return _Value(np.fmod(x, y) if whole else x - np.trunc(x / y) * y, null)  # of floats: ClickHouse's own formula, not fmod

        wide = not whole or left.wide or right.wide
        sql = f"({left.sql if wide else _wide(left)} {operator} {right.sql})"
        return _Term(Kind.INTEGER if whole else Kind.FLOAT, sql, run, column, operator != "%")

    def _abs(self, node: Any, depth: int, column: int) -> _Term:
        term = self._arguments(node, depth, column, _NUMBERS)[0]

        def run(columns: Columns) -> _Value:
            value = term.run(columns)
            return _Value(np.abs(value.values), value.null)

        sql = f"abs({term.sql})"
        return _Term(term.kind, f"toInt64({sql})" if term.kind is Kind.INTEGER else sql, run, column)

    def _least(self, node: Any, depth: int, column: int) -> _Term:
        return self._extreme("least", np.less, node, depth, column)

    def _greatest(self, node: Any, depth: int, column: int) -> _Term:
        return self._extreme("greatest", np.greater, node, depth, column)

    def _extreme(self, name: str, better: Callable[[Any, Any], Any], node: Any, depth: int, column: int) -> _Term:
        """NULL and NaN lose to every number. Spelt out in SQL: servers differ over NULL, and over NaN by the argument's place."""
        terms = self._same(self._arguments(node, depth, column, _NUMBERS), "cannot compare")
        kind = terms[0].kind

        def run(columns: Columns) -> _Value:
            best = terms[0].run(columns)
            for term in terms[1:]:
                value = term.run(columns)
                null = np.zeros(1, np.bool_) if best.null is None else best.null
                wins = np.isnan(best.values) | better(value.values, best.values)
                take = null | (wins if value.null is None else wins & ~value.null)
                best = _Value(
                    np.where(take, value.values, best.values), None if value.null is None or best.null is None else null & value.null
                )
            return best

        nan = "isNaN(a) OR " if kind is Kind.FLOAT else ""
        wins = f"isNull(a) OR (isNotNull(x) AND ({nan}x {'<' if name == 'least' else '>'} a))"
        items = f"CAST([{', '.join(term.sql for term in terms)}], 'Array({_NULL_OF[kind]})')"
        return _Term(kind, f"arrayFold((a, x) -> if({wins}, x, a), {items}, CAST(NULL, '{_NULL_OF[kind]}'))", run, column)

    # text

    def _lower(self, node: Any, depth: int, column: int) -> _Term:
        return self._mapped("lower", str.lower, node, depth, column)

    def _upper(self, node: Any, depth: int, column: int) -> _Term:
        return self._mapped("upper", str.upper, node, depth, column)

    def _mapped(self, name: str, change: Callable[[str], str], node: Any, depth: int, column: int) -> _Term:
        term = self._arguments(node, depth, column, (Kind.TEXT,))[0]

        def run(columns: Columns) -> _Value:
            value = term.run(columns)
            words = tuple(re.sub("[A-Za-z]+", lambda letters: change(letters[0]), word) for word in value.words)
            return _Value(value.values, value.null, words)

        return _Term(Kind.TEXT, f"{name}({term.sql})", run, column)

    def _length(self, node: Any, depth: int, column: int) -> _Term:
        term = self._arguments(node, depth, column, (Kind.TEXT,))[0]

        def run(columns: Columns) -> _Value:
            value = term.run(columns)
            return _Value(np.array([len(word.encode()) for word in value.words] or [0], np.int64)[value.values], value.null)

        return _Term(Kind.INTEGER, f"toInt64(length({term.sql}))", run, column)

    # choices

    def _coalesce(self, node: Any, depth: int, column: int) -> _Term:
        terms = self._same(self._arguments(node, depth, column), "cannot choose between")

        def run(columns: Columns) -> _Value:
            result = terms[0].run(columns)
            for term in terms[1:]:
                if result.null is None:
                    break
                result = _choose(~result.null, None, result, term.run(columns))
            return result

        sql = f"coalesce({', '.join(term.sql for term in terms)})"
        return _Term(terms[0].kind, f"toInt64({sql})" if terms[0].kind is Kind.INTEGER else sql, run, column)

    def _if(self, node: Any, depth: int, column: int) -> _Term:
        condition, first, second = self._arguments(node, depth, column)
        condition = self._of((Kind.BOOL,), condition)
        first, second = self._same([first, second], "cannot choose between")

        def run(columns: Columns) -> _Value:
            value = condition.run(columns)
            return _choose(value.values.astype(np.bool_), value.null, first.run(columns), second.run(columns))

        sql = f"if({condition.sql}, {first.sql}, {second.sql})"
        return _Term(first.kind, f"toInt64({sql})" if first.kind is Kind.INTEGER else sql, run, column)

    def _arguments(self, node: Any, depth: int, column: int, kinds: tuple[Kind, ...] = ()) -> list[_Term]:
        given = [node.args.get("this"), node.args.get("true"), node.args.get("false"), *(node.args.get("expressions") or [])]
        nodes = [part for part in given if part is not None and hasattr(part, "walk")]
        fewest, most = _FUNCTIONS[node.key]
        if not fewest <= len(nodes) <= most:
            expected = str(fewest) if fewest == most else f"{fewest} to {most}"
            self.refuse(f"{node.key} takes {expected} arguments, got {len(nodes)}", column)
        terms = [self.term(part, depth, column) for part in nodes]
        return [self._of(kinds, term) for term in terms] if kinds else terms


def _flat(node: Any) -> list[Any]:
    """The operands of a chain of one connective, left to right, without recursion."""
    parts: list[Any] = []
    waiting = [node]
    while waiting:
        here = waiting.pop()
        if here.key == node.key:
            waiting += [here.args["expression"], here.this]
        else:
            parts.append(here)
    return parts


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _constant(kind: Kind, sql: str, values: Values, column: int, words: tuple[str, ...] = ()) -> _Term:
    value = _Value(values, None, words)
    return _Term(kind, sql, lambda _columns: value, column, kind is not Kind.INTEGER)


def _null_of(kind: Kind, column: int) -> _Term:
    value = _Value(np.zeros(1, _DTYPE[kind]), np.ones(1, np.bool_), ("",) if kind is Kind.TEXT else ())
    return _Term(kind, f"CAST(NULL, '{_NULL_OF.get(kind, 'Nullable(UInt8)')}')", lambda _columns: value, column)


def _cast(term: _Term, kind: Kind) -> _Term:
    if term.kind is kind:
        return term
    if term.kind is Kind.NULL:
        return _null_of(kind, term.column)

    def run(columns: Columns) -> _Value:
        value = term.run(columns)
        return _Value(value.values.astype(np.float64), value.null)

    return _Term(Kind.FLOAT, f"toFloat64({term.sql})", run, term.column)


def _wide(term: _Term) -> str:
    return f"toInt64({term.sql})" if term.kind is Kind.INTEGER and not term.wide else term.sql


def _either(a: Nulls, b: Nulls) -> Nulls:
    return b if a is None else a if b is None else a | b


def _column_value(name: str, kind: Kind, columns: Columns) -> _Value:
    if name not in columns:
        if name == "duration_ms" and "duration_ns" in columns:
            duration = columns["duration_ns"]
            return _Value(duration.values / 1e6, duration.null)
        if name.startswith("segments."):
            return _Value(np.zeros(1, np.int64), np.ones(1, np.bool_), ("",))
        raise KeyError(f"the expression reads column {name}, which the rows do not have; they have {', '.join(columns)}")
    column: Column = columns[name]
    if kind is Kind.TEXT:
        return _Value(column.values, column.null, column.categories or ("",))
    return _Value(column.values.astype(_DTYPE[kind], copy=False), column.null)


def _ranks(a: _Value, b: _Value) -> tuple[Values, Values]:
    """Texts as their places in one sorted list. Python sorts by code point, which is the order of UTF-8's bytes."""
    place = {word: rank for rank, word in enumerate(sorted({*a.words, *b.words}))}
    first, second = (np.array([place[word] for word in value.words])[value.values] for value in (a, b))
    return first, second


def _order(whole: Values, real: Values) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """(-1, 0 or 1, comparable) of int64 against float64 by their exact values. Rounding keeps order, so only ties need a second look."""
    rounded = whole.astype(np.float64)
    order = (rounded > real).astype(np.int8) - (rounded < real).astype(np.int8)
    tie = rounded == real
    if tie.any():
        exact = np.where(tie & (real < 2.0**63), real, 0).astype(np.int64)
        closer = (whole > exact).astype(np.int8) - (whole < exact).astype(np.int8)
        order = np.where(tie, np.where(real >= 2.0**63, -1, closer), order).astype(np.int8)
    return order, ~np.isnan(real) & np.ones(order.shape, np.bool_)


def _choose(condition: NDArray[np.bool_], unknown: Nulls, first: _Value, second: _Value) -> _Value:
    """`first` where the condition is true, else `second`: an unknown condition is not true."""
    take = condition if unknown is None else condition & ~unknown
    null = None
    if first.null is not None or second.null is not None:
        null = np.where(take, False if first.null is None else first.null, False if second.null is None else second.null)
    if first.words or second.words:
        moved = second.values.astype(np.int64) + len(first.words)
        return _Value(np.where(take, first.values.astype(np.int64), moved), null, first.words + second.words)
    return _Value(np.where(take, first.values, second.values), null)


def like_regex(pattern: str) -> re.Pattern[str]:
    """A LIKE pattern as a regular expression whose cost is bounded: what stands before a later % is found once and not tried again."""
    parts, here = [""], iter(pattern)
    for letter in here:
        if letter == "%":
            parts.append("")
        else:
            parts[-1] += "." if letter == "_" else re.escape(next(here) if letter == "\\" else letter)
    if len(parts) == 1:
        return re.compile(parts[0], re.DOTALL)
    middle = "".join(f"(?>.*?{part})" for part in parts[1:-1] if part)
    return re.compile(f"{parts[0]}{middle}.*{parts[-1]}", re.DOTALL)


# Faults of the parser.


def _parse_fault(error: Any) -> str:
    description = error.errors[0]["description"] if error.errors else str(error)
    highlight = error.errors[0]["highlight"] if error.errors else ""
    if "Required keyword" in description:
        return f"expected something after or before {highlight}"
    if "Expecting" in description:
        return f"expected {description.removeprefix('Expecting ')} after {highlight}"
    return f"did not expect {highlight or 'this'} here"


def _parse_column(error: Any) -> int:
    return max(1, error.errors[0]["col"] - len(error.errors[0]["highlight"]) + 1) if error.errors else 1


def _open_quote(text: str) -> int:
    """1-based place of the quote or comment that is not closed."""
    masked = _QUOTED.sub(lambda quoted: "_" * len(quoted[0]) if len(quoted[0]) > 1 and quoted[0][-1] == "'" else quoted[0], text)
    places = [place for mark in ("'", '"', "`", "/*") if (place := masked.find(mark)) >= 0]
    return min(places, default=0) + 1
