//! Binding of metrics and logs.

use std::collections::BTreeMap;

use leadline_kernel::records::{self, Error, Limits, Records, logs, metrics};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::bytes::bytes_of;
use crate::decode::decode_error;

#[pyclass(name = "RecordBatch", frozen, module = "leadline._kernel")]
pub struct PyRecordBatch {
    inner: Records,
}

#[pymethods]
impl PyRecordBatch {
    #[getter]
    fn items(&self) -> u64 {
        self.inner.items
    }

    #[getter]
    fn rejected(&self) -> BTreeMap<&'static str, u64> {
        self.inner.rejected.clone()
    }

    #[getter]
    fn size(&self) -> usize {
        self.inner.size()
    }

    #[getter]
    fn events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let events = self.inner.events.iter();
        PyList::new(py, events.map(|event| PyBytes::new(py, event)))
    }

    fn rows<'py>(
        &self,
        py: Python<'py>,
        collector: &str,
        segment: u64,
    ) -> PyResult<Vec<(&'static str, Bound<'py, PyBytes>, u64)>> {
        let rows = py.detach(|| self.inner.rows(collector, segment));
        rows.into_iter()
            .map(|(table, data, count)| Ok((table, bytes_of(py, &data)?, count)))
            .collect()
    }
}

fn batch(
    py: Python<'_>,
    max_repeated: u64,
    decode: impl FnOnce() -> records::Result<Records> + Send,
) -> PyResult<PyRecordBatch> {
    match py.detach(decode) {
        Ok(inner) => Ok(PyRecordBatch { inner }),
        Err(Error::Wire(error)) => Err(decode_error(py, error)),
        Err(Error::Repeated) => Err(PyOverflowError::new_err(format!(
            "what rows repeat comes to more than {max_repeated} bytes"
        ))),
    }
}

#[pyfunction]
#[pyo3(signature = (data, receive_ns, *, events, max_late_ns, max_items, max_repeated, max_depth = 64))]
#[allow(clippy::too_many_arguments)] // the arguments are the bounds, as the .pyi states them
fn decode_logs(
    py: Python<'_>,
    data: PyBackedBytes,
    receive_ns: i64,
    events: Vec<String>,
    max_late_ns: i64,
    max_items: u64,
    max_repeated: u64,
    max_depth: u32,
) -> PyResult<PyRecordBatch> {
    let limits = Limits {
        max_late_ns,
        max_items,
        max_repeated,
        max_depth,
    };
    batch(py, max_repeated, || {
        records::decode_logs(&data, receive_ns, &events, &limits)
    })
}

#[pyfunction]
#[pyo3(signature = (data, receive_ns, *, max_late_ns, max_items, max_repeated, max_depth = 64))]
fn decode_metrics(
    py: Python<'_>,
    data: PyBackedBytes,
    receive_ns: i64,
    max_late_ns: i64,
    max_items: u64,
    max_repeated: u64,
    max_depth: u32,
) -> PyResult<PyRecordBatch> {
    let limits = Limits {
        max_late_ns,
        max_items,
        max_repeated,
        max_depth,
    };
    batch(py, max_repeated, || {
        records::decode_metrics(&data, receive_ns, &limits)
    })
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add_class::<PyRecordBatch>()?;
    module.add_function(wrap_pyfunction!(decode_logs, module)?)?;
    module.add_function(wrap_pyfunction!(decode_metrics, module)?)?;
    let columns = PyDict::new(py);
    columns.set_item(logs::TABLE, logs::COLUMNS.to_vec())?;
    for (table, groups) in metrics::TABLES {
        columns.set_item(table, groups.concat())?;
    }
    module.add("RECORD_COLUMNS", columns)
}
