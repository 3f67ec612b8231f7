//! A request while spans of it are undecided: its bytes, and the least that must be known about them.

use crate::batch::{Body, Bytes32, Resource, Scope, SpanBatch};

/// A span: the slot of its request, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub slot: u32,
    pub at: u32,
}

/// The end of a trace's list of spans.
pub const NOWHERE: Link = Link {
    slot: u32::MAX,
    at: u32::MAX,
};

pub struct SpanRecord {
    /// The encoded span in the body.
    pub start: u32,
    pub end: u32,
    pub scope: u32,
    /// Its first prediction; the last is before the next span's first.
    pub predictions: u32,
    /// The next span of its trace.
    pub next: Link,
}

pub struct PredictionRecord {
    pub group: u32,
    /// Where its encoded row ends; it begins where the one before ends.
    pub row_end: u32,
    pub duration_ns: u64,
}

pub struct Pinned {
    /// Its bytes; `None` while they wait elsewhere.
    pub body: Option<Body>,
    pub size: usize,
    pub receive_ns: i64,
    pub sequence: u64,
    /// How many requests were added before this one.
    pub number: u64,
    pub resources: Box<[Resource]>,
    /// `service.name` of each.
    services: Box<[Box<[u8]>]>,
    pub scopes: Box<[Scope]>,
    pub spans: Box<[SpanRecord]>,
    pub predictions: Box<[PredictionRecord]>,
    pub rows: Box<[u8]>,
    /// The traces whose first span, or whose first root, came in this request; some may be decided by now.
    pub opened: Box<[u32]>,
    pub rooted: Box<[u32]>,
    /// How many of these, and of the spans, still wait.
    pub opened_waiting: u32,
    pub rooted_waiting: u32,
    pub spans_waiting: u32,
    /// Bytes that go when the last span goes.
    pub cost: u64,
}

impl Pinned {
    #[allow(clippy::too_many_arguments)] // each is a part that only the buffer can make
    pub fn new(
        batch: &SpanBatch,
        sequence: u64,
        number: u64,
        spans: Vec<SpanRecord>,
        predictions: Vec<PredictionRecord>,
        rows: Vec<u8>,
        opened: Box<[u32]>,
        rooted: Box<[u32]>,
        hold: bool,
    ) -> Self {
        let bytes = (*batch.body).as_ref();
        let service = |resource: &Resource| slice(bytes, &resource.service).into();
        let mut pinned = Self {
            body: hold.then(|| batch.body.clone()),
            size: bytes.len(),
            services: batch.resources.iter().map(service).collect(),
            receive_ns: batch.receive_ns,
            sequence,
            number,
            resources: batch.resources.as_slice().into(),
            scopes: batch.scopes.as_slice().into(),
            opened_waiting: opened.len() as u32,
            rooted_waiting: rooted.len() as u32,
            spans_waiting: spans.len() as u32,
            spans: spans.into(),
            predictions: predictions.into(),
            rows: rows.into(),
            opened,
            rooted,
            cost: 0,
        };
        let names: usize = pinned.services.iter().map(|name| name.len()).sum();
        let records = size_of_val(&*pinned.resources)
            + size_of_val(&*pinned.services)
            + names
            + size_of_val(&*pinned.scopes)
            + size_of_val(&*pinned.spans)
            + size_of_val(&*pinned.predictions)
            + size_of_val(&*pinned.rows)
            + size_of_val(&*pinned.opened)
            + size_of_val(&*pinned.rooted);
        pinned.cost = (pinned.bytes().len() + records + size_of::<Self>()) as u64;
        pinned
    }

    /// The body; nothing while it is elsewhere.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.body.as_ref().map_or(&[], |body| (**body).as_ref())
    }

    /// Takes its bytes for a while, if they are not held and are as many as they were; whether it did.
    pub fn borrow(&mut self, body: &Body) -> bool {
        let takes = self.body.is_none() && (**body).as_ref().len() == self.size;
        if takes {
            self.body = Some(body.clone());
        }
        takes
    }

    #[inline]
    pub fn resource_of(&self, scope: u32) -> u32 {
        self.scopes[scope as usize].resource
    }

    /// The `service.name` of a span's resource.
    pub fn service(&self, span: u32) -> &[u8] {
        &self.services[self.resource_of(self.spans[span as usize].scope) as usize]
    }

    /// The numbers of a span's predictions.
    #[inline]
    pub fn predictions_of(&self, span: u32) -> std::ops::Range<usize> {
        let end = self
            .spans
            .get(span as usize + 1)
            .map_or(self.predictions.len(), |next| next.predictions as usize);
        self.spans[span as usize].predictions as usize..end
    }

    /// The encoded row of a prediction.
    #[inline]
    pub fn row(&self, prediction: usize) -> &[u8] {
        let start = if prediction == 0 {
            0
        } else {
            self.predictions[prediction - 1].row_end as usize
        };
        &self.rows[start..self.predictions[prediction].row_end as usize]
    }
}

/// A part of a body; nothing where the body has no such part.
#[inline]
pub fn slice<'b>(bytes: &'b [u8], range: &Bytes32) -> &'b [u8] {
    bytes
        .get(range.start as usize..range.end as usize)
        .unwrap_or_default()
}
