//! Bytes to Python.

use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// From here on a copy takes a millisecond, or a hundred where the pages are new.
const LARGE: usize = 1 << 20;

/// `data` as a bytes object; a large copy is made without the GIL, so that the event loop goes on meanwhile.
pub fn bytes_of<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    if data.len() < LARGE {
        return Ok(PyBytes::new(py, data));
    }
    // Why `unsafe`: PyO3 fills bytes with the GIL held, since it cannot know that nothing else has the object yet.
    // SAFETY: given no bytes, the call makes a new object of this size, or fails with a null pointer.
    let object = unsafe {
        let made = ffi::PyBytes_FromStringAndSize(ptr::null(), data.len() as ffi::Py_ssize_t);
        Bound::from_owned_ptr_or_err(py, made)?
    };
    // SAFETY: it is a bytes object.
    let start = unsafe { ffi::PyBytes_AsString(object.as_ptr()) } as usize;
    // SAFETY: `object` is the only reference, and bytes are not known to the garbage collector: nothing reads or frees them
    // until this function returns. They are as many as `data`, and elsewhere.
    py.detach(|| unsafe { ptr::copy_nonoverlapping(data.as_ptr(), start as *mut u8, data.len()) });
    Ok(object.cast_into::<PyBytes>()?)
}
