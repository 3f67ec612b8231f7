//! When to let go of the interpreter. A thread that lets go while others wait is served after them: two switches of threads, and the
//! caches that go with them. What takes some hundred microseconds is done sooner if it is just done.

use pyo3::prelude::*;

/// Bytes of a request up to which work on it is short.
pub const SHORT: usize = 256 << 10;

/// Runs `work`, without the GIL unless it `is_short`.
pub fn unless_short<T: Send>(py: Python<'_>, is_short: bool, work: impl FnOnce() -> T + Send) -> T {
    if is_short { work() } else { py.detach(work) }
}
