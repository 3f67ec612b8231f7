//! Binding of decode and inflate.

use std::collections::BTreeMap;
use std::sync::Arc;

use leadline_kernel::batch::SpanBatch;
use leadline_kernel::decode::columns::{Columns, Numbers, Texts};
use leadline_kernel::decode::{self, Dialect, FIELDS, Limits};
use leadline_kernel::transcode::{self, Field, Kind, Message, Schema};
use leadline_kernel::{inflate, wire};
use numpy::IntoPyArray;
use pyo3::create_exception;
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::bytes::bytes_of;

/// Bytes up to which a request is decoded with the GIL held: a thread that lets go while others wait is served after them, and what
/// takes some hundred microseconds is done sooner if it is just done.
const SHORT: usize = 256 << 10;

create_exception!(
    leadline._kernel,
    DecodeError,
    PyValueError,
    "The bytes are not what they claim. `offset` is where the walk stopped, `what` is what it expected there."
);

pub fn decode_error(py: Python<'_>, error: wire::Error) -> PyErr {
    raised(py, error.to_string(), error.offset, error.what)
}

fn raised(py: Python<'_>, text: String, offset: usize, what: impl Into<String>) -> PyErr {
    let raised = DecodeError::new_err(text);
    let value = raised.value(py);
    match value
        .setattr("offset", offset)
        .and_then(|()| value.setattr("what", what.into()))
    {
        Ok(()) => raised,
        Err(error) => error,
    }
}

#[pyclass(name = "Dialect", frozen, module = "leadline._kernel")]
pub struct PyDialect {
    pub inner: Arc<Dialect>,
}

#[pymethods]
impl PyDialect {
    #[new]
    fn new(rules: Vec<(String, String, String)>) -> PyResult<Self> {
        let rules = rules
            .iter()
            .map(|(scope, key, field)| (&**scope, &**key, &**field));
        let dialect = Dialect::new(rules).map_err(PyValueError::new_err)?;
        Ok(Self {
            inner: Arc::new(dialect),
        })
    }
}

#[pyclass(name = "SpanBatch", frozen, module = "leadline._kernel")]
pub struct PySpanBatch {
    pub inner: Arc<SpanBatch>,
}

#[pymethods]
impl PySpanBatch {
    #[getter]
    fn size(&self) -> usize {
        (*self.inner.body).as_ref().len()
    }

    #[getter]
    fn spans(&self) -> usize {
        self.inner.spans.len()
    }

    #[getter]
    fn rejected(&self) -> BTreeMap<&'static str, u64> {
        self.inner
            .rejected
            .iter()
            .map(|rejected| (rejected.reason, rejected.spans))
            .collect()
    }

    #[getter]
    fn predictions(&self) -> BTreeMap<&str, u64> {
        let mut counts = vec![0u64; self.inner.groups.len()];
        for prediction in &self.inner.predictions {
            counts[prediction.group as usize] += 1;
        }
        let mut models = BTreeMap::new();
        for (group, count) in self
            .inner
            .groups
            .iter()
            .zip(counts)
            .filter(|(_, count)| *count > 0)
        {
            *models.entry(&*group.model).or_default() += count;
        }
        models
    }

    #[getter]
    fn notes(&self) -> BTreeMap<&'static str, u64> {
        self.inner.notes.iter().copied().collect()
    }

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let batch = &self.inner;
        let series = |index: u32| &*batch.series[index as usize];
        let list = PyList::empty(py);
        for value in &batch.numeric {
            list.append((value.prediction, series(value.series), value.value))?;
        }
        for value in &batch.categorical {
            let text = String::from_utf8_lossy(
                &batch.text[value.value.start as usize..value.value.end as usize],
            );
            list.append((value.prediction, series(value.series), text))?;
        }
        for value in &batch.missing {
            list.append((value.prediction, series(value.series), py.None()))?;
        }
        Ok(list)
    }

    fn rows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let range = |row: &std::ops::Range<u32>| row.start as usize..row.end as usize;
        let rows = self
            .inner
            .predictions
            .iter()
            .map(|prediction| &self.inner.rows[range(&prediction.row)]);
        PyList::new(py, rows.map(|row| PyBytes::new(py, row)))
    }
}

