//! Fuzzing of everything that reads bytes from outside: decode, and what consumes its batches; records; transcode; inflate.
//!
//! Inputs are mutations of `fuzz/corpus`: of bytes, and of the tree of messages, with the lengths around a change put
//! right, so that changes reach the leaves. A run is short and the same each time; for a long one:
//!
//! ```text
//! LEADLINE_FUZZ_SECONDS=600 LEADLINE_FUZZ_SEED=7 cargo test --release -p leadline-kernel --test fuzz -- --nocapture
//! ```
//!
//! What panics, or takes memory beyond a small multiple of its size, is written to `fuzz/artifacts`, whence later runs read it too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use leadline_kernel::batch::{Body, SpanBatch};
use leadline_kernel::buffer::{self, Ask, Decisions, Origin, TraceBuffer};
use leadline_kernel::decode::columns::Columns;
use leadline_kernel::decode::{Dialect, Limits, decode_traces};
use leadline_kernel::inflate::decompress;
use leadline_kernel::records;
use leadline_kernel::rowbinary::put_varint;
use leadline_kernel::sketches::{Config, Sketches};
use leadline_kernel::transcode::{Field, Kind, Message, Schema, transcode};
use leadline_kernel::wire::Reader;
use rustc_hash::FxHashMap;

/// Bytes allocated now, and the most since [`peak_of`] began.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is passed on to the system's allocator; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller's promise is the same
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is the same
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `run` had allocated at once.
fn peak_of(run: impl FnOnce()) -> usize {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    run();
    PEAK.load(Relaxed) - before
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn pick<'s, T>(&mut self, from: &'s [T]) -> &'s T {
        &from[self.below(from.len())]
    }
}

/// A change of some bytes, without regard to what they mean.
fn mutate_bytes(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    const EXTREMES: [&[u8]; 8] = [
        &[0],
        &[0x7f],
        &[0xff],
        &[0x80, 0x80, 0x80, 0x80, 0x04], // 1 GiB
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0, 0, 0, 0, 0, 0, 0xf8, 0x7f], // NaN
        &[0xff; 8],
        b"\"[{",
    ];
    let at = random.below(bytes.len() + 1);
    let end = (at + 1 + random.below(8)).min(bytes.len());
    match random.below(7) {
        0 => bytes.truncate(at),
        1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        2 if at < bytes.len() => bytes[at] = random.next() as u8,
        3 => drop(bytes.drain(at..end)),
        4 => drop(bytes.splice(at..end, random.pick(&EXTREMES).iter().copied())),
        5 => {
            let copy = bytes[at..end].repeat(1 + random.below(20));
            bytes.splice(at..at, copy);
        }
        _ => {
            let from = random.below(other.len() + 1);
            let to = (from + random.below(64)).min(other.len());
            bytes.splice(at..at, other[from..to].iter().copied());
        }
    }
}

/// The (start of the tag, start of the content, end) of each length-delimited field of a message; `None` if it is not one.
fn fields(message: &[u8]) -> Option<Vec<(usize, usize, usize)>> {
    let (mut reader, mut found) = (Reader::new(message), Vec::new());
    while reader.more() {
        let start = reader.offset();
        let tag = reader.tag().ok()?;
        if tag & 7 == 2 {
            let content = reader.message().ok()?;
            found.push((
                start,
                content.offset(),
                content.offset() + content.rest().len(),
            ));
        } else {
            reader.skip(tag).ok()?;
        }
    }
    Some(found)
}

/// Changes something at some depth of the tree of messages; the lengths around it stay right.
fn mutate_tree(random: &mut Random, message: &mut Vec<u8>, other: &[u8]) {
    let Some(&(start, content, end)) = fields(message)
        .filter(|fields| !fields.is_empty())
        .as_deref()
        .map(|fields| random.pick(fields))
    else {
        return mutate_bytes(random, message, other);
    };
    match random.below(20) {
        0 => drop(message.drain(start..end)),
        1 => {
            let field = message[start..end].repeat(1 + random.below(3));
            message.splice(start..start, field);
        }
        2 => message[start] ^= 8 << random.below(4),
        3 => {
            // deep in itself
            let mut nested = message[content..end].to_vec();
            for _ in 0..random.below(100) {
                let mut outer = vec![*random.pick(&[0x0a, 0x12, 0x2a, 0x32])];
                put_varint(&mut outer, nested.len() as u64);
                outer.append(&mut nested);
                nested = outer;
            }
            replace(message, content, end, &nested);
        }
        4..7 => {
            let mut inner = message[content..end].to_vec();
            mutate_bytes(random, &mut inner, other);
            replace(message, content, end, &inner);
        }
        _ => {
            let mut inner = message[content..end].to_vec();
            mutate_tree(random, &mut inner, other);
            replace(message, content, end, &inner);
        }
    }
}

