//! The parameter arena: every parameter is a named, shaped range of one flat buffer.
//!
//! Gradient norm, clipping, AdamW, all-reduce, checkpoints and exact comparison are then each one pass over flat memory,
//! in an order that never changes: the order of the specification. Gradients live in a second buffer of the same layout.
//! Parameters that stay as they are (under adapters) stand first, and have no gradients: buffers of gradients and moments
//! begin where they end.

pub use super::layout::{ALIGN, Layout, ParamId, ParamInfo};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// The values of all parameters: fp32 master weights in one flat buffer, and in mixed precision a copy in the compute
/// dtype in a second, which the optimizer writes in the same pass.
#[derive(Debug)]
pub struct Params {
    layout: Layout,
    flat: Tensor,
    compute: Option<Tensor>,
}

impl Params {
    /// Parameters of this layout, all zero.
    ///
    /// # Errors
    /// If memory cannot be had on the device.
    pub fn zeros(layout: Layout, device: Device) -> Result<Params> {
        let flat = Tensor::zeros(device, DType::F32, &[layout.len()])?;
        Ok(Params { layout, flat, compute: None })
    }

    /// Names, shapes and places.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The value of a parameter, sharing memory with the arena.
    pub fn value(&self, id: ParamId) -> Tensor {
        let info = self.layout.info(id);
        self.flat.view(info.offset, &info.shape)
    }

    /// The parameter as matrix products and tables read it: in the compute dtype, sharing memory with the compute copy (or
    /// with the arena, where that is f32).
    pub fn weight(&self, id: ParamId) -> Tensor {
        let info = self.layout.info(id);
        self.compute.as_ref().unwrap_or(&self.flat).view(info.offset, &info.shape)
    }

    /// [`Params::weight`] with the spare rows, which are zero.
    pub fn padded_weight(&self, id: ParamId) -> Tensor {
        let info = self.layout.info(id);
        self.compute.as_ref().unwrap_or(&self.flat).view(info.offset, &info.padded_shape())
    }

    /// The dtype of activations and of [`Params::weight`].
    pub fn compute_dtype(&self) -> DType {
        self.compute.as_ref().map_or(DType::F32, Tensor::dtype)
    }

    /// These parameters on a device, with a copy in the compute dtype where that is not f32. Memory is shared where they
    /// are there already.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn to_device(&self, device: Device, compute: DType) -> Result<Params> {
        let flat = self.flat.to_device(device)?;
        let compute = (compute != DType::F32).then(|| flat.to_dtype(compute)).transpose()?;
        Ok(Params { layout: self.layout.clone(), flat, compute })
    }

    /// These parameters with a copy in the compute dtype where that is not f32, on their device.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn with_compute(self, dtype: DType) -> Result<Params> {
        let compute = (dtype != DType::F32).then(|| self.flat.to_dtype(dtype)).transpose()?;
        Ok(Params { compute, ..self })
    }

    /// Replaces the master weights of the parameters that are trained, and renews the compute copy.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If the length differs, or while views of the weights live.
    pub fn load(&mut self, values: &[f32]) -> Result<()> {
        assert_eq!(values.len(), self.layout.trained(), "values of all trained parameters");
        let values = Tensor::from_f32(values, &[values.len()])?.to_device(self.flat.device())?;
        self.flat.copy_part(self.layout.frozen(), &values)?;
        self.renew_compute()
    }

    /// Makes the compute copy anew from the master weights, after others than the optimizer have written them.
    ///
    /// # Errors
    /// If the device fails.
    pub fn renew_compute(&mut self) -> Result<()> {
        if let Some(compute) = &mut self.compute {
            compute.cast_from(&self.flat)?;
        }
        Ok(())
    }

    /// The whole buffer of master weights.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// The master weights of the parameters that are trained: the end of the buffer.
    pub fn trained(&self) -> Tensor {
        self.flat.view(self.layout.frozen(), &[self.layout.trained()])
    }

    /// The whole buffer, to be changed. It does not renew the compute copy.
    pub fn flat_mut(&mut self) -> &mut Tensor {
        &mut self.flat
    }

    /// Both buffers, to be changed: the master weights, and the compute copy where there is one.
    pub fn buffers_mut(&mut self) -> (&mut Tensor, Option<&mut Tensor>) {
        (&mut self.flat, self.compute.as_mut())
    }

    /// Sets a parameter from host values.
    ///
    /// # Errors
    /// If the number of values differs.
    pub fn set(&mut self, id: ParamId, values: &[f32]) -> Result<()> {
        let range = self.layout.info(id).range();
        if values.len() != range.len() {
            let info = self.layout.info(id);
            return Err(Error::Training(format!(
                "{}: {} values for a parameter of shape {:?}",
                info.name,
                values.len(),
                info.shape
            )));
        }
        self.flat.f32_mut()[range].copy_from_slice(values);
        Ok(())
    }
}

/// The gradients of the parameters that are trained: fp32, in the layout of the arena. Backward passes add to them in place.
#[derive(Debug)]
pub struct Gradients {
    layout: Layout,
    flat: Tensor,
}

impl Gradients {
    /// Zero gradients for these parameters.
    ///
    /// # Errors
    /// If memory cannot be had on the device.
    pub fn zeros_like(params: &Params) -> Result<Gradients> {
        let flat = Tensor::zeros(params.flat.device(), DType::F32, &[params.layout.trained()])?;
        Ok(Gradients { layout: params.layout.clone(), flat })
    }

