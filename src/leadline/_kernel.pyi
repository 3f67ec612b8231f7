"""The kernel: what is done per span or per value, in Rust. This file is its manual.

The kernel has no clock, no input or output, no threads and no configuration beyond arguments. It releases the GIL
while it works on bytes. Hostile bytes raise `DecodeError` with an offset; they never panic and never take memory
beyond a small multiple of their own size. Times are nanoseconds since 1970 (int64).
"""

from collections.abc import Mapping, Sequence
from typing import Any, final

from numpy import bool_, float64, uint8, uint64
from numpy.typing import NDArray

_Bytes = bytes  # where a class has a property of that name

class DecodeError(ValueError):
    """The bytes are not what they claim. `offset` is where the walk stopped, `what` is what it expected there."""

    offset: int
    what: str

@final
class Dialect:
    """A compiled table of which attribute means what, made from `decode/dialects/*.yaml`.

    Parameters
    ----------
    rules : sequence of (scope, key, field)
        In order of precedence: for a field that several attributes fill, the earliest rule wins.
        `scope` is ``"span"``, ``"scope"`` or ``"resource"``. `key` is an attribute key; ``"prefix.*"`` matches every
        key that begins with ``prefix.`` and is not matched exactly by another rule. `field` is one of `FIELDS`,
        or ``"feature:<name>"``, or ``"segment:<name>"``. A segment that no attribute fills takes the feature of its
        name, in whatever form that came. Three fields take a ``"prefix.*"`` of spans, of which the longest counts: with ``"feature"``
        the rest of the key is the name, ``"unused"`` passes over the key, and ``"unknown"`` notes it as ``attribute_unknown``.

    Raises
    ------
    ValueError
        For a field or scope outside the list.
    """

    def __new__(cls, rules: Sequence[tuple[str, str, str]]) -> Dialect: ...

@final
class SpanBatch:
    """A decoded trace request: columns over its own bytes. Immutable; shared by the sketches and the trace buffer."""

    @property
    def size(self) -> int:
        """Bytes of the request."""
    @property
    def spans(self) -> int:
        """Spans accepted."""
    @property
    def rejected(self) -> dict[str, int]:
        """Spans refused one by one: reason -> count.

        ``trace_id_invalid``, ``span_id_invalid`` (not 16 and 8 bytes, or all zero); ``batch_size_invalid`` (not an integer, or negative);
        ``batch_too_large`` (above `max_rows_per_span`, or more rows than the span has bytes); ``expansion_too_large``.
        """
    @property
    def predictions(self) -> dict[str, int]:
        """Predictions found: model -> count."""
    @property
    def notes(self) -> dict[str, int]:
        """What was read but is doubtful: name -> count.

        Of times: ``event_time_clamped``, ``end_missing``, ``end_before_start`` (the duration is 0). ``tracestate_malformed``: its `ot` entry was not
        believed. Of values, left out: ``field_type_unexpected``, ``feature_not_scalar``, ``feature_duplicate`` (given by several attributes;
        the first counts), ``batch_length_mismatch``. Of whole vectors, left out: ``features_length_mismatch``, ``features_schema_unknown``,
        ``features_encoding_unknown``, ``features_base64_malformed``, ``features_json_malformed``. ``attribute_unknown``: a span's attribute
        is in the namespace of a convention and not one of its names.
        """
    def values(self) -> list[tuple[int, str, float | str | None]]:
        """(prediction, series, value) of all that is sketched; slow, to look at. None: announced, and missing."""
    def rows(self) -> list[bytes]:
        """Of each prediction, the beginning of its row of `predictions` (RowBinary, up to ``inbound_weight``); to look at."""

def decode_traces(
    data: bytes,
    dialect: Dialect,
    receive_ns: int,
    *,
    max_late_ns: int = 604_800_000_000_000,
    max_rows_per_span: int = 10_000,
    max_depth: int = 64,
) -> SpanBatch:
    """Walks an ExportTraceServiceRequest (protobuf). Cost: about 0.25 µs a span (20 features each third); the GIL is released.

    Every message is checked to its leaves; unknown fields are passed over, groups refused. Texts need not be UTF-8.

    Parameters
    ----------
    data : bytes
        Kept by the batch, not copied.
    max_late_ns : int
        Event times before `receive_ns` less this, or more than 5 s after it, are moved there and noted.
    max_rows_per_span : int
        A span that claims a larger batch is rejected, as is one whose rows would take more than 64 times the request (1 GiB at most).
    max_depth : int, 1 to 1000
        Levels that arrays and maps may nest.

    Raises
    ------
    DecodeError
        If the bytes are not a well-formed request.
    """

