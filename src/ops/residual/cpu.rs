//! Residual addition on the CPU.

use crate::ops::element::Element;
use crate::tensor::element;

/// `y += x`.
pub fn forward<E: Element>(y: &mut [E], x: &[E]) {
    element::add_assign(y, x);
}
