//! Binding of the sketches.

use std::sync::{Mutex, MutexGuard, PoisonError};

use leadline_kernel::sketches::{Bins, Config, GroupQuantiles, SKETCH_COLUMNS, Sketches};
use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::bytes::bytes_of;
use crate::decode::PySpanBatch;

/// (model, series, bins_id, edges, atoms, categories).
type Reference = (String, String, String, Vec<f64>, Vec<f64>, Vec<String>);

#[pyclass(name = "Sketches", frozen, module = "leadline._kernel")]
struct PySketches {
    inner: Mutex<Sketches>,
}

impl PySketches {
    fn lock(&self) -> MutexGuard<'_, Sketches> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PySketches {
    #[new]
    #[pyo3(signature = (window_ns = 60_000_000_000, *, max_groups = 1_000, max_series = 2_000, max_categories = 256, max_cells = 100_000, atoms = 1_024, compression = 200))]
    fn new(
        window_ns: i64,
        max_groups: usize,
        max_series: usize,
        max_categories: usize,
        max_cells: usize,
        atoms: usize,
        compression: u32,
    ) -> PyResult<Self> {
        let config = Config {
            window_ns,
            max_groups,
            max_series,
            max_categories,
            max_cells,
            atoms,
            compression,
        };
        let sketches = Sketches::new(config).map_err(PyValueError::new_err)?;
        Ok(Self {
            inner: Mutex::new(sketches),
        })
    }

    fn set_references(&self, py: Python<'_>, references: Vec<Reference>) -> PyResult<()> {
        let mut checked = Vec::with_capacity(references.len());
        for (index, (model, series, id, edges, atoms, categories)) in
            references.into_iter().enumerate()
        {
            let categories = categories
                .into_iter()
                .map(|text| text.into_bytes().into())
                .collect();
            let bins = Bins::new(&id, edges, atoms, categories).map_err(|error| {
                PyValueError::new_err(format!("references[{index}] ({model}, {series}): {error}"))
            })?;
            checked.push((model.into(), series.into(), bins));
        }
        py.detach(|| self.lock().set_references(checked))
            .map_err(PyValueError::new_err)
    }

    fn add(&self, py: Python<'_>, batch: &PySpanBatch) {
        py.detach(|| self.lock().add(&batch.inner));
    }

    #[getter]
    fn overflow<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let overflow = py.detach(|| self.lock().overflow());
        let counts = PyDict::new(py);
        counts.set_item("groups", overflow.groups)?;
        counts.set_item("series", overflow.series)?;
        counts.set_item("categories", overflow.categories)?;
        counts.set_item("cells", overflow.cells)?;
        Ok(counts)
    }

    fn drain<'py>(
        &self,
        py: Python<'py>,
        collector: &str,
        segment: u64,
    ) -> PyResult<(Bound<'py, PyBytes>, u64)> {
        let (rows, count) = py.detach(|| self.lock().drain(collector, segment));
        Ok((bytes_of(py, &rows)?, count))
    }

    #[expect(clippy::type_complexity)]
    fn quantiles<'py>(
        &self,
        py: Python<'py>,
        series: &str,
        levels: Vec<f64>,
    ) -> PyResult<Vec<(String, String, String, f64, Bound<'py, PyArray1<f64>>)>> {
        if let Some(at) = levels.iter().position(|level| !(0.0..=1.0).contains(level)) {
            return Err(PyValueError::new_err(format!(
                "levels[{at}]: expected 0 to 1, got {}",
                levels[at]
            )));
        }
        let found = py.detach(|| self.lock().quantiles(series, &levels));
        let row = |GroupQuantiles {
                       group,
                       weight,
                       values,
                   }: GroupQuantiles| {
            (
                group.model.into(),
                group.version.into(),
                group.role.into(),
                weight,
                values.into_pyarray(py),
            )
        };
        Ok(found.into_iter().map(row).collect())
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PySketches>()?;
    module.add("SKETCH_COLUMNS", PyTuple::new(module.py(), SKETCH_COLUMNS)?)
}