_JsonField = tuple[Sequence[str], int, str, bool, bool, int | Sequence[tuple[str, int]] | None]

@final
class JsonSchema:
    """What each member of a JSON document becomes in protobuf.

    Parameters
    ----------
    messages : sequence of (nests, fields)
        The first is the document itself. `nests`: it holds messages of its own kind, whose levels are counted (64 at most), and a null
        among them is an empty one. A field is (names, number, kind, repeated, takes_null, detail). `kind` is protobuf's name of a type
        but for ``"id"``, hex digits of `detail` bytes; `detail` of a ``"message"`` is its index, of an ``"enum"`` its names and numbers.
        `takes_null`: a null is NaN, and not the absence of a value.

    Raises
    ------
    ValueError
        For a kind outside that list.
    """

    def __new__(cls, messages: Sequence[tuple[bool, Sequence[_JsonField]]]) -> JsonSchema: ...

def transcode_json(schema: JsonSchema, document: bytes, limit: int) -> bytes:
    """The protobuf form of a JSON document, of at most `limit` bytes. Cost: about 4 ns a byte; the GIL is released.

    Raises
    ------
    DecodeError
        If the document is not JSON or not of the schema; before `what`, the text has the path of the member at fault, where there is one.
    OverflowError
        If the result would exceed `limit`.
    """

@final
class RecordBatch:
    """A decoded request of metrics or logs: rows that lack their collector and segment. Immutable."""

    @property
    def items(self) -> int:
        """Data points or records accepted."""
    @property
    def rejected(self) -> dict[str, int]:
        """Items refused one by one: ``too_many`` (past `max_items`); ``no_name`` (of metrics without a name)."""
    @property
    def size(self) -> int:
        """Bytes of the rows."""
    @property
    def events(self) -> list[bytes]:
        """Of logs: the encoded LogRecords whose event was asked for; they are among the rows too."""
    def rows(self, collector: str, segment: int) -> list[tuple[str, bytes, int]]:
        """(table, RowBinary in the order of `RECORD_COLUMNS`, rows). Cost: a copy; the GIL is released."""

def decode_logs(
    data: bytes,
    receive_ns: int,
    *,
    events: Sequence[str],
    max_late_ns: int,
    max_items: int,
    max_repeated: int,
    max_depth: int = 64,
) -> RecordBatch:
    """Walks an ExportLogsServiceRequest (protobuf), whole, and makes its rows. Cost: about 0.4 µs a record; the GIL is released.

    A record's time (else the time it was observed) is kept between `receive_ns` less `max_late_ns` and 5 s after it; where there is
    none, it is `receive_ns`. Texts need not be UTF-8; values become texts as those of spans do.

    Parameters
    ----------
    events : sequence of str
        Names of events (the field, or the attribute ``event.name``) whose records are given out too.
    max_items : int
        Records above this are rejected.
    max_repeated : int, bytes
        What rows may repeat of resources and scopes: a large one above many tiny records is an attack.
    max_depth : int
        Levels that arrays and maps may nest.

    Raises
    ------
    DecodeError
        If the bytes are not a well-formed request.
    OverflowError
        If rows repeat more than `max_repeated`.
    """

def decode_metrics(
    data: bytes, receive_ns: int, *, max_late_ns: int, max_items: int, max_repeated: int, max_depth: int = 64
) -> RecordBatch:
    """Walks an ExportMetricsServiceRequest (protobuf), whole, and makes its rows. Cost: about 0.4 µs a point; the GIL is released.

    Arguments and errors as of `decode_logs`; a point's time is kept as a record's is, its start is not.
    """

def prediction_columns(batches: Sequence[SpanBatch]) -> dict[str, Any]:
    """The slim rows of all predictions of `batches`, as columns, in order; what SLI expressions are evaluated on.

    Returns
    -------
    dict
        name -> `(values, null, categories)`: `values` is float64, int64 or uint32 codes; `null` a bool array or None;
        `categories` the list of strings that codes index (None for numbers). Names: the columns of
        `predictions` known at decode (`event_time` and `receive_time` as int64 ns, `duration_ns`, `score`,
        `confidence`, `inbound_weight`; the three ids left out) and ``segments.<name>`` for each segment that occurs.
    """

def decompress(encoding: str, data: bytes, limit: int) -> bytes:
    """Decompresses a whole ``gzip``, ``deflate`` (zlib) or ``zstd`` body into at most `limit` bytes.

    Raises
    ------
    DecodeError
        If the data is corrupt or cut short.
    OverflowError
        If it would exceed `limit`; nothing past the limit is produced.
    ValueError
        For another encoding.
    """

