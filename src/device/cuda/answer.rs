//! What the driver's functions answer.

use std::ffi::CStr;
use std::ptr;

use cudarc::driver::sys::{self, CUresult};

use crate::error::{Error, Result};

/// The driver's name for an error.
pub(super) fn describe(result: CUresult) -> String {
    let mut text = ptr::null();
    // SAFETY: on success the driver stores a pointer to a static string.
    let found = unsafe { sys::cuGetErrorString(result, &mut text) };
    if found != CUresult::CUDA_SUCCESS || text.is_null() {
        return format!("{result:?}");
    }
    // SAFETY: the pointer was just stored and is a static, terminated string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// What the driver answered as a `Result`; `what` says what was asked.
///
/// # Errors
/// A `Device` error in the driver's words.
pub(super) fn check(what: &str, result: CUresult) -> Result<()> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        error => Err(Error::Device(format!("the GPU failed at {what}: {}", describe(error)))),
    }
}