/// Puts `inner` in the place of a field's content, with its own length before it.
fn replace(message: &mut Vec<u8>, content: usize, end: usize, inner: &[u8]) {
    let mut length = Vec::new();
    put_varint(&mut length, (end - content) as u64);
    let length_at = content.saturating_sub(length.len());
    length.clear();
    put_varint(&mut length, inner.len() as u64);
    message.splice(
        length_at..end,
        length.into_iter().chain(inner.iter().copied()),
    );
}

const RECEIVE_NS: i64 = 1_700_000_000_000_000_000;

/// The shipped dialects, as far as lines of `key: field` go, and two segments.
fn dialect() -> Dialect {
    let mut rules = vec![
        ("span", "country", "segment:country"),
        ("resource", "is_new", "segment:is_new"),
    ];
    for file in [
        include_str!("../../../leadline/decode/dialects/ml.yaml"),
        include_str!("../../../leadline/decode/dialects/gen_ai.yaml"),
    ] {
        let mut scope = "";
        for line in file
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
        {
            match (
                line.strip_prefix("  ")
                    .and_then(|entry| entry.split_once(": ")),
                line.strip_suffix(':'),
            ) {
                (Some((key, fields)), _) => {
                    let fields = fields.trim_matches(['[', ']']).split(", ");
                    rules.extend(fields.map(|field| (scope, key, field)));
                }
                (None, Some(section)) => scope = section,
                (None, None) => {}
            }
        }
    }
    Dialect::new(rules).expect("the shipped dialects compile")
}

/// What consumes batches, as one process does.
struct Consumers {
    sketches: Sketches,
    buffer: TraceBuffer,
    sequence: u64,
    /// Requests whose bytes the buffer does not hold, by their positions, since the last decision.
    elsewhere: FxHashMap<u64, Arc<Vec<u8>>>,
}

impl Consumers {
    fn new() -> Self {
        let limits = buffer::Limits {
            wait_ns: 1,
            wait_after_root_ns: 0,
            max_bytes: 1 << 30,
            max_traces: 10_000,
            remember_kept: 100,
            remember_dropped: 100,
        };
        let config = Config {
            max_groups: 50,
            max_series: 50,
            max_cells: 1_000,
            ..Config::default()
        };
        Self {
            sketches: Sketches::new(config).expect("a config within bounds"),
            buffer: TraceBuffer::new(limits),
            sequence: 0,
            elsewhere: FxHashMap::default(),
        }
    }

    /// Every other request leaves its bytes elsewhere, as those do that lie in the journal.
    fn add(&mut self, batch: &SpanBatch, data: &[u8]) {
        self.sketches.add(batch);
        self.sequence += 1;
        let hold = self.sequence % 2 == 0;
        self.buffer.add(batch, self.sequence, hold);
        if !hold {
            self.elsewhere
                .insert(self.sequence, Arc::new(data.to_vec()));
        }
        if self.sequence % 8 == 0 {
            self.decide();
        }
    }

    /// The bytes that a decision asks for; some cannot be read back, and some are read back as others.
    fn read_back(&mut self, ids: &[[u8; 16]], keep: &[bool]) -> FxHashMap<u64, Body> {
        let mut found = FxHashMap::default();
        for sequence in self.buffer.sources(ids, keep) {
            let data = &self.elsewhere[&sequence];
            let body = match sequence % 7 {
                0 => continue,
                1 => Arc::new(vec![0xff; data.len()]),
                3 => Arc::new(data[data.len() / 2..].to_vec()),
                _ => data.clone(),
            };
            found.insert(sequence, body as Body);
        }
        found
    }