@final
class Sketches:
    """Per (model, version, role), series and event-time window: moments, atoms and digest, bins, categories.

    Bounded: past `max_groups` groups, `max_series` series a group, `max_categories` texts a series or `max_cells`
    (group, series, window) at once, values go to the group, series or category ``"(other)"`` and are counted in `overflow`.
    A cell takes about 0.5 KiB, when busy 20 KiB, at most 45 KiB; where they are many, a new one takes less.

    What is drained is a function of the batches added since the last drain, in their order, and of the references.

    Raises
    ------
    ValueError
        For a bound below 1, fewer than 16 atoms, a compression below 20, or a window that is not whole seconds.
    """

    def __new__(
        cls,
        window_ns: int = 60_000_000_000,
        *,
        max_groups: int = 1_000,
        max_series: int = 2_000,
        max_categories: int = 256,
        max_cells: int = 100_000,
        atoms: int = 1_024,
        compression: int = 200,
    ) -> Sketches: ...
    def set_references(
        self,
        references: Sequence[tuple[str, str, str, Sequence[float], Sequence[float], Sequence[str]]],
    ) -> None:
        """Frozen bins in force from here on: (model, series, bins_id, edges, atoms, categories).

        Two bins ids a series at most (while a reference changes). Layout of the counts. Numeric:
        ``[null, non_finite, under, bin…, over, atom…]``, bin i being edges[i] <= x < edges[i+1], the last closed;
        a value equal to an atom counts there alone. Categorical: ``[null, category…, unseen]``. A text under numeric
        bins counts as non-finite, a number under categorical ones as unseen. Windows that have begun keep the bins
        they began with until the next drain. Replaces all references set before.

        Raises
        ------
        ValueError
            If edges or atoms are not finite and ascending, categories repeat or come with edges, or a series has a
            third bins id; nothing changes then.
        """
    def add(self, batch: SpanBatch) -> None:
        """Counts every prediction and value. Cost: about 20 ns a value (benchmarks/sketches.py); the GIL is released."""
    @property
    def overflow(self) -> dict[str, int]:
        """What went to ``(other)`` since the last drain: ``groups`` -> predictions; ``series``, ``categories``, ``cells`` -> values."""
    def drain(self, collector: str, segment: int) -> tuple[bytes, int]:
        """The rows of table `sketches` (RowBinary, `SKETCH_COLUMNS`), sorted, and their number; then starts afresh."""
    def quantiles(self, series: str, levels: Sequence[float]) -> list[tuple[str, str, str, float, NDArray[float64]]]:
        """(model, version, role, weight, value at each level) over what has not been drained, its windows together.

        Changes nothing. Cost: about 20 µs a group and window.
        """

