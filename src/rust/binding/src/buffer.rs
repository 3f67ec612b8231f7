//! Binding of the trace buffer.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use leadline_kernel::batch::{Body, TraceId};
use leadline_kernel::buffer::{self, Ask, Limits, Origin};
use leadline_kernel::export::SPAN_COLUMNS;
use leadline_kernel::rowbinary::{PREDICTION_PREFIX, PREDICTION_SUFFIX};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::MutexExt;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::bytes::bytes_of;
use crate::decode::{PySpanBatch, columns_dict};

#[pyclass(name = "TraceBuffer", frozen, module = "leadline._kernel")]
pub struct PyTraceBuffer {
    inner: Mutex<buffer::TraceBuffer>,
}

/// A call that panicked left the buffer in an unknown state: better no answer than a wrong one.
const POISONED: &str = "an earlier call on this buffer panicked";

impl PyTraceBuffer {
    fn get(&self, py: Python<'_>) -> MutexGuard<'_, buffer::TraceBuffer> {
        self.inner.lock_py_attached(py).expect(POISONED)
    }

    /// Works on the buffer without the GIL.
    fn detached<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut buffer::TraceBuffer) -> T + Send,
    ) -> T {
        py.detach(|| work(&mut self.inner.lock().expect(POISONED)))
    }
}