    /// Decides what is due, each second trace to be kept; drains the sketches.
    fn decide(&mut self) {
        let due = self.buffer.due(Ask {
            now_ns: i64::MAX,
            limit: usize::MAX,
            everything: true,
            rows: true,
        });
        let ids: Vec<[u8; 16]> = due
            .trace_id
            .chunks_exact(16)
            .filter_map(|id| id.try_into().ok())
            .collect();
        let keep: Vec<bool> = (0..ids.len()).map(|at| at % 2 == 0).collect();
        let decisions = Decisions {
            trace_ids: &ids,
            keep: &keep,
            threshold: &vec![1 << 55; ids.len()],
            weight: &vec![2.0; ids.len()],
            sampling: &vec![0; ids.len()],
            policy: &vec![0; ids.len()],
            samplings: &["probabilistic".to_owned()],
            policies: &["always".to_owned()],
            plan_revision: 1,
        };
        assert_eq!(decisions.fault(), None);
        let bodies = self.read_back(&ids, &keep);
        self.buffer.decide(
            &decisions,
            Origin {
                collector: "fuzz",
                segment: self.sequence,
            },
            &bodies,
            true,
        );
        self.elsewhere.clear();
        self.sketches.drain("fuzz", self.sequence);
    }
}

fn feed_traces(data: &[u8], dialect: &Dialect, consumers: &mut Consumers) {
    let limits = Limits {
        max_rows_per_span: 1_000,
        ..Limits::default()
    };
    let mut decoded = None;
    let peak = peak_of(|| {
        decoded = Some(decode_traces(
            Arc::new(data.to_vec()),
            dialect,
            RECEIVE_NS,
            &limits,
        ))
    });
    // 64 times the request and 1 MiB, doubled where a vector has just grown
    assert!(
        peak < 200 * data.len() + (8 << 20),
        "{peak} bytes of memory for {} bytes",
        data.len()
    );
    match decoded.expect("set above") {
        Err(error) => assert!(error.offset <= data.len() && !error.what.is_empty()),
        Ok(batch) => {
            let mut columns = Columns::default();
            columns.push_batch(&batch);
            assert_eq!(columns.len(), batch.predictions.len());
            consumers.add(&batch, data);
        }
    }
}

/// Requests of spans, logs and metrics serve as each other: down to the items their messages have the same numbers.
fn feed_records(data: &[u8]) {
    let limits = records::Limits {
        max_late_ns: 1 << 40,
        max_items: 1_000,
        max_repeated: 1 << 20,
        max_depth: 64,
    };
    for signal in [0, 1] {
        let mut result = None;
        let peak = peak_of(|| {
            result = Some(match signal {
                0 => records::decode_logs(data, RECEIVE_NS, &["x".to_owned()], &limits),
                _ => records::decode_metrics(data, RECEIVE_NS, &limits),
            });
        });
        // what rows repeat, doubled where a vector has just grown; an escape takes six bytes
        assert!(
            peak < 64 * data.len() + (4 << 20),
            "{peak} bytes of memory for {} bytes",
            data.len()
        );
        match result.expect("set above") {
            Err(records::Error::Wire(error)) => assert!(error.offset <= data.len()),
            Err(records::Error::Repeated) => {}
            Ok(found) => {
                let rows: u64 = found.rows("fuzz", 1).iter().map(|(_, _, rows)| rows).sum();
                assert_eq!(rows, found.items);
            }
        }
    }
}

/// A schema of two messages that hold each other, with a field of each kind.
fn json_schema() -> Schema {
    let field = |number, kind, repeated| Field {
        number,
        kind,
        repeated,
        takes_null: number == 9,
    };
    let integer = |name| Kind::integer(name).expect("a kind");
    let fields = vec![
        field(1, Kind::Message(1), true),
        field(2, Kind::Message(0), false),
        field(3, Kind::Text, true),
        field(4, Kind::Base64, false),
        field(5, Kind::Id(2), false),
        field(6, integer("fixed64"), true),
        field(7, integer("sint32"), false),
        field(8, Kind::Enum(vec![("ON".into(), 1)]), false),
        field(9, Kind::Double, false),
        field(10, Kind::Bool, false),
    ];
    let message = |nests| Message {
        fields: (0..fields.len())
            .map(|index| (vec![b'a' + index as u8].into(), index))
            .collect(),
        nests,
    };
    Schema {
        messages: vec![message(false), message(true)],
        fields: fields.clone(),
    }
}

fn feed_json(data: &[u8], schema: &Schema) {
    const LIMIT: usize = 1 << 16;
    let mut result = None;
    let peak = peak_of(|| result = Some(transcode(schema, data, LIMIT)));
    // what an error shows is of the document's size at most
    assert!(
        peak < 4 * LIMIT + 64 * data.len(),
        "{peak} bytes of memory for {} bytes",
        data.len()
    );
    if let Some(Ok(bytes)) = result {
        assert!(bytes.len() <= LIMIT);
        let mut reader = Reader::new(&bytes);
        while reader.more() {
            let tag = reader.tag().expect("protobuf");
            reader.skip(tag).expect("protobuf");
        }
    }
}

