//! Kept spans as `ExportTraceServiceRequest`s, under the resources and scopes that they came with.

use std::ops::Range;

use super::pinned::{Pinned, slice};
use crate::batch::Bytes32;
use crate::rowbinary::put_varint;
use crate::wire::{LENGTH, tag};

/// A kept span: where it belongs, and where it is, encoded as a field of its `ScopeSpans`.
pub struct KeptSpan {
    /// The number of its request; `slot` is where that is.
    pub request: u64,
    pub slot: u32,
    pub resource: u32,
    pub scope: u32,
    pub bytes: Range<usize>,
}

/// A request is closed before it grows past this: just under the 4 MiB that gRPC takes by default.
const MAX_BYTES: usize = (4 << 20) - (16 << 10);

/// Packs spans in the order of their requests; `pinned` gives the request of a slot.
pub fn requests<'p>(
    mut spans: Vec<KeptSpan>,
    bytes: &[u8],
    pinned: impl Fn(u32) -> &'p Pinned,
) -> Vec<Vec<u8>> {
    spans.sort_by_key(|span| (span.request, span.resource, span.scope));
    let mut requests = Vec::new();
    let (mut from, mut size) = (0, 0);
    for (at, span) in spans.iter().enumerate() {
        let request = pinned(span.slot);
        let same_scope =
            at > from && (spans[at - 1].request, spans[at - 1].scope) == (span.request, span.scope);
        let envelope = if same_scope {
            0
        } else {
            Envelope::of(request, span).size()
        };
        size += span.bytes.len() + envelope;
        if size > MAX_BYTES && at > from {
            requests.push(request_of(&spans[from..at], bytes, &pinned));
            (from, size) = (at, span.bytes.len() + Envelope::of(request, span).size());
        }
    }
    if from < spans.len() {
        requests.push(request_of(&spans[from..], bytes, &pinned));
    }
    requests
}

/// The parts of a request around a span.
struct Envelope<'p> {
    resource: &'p [u8],
    resource_schema: &'p [u8],
    scope: &'p [u8],
    scope_schema: &'p [u8],
}

impl<'p> Envelope<'p> {
    fn of(pinned: &'p Pinned, span: &KeptSpan) -> Self {
        let (resource, scope) = (
            &pinned.resources[span.resource as usize],
            &pinned.scopes[span.scope as usize],
        );
        let part = |range: &Bytes32| slice(pinned.bytes(), range);
        Self {
            resource: part(&resource.message),
            resource_schema: part(&resource.schema_url),
            scope: part(&scope.message),
            scope_schema: part(&scope.schema_url),
        }
    }

    /// At most what it takes to name resource and scope anew.
    fn size(&self) -> usize {
        self.resource.len()
            + self.resource_schema.len()
            + self.scope.len()
            + self.scope_schema.len()
            + 6 * 6
    }
}

fn request_of<'p>(
    spans: &[KeptSpan],
    bytes: &[u8],
    pinned: &impl Fn(u32) -> &'p Pinned,
) -> Vec<u8> {
    let size = spans.iter().map(|span| span.bytes.len()).sum::<usize>();
    let (mut request, mut resource_spans, mut scope_spans) =
        (Vec::with_capacity(size + size / 8), Vec::new(), Vec::new());
    for of_resource in spans.chunk_by(|a, b| (a.request, a.resource) == (b.request, b.resource)) {
        let Envelope {
            resource,
            resource_schema,
            ..
        } = Envelope::of(pinned(of_resource[0].slot), &of_resource[0]);
        resource_spans.clear();
        put_field(&mut resource_spans, 1, resource);
        for of_scope in of_resource.chunk_by(|a, b| a.scope == b.scope) {
            let Envelope {
                scope,
                scope_schema,
                ..
            } = Envelope::of(pinned(of_scope[0].slot), &of_scope[0]);
            scope_spans.clear();
            put_field(&mut scope_spans, 1, scope);
            of_scope
                .iter()
                .for_each(|span| scope_spans.extend_from_slice(&bytes[span.bytes.clone()]));
            put_field(&mut scope_spans, 3, scope_schema);
            put_field(&mut resource_spans, 2, &scope_spans);
        }
        put_field(&mut resource_spans, 3, resource_schema);
        put_field(&mut request, 1, &resource_spans);
    }
    request
}

/// A field of bytes, text or message; nothing where it is empty, which is how an absent one is known.
fn put_field(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    if !value.is_empty() {
        out.push(tag(field, LENGTH) as u8);
        put_varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}