#[pymethods]
impl PyTraceBuffer {
    #[new]
    #[pyo3(signature = (wait_ns, *, wait_after_root_ns = 0, max_bytes = 1 << 30, max_traces = 1_000_000,
                        remember_kept = 100_000, remember_dropped = 1_000_000))]
    fn new(
        wait_ns: i64,
        wait_after_root_ns: i64,
        max_bytes: u64,
        max_traces: u64,
        remember_kept: usize,
        remember_dropped: usize,
    ) -> PyResult<Self> {
        for (name, value) in [
            ("wait_ns", wait_ns),
            ("wait_after_root_ns", wait_after_root_ns),
        ] {
            if value < 0 {
                return Err(PyValueError::new_err(format!(
                    "{name}: expected 0 or more, got {value}"
                )));
            }
        }
        let limits = Limits {
            wait_ns,
            wait_after_root_ns,
            max_bytes,
            max_traces,
            remember_kept,
            remember_dropped,
        };
        Ok(Self {
            inner: Mutex::new(buffer::TraceBuffer::new(limits)),
        })
    }

    #[pyo3(signature = (batch, sequence, *, hold = true))]
    fn add(&self, py: Python<'_>, batch: &PySpanBatch, sequence: u64, hold: bool) {
        self.detached(py, |buffer| buffer.add(&batch.inner, sequence, hold));
    }

    fn sources(
        &self,
        py: Python<'_>,
        trace_ids: &Bound<'_, PyArray2<u8>>,
        keep: &Bound<'_, PyArray1<bool>>,
    ) -> PyResult<Vec<u64>> {
        let ids = ids_of(trace_ids)?;
        let keep = items(keep, |[byte]| byte != 0)?;
        if ids.len() != keep.len() {
            return Err(PyValueError::new_err(format!(
                "keep: expected {} entries, one for each of trace_ids, got {}",
                ids.len(),
                keep.len()
            )));
        }
        Ok(self.detached(py, |buffer| buffer.sources(&ids, &keep)))
    }

    #[getter]
    fn spans(&self, py: Python<'_>) -> u64 {
        self.get(py).spans()
    }

    #[getter]
    fn predictions(&self, py: Python<'_>) -> BTreeMap<String, u64> {
        self.get(py).predictions()
    }

    #[getter]
    fn traces(&self, py: Python<'_>) -> u64 {
        self.get(py).traces()
    }

    #[getter]
    fn bytes(&self, py: Python<'_>) -> u64 {
        self.get(py).bytes()
    }

    #[getter]
    fn late(&self, py: Python<'_>) -> u64 {
        self.get(py).late()
    }

    #[getter]
    fn oldest_sequence(&self, py: Python<'_>) -> Option<u64> {
        self.get(py).oldest_sequence()
    }

    #[pyo3(signature = (now_ns, limit, *, everything = false, rows = false))]
    fn due<'py>(
        &self,
        py: Python<'py>,
        now_ns: i64,
        limit: usize,
        everything: bool,
        rows: bool,
    ) -> PyResult<Bound<'py, PyDict>> {
        let ask = Ask {
            now_ns,
            limit,
            everything,
            rows,
        };
        let due = self.detached(py, |buffer| buffer.due(ask));
        let dict = PyDict::new(py);
        let traces = due.spans.len();
        dict.set_item(
            "trace_id",
            due.trace_id.into_pyarray(py).reshape([traces, 16])?,
        )?;
        dict.set_item("randomness", due.randomness.into_pyarray(py))?;
        dict.set_item("threshold", due.threshold.into_pyarray(py))?;
        dict.set_item("sampled", due.sampled.into_pyarray(py))?;
        dict.set_item("spans", due.spans.into_pyarray(py))?;
        dict.set_item("bytes", due.bytes.into_pyarray(py))?;
        dict.set_item("start_ns", due.start_ns.into_pyarray(py))?;
        dict.set_item("end_ns", due.end_ns.into_pyarray(py))?;
        dict.set_item("error", due.error.into_pyarray(py))?;
        dict.set_item("predictions", due.predictions.into_pyarray(py))?;
        let services = PyList::new(py, due.services.iter().map(|name| &**name))?;
        dict.set_item("service", (due.service.into_pyarray(py), services))?;
        dict.set_item("p_trace", due.p_trace.into_pyarray(py))?;
        dict.set_item("p_group", due.p_group.into_pyarray(py))?;
        let groups = due
            .groups
            .iter()
            .map(|group| (&*group.model, &*group.version, &*group.role));
        dict.set_item("groups", PyList::new(py, groups)?)?;
        dict.set_item("p_duration_ns", due.p_duration_ns.into_pyarray(py))?;
        if let Some(columns) = due.rows {
            dict.set_item("rows", columns_dict(py, columns)?)?;
        }
        Ok(dict)
    }

    #[allow(clippy::too_many_arguments)] // one a column
    #[pyo3(signature = (trace_ids, keep, threshold, weight, sampling, policy, *,
                        samplings, policies, plan_revision, collector, segment, bodies = HashMap::new(), otlp = false))]
    fn decide(
        &self,
        py: Python<'_>,
        trace_ids: &Bound<'_, PyArray2<u8>>,
        keep: &Bound<'_, PyArray1<bool>>,
        threshold: &Bound<'_, PyArray1<u64>>,
        weight: &Bound<'_, PyArray1<f64>>,
        sampling: &Bound<'_, PyArray1<u8>>,
        policy: &Bound<'_, PyArray1<u8>>,
        samplings: Vec<String>,
        policies: Vec<String>,
        plan_revision: u32,
        collector: &str,
        segment: u64,
        bodies: HashMap<u64, PyBackedBytes>,
        otlp: bool,
    ) -> PyResult<PyTaken> {
        let columns = Columns::copy(trace_ids, keep, threshold, weight, sampling, policy)?;
        let decisions = columns.decisions(&samplings, &policies, plan_revision)?;
        let bodies = bodies
            .into_iter()
            .map(|(sequence, body)| (sequence, Arc::new(body) as Body))
            .collect();
        let taken = self.detached(py, |buffer| {
            buffer.decide(&decisions, Origin { collector, segment }, &bodies, otlp)
        });
        let requests = taken.otlp.iter().map(|request| bytes_of(py, request));
        let requests = requests.collect::<PyResult<Vec<_>>>()?;
        Ok(PyTaken {
            span_rows: bytes_of(py, &taken.span_rows)?.unbind(),
            spans_kept: taken.spans_kept,
            spans_dropped: taken.spans_dropped,
            spans_rescued: taken.spans_rescued,
            spans_missing: taken.spans_missing,
            prediction_rows: bytes_of(py, &taken.prediction_rows)?.unbind(),
            otlp: PyList::new(py, requests)?.unbind(),
            predictions: taken.predictions,
        })
    }

    #[allow(clippy::too_many_arguments)] // one a column
    #[pyo3(signature = (trace_ids, keep, threshold, weight, sampling, policy, *, samplings, policies, plan_revision))]
    fn remember(
        &self,
        py: Python<'_>,
        trace_ids: &Bound<'_, PyArray2<u8>>,
        keep: &Bound<'_, PyArray1<bool>>,
        threshold: &Bound<'_, PyArray1<u64>>,
        weight: &Bound<'_, PyArray1<f64>>,
        sampling: &Bound<'_, PyArray1<u8>>,
        policy: &Bound<'_, PyArray1<u8>>,
        samplings: Vec<String>,
        policies: Vec<String>,
        plan_revision: u32,
    ) -> PyResult<()> {
        let columns = Columns::copy(trace_ids, keep, threshold, weight, sampling, policy)?;
        let decisions = columns.decisions(&samplings, &policies, plan_revision)?;
        self.detached(py, |buffer| buffer.remember(&decisions));
        Ok(())
    }
}

