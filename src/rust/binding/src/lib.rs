//! The Python module `leadline._kernel`. Its manual is `src/leadline/_kernel.pyi`.

use pyo3::prelude::*;

mod buffer;
mod bytes;
mod decode;
mod records;
mod sketches;

#[pymodule]
fn _kernel(module: &Bound<'_, PyModule>) -> PyResult<()> {
    decode::register(module)?;
    records::register(module)?;
    sketches::register(module)?;
    buffer::register(module)?;
    // the .pyi says what is public
    module.delattr("__all__")
}
