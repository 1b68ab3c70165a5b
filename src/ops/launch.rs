//! Launches that several operators share.

use crate::device::Gpu;
use crate::device::launch::Arg;
use crate::error::Result;
use crate::tensor::{Tensor, per_element};

/// Starts `KERNEL_DTYPE(y, x, elements)`, one thread for eight elements; `y` may be read as well as written.
///
/// # Errors
/// If the device fails.
///
/// # Panics
/// If lengths or dtypes differ, or while another tensor shares `y`'s memory.
pub fn elementwise(gpu: &Gpu, kernel: &str, y: &mut Tensor, x: &Tensor) -> Result<()> {
    assert_eq!((y.len(), y.dtype()), (x.len(), x.dtype()), "{kernel}: lengths and dtypes");
    let arguments = [Arg::Pointer(y.address_mut()), Arg::Pointer(x.address()), Arg::U64(x.len() as u64)];
    gpu.launch(&format!("{kernel}_{}", x.dtype().suffix()), per_element(x.len()), &arguments)
}
