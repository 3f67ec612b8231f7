//! Leadline's kernel: what is done per span or per value.
//!
//! The way of the data: [`decode`] walks OTLP bytes into a [`batch::SpanBatch`]; [`sketches`] measures every
//! prediction of it; [`buffer`] holds the undecided traces and gives out what was kept as ClickHouse rows and as
//! OTLP bytes. No I/O, no clock, no threads, no configuration beyond arguments; hostile bytes give an error with
//! an offset, never a panic, never unbounded memory.

pub mod batch;
pub mod buffer;
pub mod cells;
pub mod decode;
pub mod export;
pub mod inflate;
pub mod json;
pub mod records;
pub mod rowbinary;
pub mod sketches;
pub mod transcode;
pub mod wire;
