//! The carrier between decode and its consumers: one OTLP trace request as columns over its own bytes.

use std::ops::Range;
use std::sync::Arc;

/// The request body. Shared, so that the trace buffer keeps spans without copying them.
pub type Body = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A byte range of the body. Requests are below 4 GiB, so 32 bits serve.
pub type Bytes32 = Range<u32>;

pub type TraceId = [u8; 16];
pub type SpanId = [u8; 8];

/// One `ResourceSpans`: where its parts lie in the body.
#[derive(Debug, Clone)]
pub struct Resource {
    /// The encoded `Resource` message (empty range where absent).
    pub message: Bytes32,
    /// The UTF-8 value of `service.name` (empty range where absent).
    pub service: Bytes32,
    pub schema_url: Bytes32,
}

/// One `ScopeSpans`.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Index into [`SpanBatch::resources`].
    pub resource: u32,
    /// The encoded `InstrumentationScope` message (empty range where absent).
    pub message: Bytes32,
    pub schema_url: Bytes32,
}

/// One accepted span: what sampling needs, and where its bytes lie.
#[derive(Debug, Clone)]
pub struct Span {
    pub trace_id: TraceId,
    /// The encoded `Span` message in the body.
    pub message: Bytes32,
    /// Index into [`SpanBatch::scopes`].
    pub scope: u32,
    pub start_ns: u64,
    /// 0 where the span has no end.
    pub end_ns: u64,
    /// `ot=rv` of the trace state, 56 bits; `None` where absent or malformed.
    pub randomness: Option<u64>,
    /// `ot=th` of the trace state, 56 bits, right-padded; `None` where absent or malformed.
    pub threshold: Option<u64>,
    /// Status code ERROR.
    pub error: bool,
    /// No parent span id.
    pub root: bool,
    /// Predictions of this span: a range of [`SpanBatch::predictions`] (one span may carry a batch of rows).
    pub predictions: Range<u32>,
}

/// (model, version, role): the key under which a prediction is counted and sketched.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group {
    pub model: Box<str>,
    pub version: Box<str>,
    /// champion, challenger, shadow, canary; empty where not said.
    pub role: Box<str>,
}

/// One prediction. Everything else that its row holds is in `row`, already encoded.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// Index into [`SpanBatch::spans`].
    pub span: u32,
    /// Index into [`SpanBatch::groups`].
    pub group: u32,
    /// When it was answered: the span's end, clamped to [receive - max_late, receive + 5 s].
    pub event_ns: i64,
    pub duration_ns: u64,
    /// Inbound adjusted count: from `ot=th`, or `ml.sampling.weight`; NaN where unknown.
    pub weight: f64,
    /// Slice of [`SpanBatch::rows`]: the RowBinary prefix of the `predictions` row (see `rowbinary::PREDICTION_PREFIX`).
    pub row: Bytes32,
}

/// A numeric value of a prediction: a feature, or score, confidence, duration_ms, predicted.
#[derive(Debug, Clone, Copy)]
pub struct Numeric {
    /// Index into [`SpanBatch::predictions`].
    pub prediction: u32,
    /// Index into [`SpanBatch::series`].
    pub series: u32,
    /// May be NaN or infinite: counted as non-finite, never put into a digest.
    pub value: f64,
}

/// A categorical value of a prediction.
#[derive(Debug, Clone)]
pub struct Categorical {
    pub prediction: u32,
    pub series: u32,
    /// Slice of [`SpanBatch::text`].
    pub value: Bytes32,
}

/// A value that was announced and is missing (NULL is not NaN).
#[derive(Debug, Clone, Copy)]
pub struct Missing {
    pub prediction: u32,
    pub series: u32,
}

/// A decoded trace request.
pub struct SpanBatch {
    pub body: Body,
    pub receive_ns: i64,
    pub resources: Vec<Resource>,
    pub scopes: Vec<Scope>,
    pub spans: Vec<Span>,
    pub groups: Vec<Group>,
    pub predictions: Vec<Prediction>,
    /// Names of series: `features/<name>`, `score`, `confidence`, `duration_ms`, `predicted`.
    pub series: Vec<Box<str>>,
    /// In the order of the spans, so a replay sketches the same values in the same order.
    pub numeric: Vec<Numeric>,
    pub categorical: Vec<Categorical>,
    pub missing: Vec<Missing>,
    /// Arena of categorical values (UTF-8, values longer than 128 bytes cut at a character).
    pub text: Vec<u8>,
    /// Arena of encoded prediction row prefixes.
    pub rows: Vec<u8>,
    /// Spans refused one by one, by reason, with the offset of the first of each.
    pub rejected: Vec<Rejected>,
    /// Things read but doubtful, by name: event times clamped, malformed trace states, packed vectors of unknown schema…
    pub notes: Vec<(&'static str, u64)>,
}

/// Why spans of a readable request were refused.
#[derive(Debug, Clone)]
pub struct Rejected {
    pub reason: &'static str,
    pub spans: u64,
    pub offset: u64,
}