/// The columns of a batch of decisions, copied: the arrays may have any strides and alignment, and others may write to them.
struct Columns {
    trace_ids: Vec<TraceId>,
    keep: Vec<bool>,
    threshold: Vec<u64>,
    weight: Vec<f64>,
    sampling: Vec<u8>,
    policy: Vec<u8>,
}

impl Columns {
    fn copy(
        trace_ids: &Bound<'_, PyArray2<u8>>,
        keep: &Bound<'_, PyArray1<bool>>,
        threshold: &Bound<'_, PyArray1<u64>>,
        weight: &Bound<'_, PyArray1<f64>>,
        sampling: &Bound<'_, PyArray1<u8>>,
        policy: &Bound<'_, PyArray1<u8>>,
    ) -> PyResult<Self> {
        Ok(Self {
            trace_ids: ids_of(trace_ids)?,
            keep: items(keep, |[byte]| byte != 0)?,
            threshold: items(threshold, u64::from_ne_bytes)?,
            weight: items(weight, f64::from_ne_bytes)?,
            sampling: items(sampling, |[byte]| byte)?,
            policy: items(policy, |[byte]| byte)?,
        })
    }

    fn decisions<'a>(
        &'a self,
        samplings: &'a [String],
        policies: &'a [String],
        plan_revision: u32,
    ) -> PyResult<buffer::Decisions<'a>> {
        let Self {
            trace_ids,
            keep,
            threshold,
            weight,
            sampling,
            policy,
        } = self;
        let decisions = buffer::Decisions {
            trace_ids,
            keep,
            threshold,
            weight,
            sampling,
            policy,
            samplings,
            policies,
            plan_revision,
        };
        match decisions.fault() {
            Some(fault) => Err(PyValueError::new_err(fault)),
            None => Ok(decisions),
        }
    }
}

fn ids_of(trace_ids: &Bound<'_, PyArray2<u8>>) -> PyResult<Vec<TraceId>> {
    let shape = trace_ids.shape();
    if shape[1] != 16 {
        return Err(PyValueError::new_err(format!(
            "trace_ids: expected shape (n, 16), got {shape:?}"
        )));
    }
    items(trace_ids, |id| id)
}

/// The bytes of an array, `N` at a time.
fn items<T, const N: usize>(
    array: &Bound<'_, PyAny>,
    item: impl Fn([u8; N]) -> T,
) -> PyResult<Vec<T>> {
    let bytes: PyBackedBytes = array.call_method0("tobytes")?.extract()?;
    let chunks = bytes.chunks_exact(N);
    Ok(chunks
        .map(|chunk| item(chunk.try_into().expect("a chunk is of the size asked for")))
        .collect())
}

#[pyclass(name = "Taken", frozen, module = "leadline._kernel")]
pub struct PyTaken {
    #[pyo3(get)]
    span_rows: Py<PyBytes>,
    #[pyo3(get)]
    spans_kept: u64,
    #[pyo3(get)]
    spans_dropped: u64,
    #[pyo3(get)]
    spans_rescued: u64,
    #[pyo3(get)]
    spans_missing: u64,
    #[pyo3(get)]
    prediction_rows: Py<PyBytes>,
    #[pyo3(get)]
    predictions: BTreeMap<String, u64>,
    #[pyo3(get)]
    otlp: Py<PyList>,
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add_class::<PyTraceBuffer>()?;
    module.add_class::<PyTaken>()?;
    module.add("SPAN_COLUMNS", PyTuple::new(py, SPAN_COLUMNS)?)?;
    let prediction_columns = PREDICTION_PREFIX.iter().chain(PREDICTION_SUFFIX);
    module.add(
        "PREDICTION_COLUMNS",
        PyTuple::new(py, prediction_columns.collect::<Vec<_>>())?,
    )
}