#[pyfunction]
#[pyo3(signature = (data, dialect, receive_ns, *, max_late_ns = 604_800_000_000_000, max_rows_per_span = 10_000, max_depth = 64))]
fn decode_traces(
    py: Python<'_>,
    data: PyBackedBytes,
    dialect: &PyDialect,
    receive_ns: i64,
    max_late_ns: i64,
    max_rows_per_span: usize,
    max_depth: u32,
) -> PyResult<PySpanBatch> {
    // the walk recurses; 1000 levels stay far inside a thread's stack
    if !(1..=1000).contains(&max_depth) {
        return Err(PyValueError::new_err(format!(
            "max_depth: expected 1 to 1000, got {max_depth}"
        )));
    }
    if max_late_ns < 0 {
        return Err(PyValueError::new_err(format!(
            "max_late_ns: expected 0 or more, got {max_late_ns}"
        )));
    }
    let limits = Limits {
        max_late_ns,
        max_rows_per_span,
        max_depth,
    };
    let dialect = dialect.inner.clone();
    let is_short = data.len() <= SHORT;
    let decode = move || decode::decode_traces(Arc::new(data), &dialect, receive_ns, &limits);
    let decoded = if is_short {
        decode()
    } else {
        py.detach(decode)
    };
    match decoded {
        Ok(batch) => Ok(PySpanBatch {
            inner: Arc::new(batch),
        }),
        Err(error) => Err(decode_error(py, error)),
    }
}

#[pyfunction]
fn prediction_columns<'py>(
    py: Python<'py>,
    batches: Vec<PyRef<'py, PySpanBatch>>,
) -> PyResult<Bound<'py, PyDict>> {
    let batches: Vec<_> = batches.iter().map(|batch| batch.inner.clone()).collect();
    let columns = py.detach(|| {
        let mut columns = Columns::default();
        batches.iter().for_each(|batch| columns.push_batch(batch));
        columns
    });
    columns_dict(py, columns)
}

/// The dict that `prediction_columns` returns.
pub fn columns_dict(py: Python<'_>, columns: Columns) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    for (name, values) in [
        ("event_time", columns.event_time),
        ("receive_time", columns.receive_time),
        ("duration_ns", columns.duration_ns),
    ] {
        dict.set_item(name, (values.into_pyarray(py), py.None(), py.None()))?;
    }
    for (name, Numbers { values, null }) in [
        ("score", columns.score),
        ("confidence", columns.confidence),
        ("inbound_weight", columns.inbound_weight),
    ] {
        dict.set_item(
            name,
            (values.into_pyarray(py), null.into_pyarray(py), py.None()),
        )?;
    }
    for (name, texts) in [
        ("model", columns.model),
        ("version", columns.version),
        ("role", columns.role),
        ("task", columns.task),
        ("error_type", columns.error_type),
    ] {
        dict.set_item(name, texts_tuple(py, texts, false)?)?;
    }
    dict.set_item("predicted", texts_tuple(py, columns.predicted, true)?)?;
    for (name, texts) in columns.segments {
        dict.set_item(format!("segments.{name}"), texts_tuple(py, texts, true)?)?;
    }
    Ok(dict)
}

fn texts_tuple(py: Python<'_>, texts: Texts, nullable: bool) -> PyResult<Bound<'_, PyTuple>> {
    let null = nullable.then(|| texts.null.into_pyarray(py));
    let categories = PyList::new(py, texts.categories.iter().map(|text| &**text))?;
    (texts.codes.into_pyarray(py), null, categories).into_pyobject(py)
}

#[pyfunction]
fn decompress<'py>(
    py: Python<'py>,
    encoding: &str,
    data: PyBackedBytes,
    limit: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    match py.detach(|| inflate::decompress(encoding, &data, limit)) {
        Ok(bytes) => bytes_of(py, &bytes),
        Err(inflate::Error::Data(error)) => Err(decode_error(py, error)),
        Err(inflate::Error::TooLarge) => Err(PyOverflowError::new_err(format!(
            "the {encoding} body holds more than the limit of {limit} bytes"
        ))),
        Err(error @ inflate::Error::Encoding) => {
            Err(PyValueError::new_err(format!("{error}, got {encoding:?}")))
        }
    }
}