fn feed_inflate(data: &[u8], encoding: &str) {
    const LIMIT: usize = 1 << 20;
    let mut result = None;
    // zstd's own memory is C's, bounded by its window; this is ours
    let peak = peak_of(|| result = Some(decompress(encoding, data, LIMIT)));
    assert!(
        peak < 4 * LIMIT + 4 * data.len(),
        "{peak} bytes of memory for {} bytes",
        data.len()
    );
    if let Some(Ok(bytes)) = result {
        assert!(bytes.len() <= LIMIT);
    }
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// (name, bytes) of the files of `folder` in the corpus and of earlier finds, in order of their names.
fn inputs(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folders = [
        home().join("corpus").join(folder),
        home().join("artifacts").join(folder),
    ];
    let mut found: Vec<_> = folders
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .flatten()
        .collect();
    found.sort_by_key(|entry| entry.path());
    found
        .iter()
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                std::fs::read(entry.path()).expect("readable"),
            )
        })
        .collect()
}

/// Runs `feed`; what fails is written down.
fn guard(folder: &str, name: &str, data: &[u8], feed: impl FnOnce(&[u8])) {
    if catch_unwind(AssertUnwindSafe(|| feed(data))).is_err() {
        let path = home().join("artifacts").join(folder);
        std::fs::create_dir_all(&path).expect("a folder for artifacts");
        let path = path.join(name);
        std::fs::write(&path, data).expect("an artifact");
        panic!("the input that failed is {}", path.display());
    }
}

#[test]
fn fuzz() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse::<u64>().ok())
    };
    let seconds = number("LEADLINE_FUZZ_SECONDS").map(Duration::from_secs);
    let seed = number("LEADLINE_FUZZ_SEED").unwrap_or(1);
    let mut random = Random(seed);
    let (dialect, mut consumers) = (dialect(), Consumers::new());
    let (traces, packed, documents) = (inputs("traces"), inputs("inflate"), inputs("json"));
    let schema = json_schema();
    assert!(
        traces.len() > 10 && packed.len() > 2 && !documents.is_empty(),
        "the corpus is not where it should be"
    );
    let predictions = |data: &[u8]| {
        decode_traces(
            Arc::new(data.to_vec()),
            &dialect,
            RECEIVE_NS,
            &Limits::default(),
        )
        .map_or(0, |batch| batch.predictions.len())
    };
    assert!(
        traces
            .iter()
            .map(|(_, data)| predictions(data))
            .sum::<usize>()
            > 10,
        "the corpus has no predictions"
    );
    let started = Instant::now();
    let (mut runs, mut decoded) = (0u64, 0u64);
    let enough = if cfg!(debug_assertions) {
        10_000
    } else {
        100_000
    };
    while seconds.map_or(runs < enough, |limit| started.elapsed() < limit) {
        let name = format!("seed-{seed}-run-{runs}");
        let mut data = random.pick(&traces).1.clone();
        for _ in 0..=random.below(4) {
            let other = random.pick(&traces).1.clone();
            if random.below(4) == 0 {
                mutate_bytes(&mut random, &mut data, &other);
            } else {
                mutate_tree(&mut random, &mut data, &other);
            }
        }
        let before = consumers.sequence;
        guard("traces", &name, &data, |data| {
            feed_traces(data, &dialect, &mut consumers)
        });
        decoded += consumers.sequence - before;
        if runs % 4 == 0 {
            guard("traces", &name, &data, feed_records);
        }
        if runs % 4 == 2 {
            let mut data = random.pick(&documents).1.clone();
            for _ in 0..=random.below(6) {
                let other = random.pick(&documents).1.clone();
                mutate_bytes(&mut random, &mut data, &other);
            }
            guard("json", &name, &data, |data| feed_json(data, &schema));
        }
        if runs % 8 == 0 {
            let (file, bytes) = random.pick(&packed).clone();
            let encoding = file.rsplit('.').next().unwrap_or_default();
            let mut data = bytes.clone();
            (0..=random.below(4)).for_each(|_| mutate_bytes(&mut random, &mut data, &bytes));
            guard("inflate", &format!("{name}.{encoding}"), &data, |data| {
                feed_inflate(data, encoding)
            });
        }
        runs += 1;
    }
    println!(
        "{runs} runs from seed {seed} in {:?}; {decoded} decoded",
        started.elapsed()
    );
    assert!(
        decoded * 5 > runs,
        "{decoded} of {runs} mutations decode: the mutator spoils too much to reach the leaves"
    );
}