    /// Sets all gradients to zero.
    ///
    /// # Errors
    /// If the device fails.
    pub fn clear(&mut self) -> Result<()> {
        self.flat.clear()
    }

    /// Names, shapes and places.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The whole buffer.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// The whole buffer, to be changed.
    pub fn flat_mut(&mut self) -> &mut Tensor {
        &mut self.flat
    }

    /// Whether there is a gradient of this parameter. Where there is none, operators need not compute it.
    pub fn wants(&self, id: ParamId) -> bool {
        self.layout.is_trained(id)
    }

    /// Where the gradient of a parameter stands in the buffer.
    fn range(&self, id: ParamId) -> std::ops::Range<usize> {
        let info = self.layout.info(id);
        assert!(self.wants(id), "{} has no gradient: it is not trained", info.name);
        let first = info.offset - self.layout.frozen();
        first..first + info.len()
    }

    /// The gradient of one parameter, in host memory.
    ///
    /// # Panics
    /// If the parameter is not trained; so do the others that follow.
    pub fn of(&self, id: ParamId) -> &[f32] {
        &self.flat.f32()[self.range(id)]
    }

    /// The device address of one parameter's gradient, to be added to.
    ///
    /// # Panics
    /// In host memory, or while the buffer is shared.
    pub fn address_mut(&mut self, id: ParamId) -> u64 {
        let first = self.range(id).start;
        self.flat.address_mut() + (first * DType::F32.size()) as u64
    }

    /// [`Gradients::address_mut`], if there is a gradient of this parameter.
    pub fn wanted_address(&mut self, id: ParamId) -> Option<u64> {
        self.wants(id).then(|| self.address_mut(id))
    }

    /// The gradient of one parameter, in host memory, to be added to.
    pub fn of_mut(&mut self, id: ParamId) -> &mut [f32] {
        let range = self.range(id);
        &mut self.flat.f32_mut()[range]
    }

    /// [`Gradients::wanted`], and the room for the gradient of the parameter's spare rows behind it. What is added there
    /// must be zero.
    pub fn wanted_padded(&mut self, id: ParamId) -> Option<&mut [f32]> {
        let elements = self.layout.info(id).padded_shape().iter().product::<usize>();
        self.wants(id).then(|| {
            let first = self.range(id).start;
            &mut self.flat.f32_mut()[first..first + elements]
        })
    }

    /// [`Gradients::of_mut`], if there is a gradient of this parameter.
    pub fn wanted(&mut self, id: ParamId) -> Option<&mut [f32]> {
        self.wants(id).then(|| self.of_mut(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_aligned_views_of_one_buffer() {
        let mut layout = Layout::default();
        let a = layout.push("a", &[3, 5]);
        let b = layout.push("b", &[7]);
        assert_eq!((layout.info(b).offset, layout.len(), layout.parameters()), (16, 32, 22));
        assert_eq!(
            (layout.owner(14), layout.owner(15), layout.owner(16), layout.owner(40)),
            (Some(a), None, Some(b), None)
        );
        assert!(layout.info(a).decays() && !layout.info(b).decays());
        let mut params = Params::zeros(layout, Device::Cpu).unwrap();
        params.set(b, &[1.0; 7]).unwrap();
        assert!(params.set(a, &[1.0; 7]).is_err());
        assert_eq!(params.value(b).f32(), [1.0; 7]);
        assert_eq!(params.flat().f32().iter().sum::<f32>(), 7.0);
        assert_eq!(params.layout().find("b"), Some(b));
    }

    #[test]
    fn the_compute_copy_is_the_rounded_weights() {
        let mut layout = Layout::default();
        let w = layout.push("w", &[3]);
        let mut params = Params::zeros(layout, Device::Cpu).unwrap().with_compute(DType::BF16).unwrap();
        assert_eq!((params.compute_dtype(), params.weight(w).dtype()), (DType::BF16, DType::BF16));
        let mut values = [0.0; 16];
        values[..3].copy_from_slice(&[1.0, 1.0 + 3.0 / 256.0, -0.1]);
        params.load(&values).unwrap();
        assert_eq!(params.value(w).f32(), &values[..3]);
        let rounded = params.weight(w).to_vec_f32().unwrap();
        assert_eq!(rounded, [1.0, 1.0 + 4.0 / 256.0, half::bf16::from_f32(-0.1).to_f32()]);
        assert_eq!(params.with_compute(DType::F32).unwrap().weight(w).dtype(), DType::F32);
    }

    #[test]
    fn what_is_frozen_has_no_gradient() {
        let mut layout = Layout::default();
        let a = layout.push("a", &[3, 5]);
        layout.freeze();
        let b = layout.push("b", &[7]);
        assert_eq!((layout.len(), layout.frozen(), layout.trained()), (32, 16, 16));
        let mut params = Params::zeros(layout, Device::Cpu).unwrap();
        params.load(&[2.0; 16]).unwrap();
        assert_eq!((params.value(a).f32(), params.value(b).f32()), (&[0.0; 15][..], &[2.0; 7][..]));
        let mut grads = Gradients::zeros_like(&params).unwrap();
        assert_eq!(grads.flat().len(), 16);
        assert!(grads.wanted(a).is_none());
        grads.wanted(b).unwrap()[6] = 1.0;
        assert_eq!(grads.flat().f32()[6], 1.0);
        let ranges: Vec<_> = params.layout().trained_infos().map(|(info, range)| (info.name.as_str(), range)).collect();
        assert_eq!(ranges, [("b", 0..7)]);
    }
}