#[pyclass(name = "JsonSchema", frozen, module = "leadline._kernel")]
pub struct PyJsonSchema {
    inner: Schema,
}

/// What a field's kind needs beside its name.
#[derive(FromPyObject)]
enum Detail {
    Number(usize),
    Names(Vec<(String, i32)>),
}

type FieldRow = (Vec<String>, u32, String, bool, bool, Option<Detail>);

#[pymethods]
impl PyJsonSchema {
    #[new]
    fn new(messages: Vec<(bool, Vec<FieldRow>)>) -> PyResult<Self> {
        let mut inner = Schema::default();
        let count = messages.len();
        for (nests, rows) in messages {
            let mut message = Message {
                nests,
                ..Message::default()
            };
            for (names, number, kind, repeated, takes_null, detail) in rows {
                let kind = match (&*kind, detail) {
                    ("message", Some(Detail::Number(index))) if index < count => {
                        Kind::Message(index)
                    }
                    ("id", Some(Detail::Number(size))) => Kind::Id(size),
                    ("enum", Some(Detail::Names(names))) => Kind::Enum(
                        names
                            .into_iter()
                            .map(|(name, number)| (name.into(), number))
                            .collect(),
                    ),
                    ("string", None) => Kind::Text,
                    ("bytes", None) => Kind::Base64,
                    ("bool", None) => Kind::Bool,
                    ("double", None) => Kind::Double,
                    (other, None) => Kind::integer(other).ok_or_else(|| {
                        PyValueError::new_err(format!("{names:?}: no kind is called {other:?}"))
                    })?,
                    (other, Some(_)) => {
                        let message = format!("{names:?}: not the detail of a {other:?}");
                        return Err(PyValueError::new_err(message));
                    }
                };
                for name in names {
                    message
                        .fields
                        .insert(name.into_bytes().into(), inner.fields.len());
                }
                inner.fields.push(Field {
                    number,
                    kind,
                    repeated,
                    takes_null,
                });
            }
            inner.messages.push(message);
        }
        if inner.messages.is_empty() {
            return Err(PyValueError::new_err("expected at least one message"));
        }
        Ok(Self { inner })
    }
}

#[pyfunction]
fn transcode_json<'py>(
    py: Python<'py>,
    schema: &PyJsonSchema,
    document: PyBackedBytes,
    limit: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    match py.detach(|| transcode::transcode(&schema.inner, &document, limit)) {
        Ok(bytes) => bytes_of(py, &bytes),
        Err(transcode::Error::Fault { path, what, offset }) => {
            let text = if path.is_empty() {
                what.clone()
            } else {
                format!("{path}: {what}")
            };
            Err(raised(py, text, offset, what))
        }
        Err(transcode::Error::TooLarge) => Err(PyOverflowError::new_err(format!(
            "the document becomes more than the limit of {limit} bytes"
        ))),
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let error = py.get_type::<DecodeError>();
    error.setattr("offset", 0)?;
    error.setattr("what", "")?;
    module.add("DecodeError", error)?;
    module.add_class::<PyDialect>()?;
    module.add_class::<PySpanBatch>()?;
    module.add_class::<PyJsonSchema>()?;
    module.add_function(wrap_pyfunction!(transcode_json, module)?)?;
    module.add_function(wrap_pyfunction!(decode_traces, module)?)?;
    module.add_function(wrap_pyfunction!(prediction_columns, module)?)?;
    module.add_function(wrap_pyfunction!(decompress, module)?)?;
    module.add("FIELDS", PyTuple::new(py, FIELDS)?)
}