@final
class TraceBuffer:
    """Undecided traces: spans stay in their requests' bytes, held or not; a few aggregates a trace.

    A trace is due `wait_ns` after its first span was received, or `wait_after_root_ns` after its root was (0: that
    rule is off), or when the buffer is over `max_bytes` or `max_traces` (oldest first). Nothing is refused: over its bounds
    the buffer gives out just as many traces early as bring it back within them. `remember_kept` and
    `remember_dropped` bound the memory of decisions for late spans (64 and 40 bytes each, oldest out first; 0: none).

    Cost, spans of 350 bytes in traces of 3: `add` 50 ns a span, `due` and a `decide` that drops 60 to 120 ns, a kept span 1.1 µs;
    held are 70 bytes a span beside its own, and the encoded rows of its predictions. Any number of threads may use a buffer.
    """

    def __new__(
        cls,
        wait_ns: int,
        *,
        wait_after_root_ns: int = 0,
        max_bytes: int = 1 << 30,
        max_traces: int = 1_000_000,
        remember_kept: int = 100_000,
        remember_dropped: int = 1_000_000,
    ) -> TraceBuffer: ...
    def add(self, batch: SpanBatch, sequence: int, *, hold: bool = True) -> None:
        """Takes the spans of the request at journal position `sequence`.

        With `hold` its bytes stay in memory until the last of them is decided; without, they are asked for by `sources`.
        """
    @property
    def spans(self) -> int:
        """Spans waiting, late ones included."""
    @property
    def predictions(self) -> dict[str, int]:
        """Predictions waiting: model -> count."""
    @property
    def traces(self) -> int: ...
    @property
    def bytes(self) -> int:
        """Bytes held: the records about what waits, and each request that is held and of which a span waits, once and whole."""
    @property
    def late(self) -> int:
        """Spans of traces that were decided before; the next `decide` gives them out."""
    @property
    def oldest_sequence(self) -> int | None:
        """The lowest journal position that an undecided or late span came from."""
    def due(self, now_ns: int, limit: int, *, everything: bool = False, rows: bool = False) -> dict[str, Any]:
        """The traces to decide, as columns; nothing is removed.

        Ordered by the time at which each is due, then by id, so neither the table nor what `limit` cuts off depends on the order
        in which requests or spans came. `everything` gives all of them (at shutdown). Keys, n traces: ``trace_id`` uint8 (n, 16);
        ``randomness`` uint64 (the least `ot=rv` of its spans, else the last 56 bits of the id); ``threshold`` uint64, the largest
        inbound `th` (0 where there is none); ``sampled`` bool, whether there was one; ``spans`` uint32; ``bytes`` uint64;
        ``start_ns``, ``end_ns`` int64 (0: unknown; the end is not before the start); ``error`` bool; ``predictions`` uint32;
        ``service`` (codes uint32, names): that of the root, else of the earliest span. m predictions of them: ``p_trace`` uint32,
        index of its trace; ``p_group`` uint32 with ``groups`` the list of (model, version, role); ``p_duration_ns`` uint64. With
        `rows`, ``rows`` is what `prediction_columns` returns, for the m predictions.
        """
    def sources(self, trace_ids: NDArray[uint8], keep: NDArray[bool_]) -> list[int]:
        """Positions of the requests that are not held and that these decisions, or the late spans so far, keep a span of; ascending."""
    def decide(
        self,
        trace_ids: NDArray[uint8],
        keep: NDArray[bool_],
        threshold: NDArray[uint64],
        weight: NDArray[float64],
        sampling: NDArray[uint8],
        policy: NDArray[uint8],
        *,
        samplings: Sequence[str],
        policies: Sequence[str],
        plan_revision: int,
        collector: str,
        segment: int,
        bodies: Mapping[int, _Bytes] = ...,
        otlp: bool = False,
    ) -> Taken:
        """Takes the traces out, writes what is kept, remembers the decisions for late spans, and gives out the late spans so far.

        `bodies` are the requests that `sources` named. Spans of one that is not among them, or has another size than it had, are missing.

        One entry a trace. `threshold` is the `th` to emit (2**56 and above: none); `weight` the adjusted count of a kept trace (NaN: NULL);
        `sampling` and `policy` index the two lists. Ids that are not in the buffer are passed over (a replay from a
        later position meets them). A late span follows its trace; a late error of a dropped trace is kept with
        sampling ``rescued`` and weight 0, and so are its predictions. `th` is written into a span's trace state only where the
        span's own randomness is not below it, and erased otherwise, so that every one that goes out is true.

        Raises
        ------
        ValueError
            If the columns are of different lengths, or an index is outside its list.
        """
    def remember(
        self,
        trace_ids: NDArray[uint8],
        keep: NDArray[bool_],
        threshold: NDArray[uint64],
        weight: NDArray[float64],
        sampling: NDArray[uint8],
        policy: NDArray[uint8],
        *,
        samplings: Sequence[str],
        policies: Sequence[str],
        plan_revision: int,
    ) -> None:
        """Puts decisions of an earlier run into the memory for late spans, but for traces that wait again. The newest holds."""

@final
class Taken:
    """What a batch of decisions gave out."""

    @property
    def span_rows(self) -> bytes:
        """Rows of `otel_traces` (RowBinary, `SPAN_COLUMNS`)."""
    @property
    def spans_kept(self) -> int: ...
    @property
    def spans_dropped(self) -> int: ...
    @property
    def spans_rescued(self) -> int:
        """Of the kept ones: late errors of dropped traces."""
    @property
    def spans_missing(self) -> int:
        """To be kept, and neither kept nor dropped: their bytes were not given."""
    @property
    def prediction_rows(self) -> bytes:
        """Rows of `predictions` (RowBinary, `PREDICTION_COLUMNS`), of kept and dropped traces alike."""
    @property
    def predictions(self) -> dict[str, int]:
        """model -> rows."""
    @property
    def otlp(self) -> list[bytes]:
        """Kept spans as ExportTraceServiceRequests of at most about 4 MiB, with `ot=th` set; empty unless asked for."""

FIELDS: tuple[str, ...]
"""The fields that a dialect may fill."""

RECORD_COLUMNS: dict[str, list[tuple[str, str]]]
"""Table -> (column, ClickHouse type) in row order, of the rows of a `RecordBatch`."""

SPAN_COLUMNS: tuple[tuple[str, str], ...]
PREDICTION_COLUMNS: tuple[tuple[str, str], ...]
SKETCH_COLUMNS: tuple[tuple[str, str], ...]
"""(column, ClickHouse type) in row order, of each RowBinary block the kernel writes."""
