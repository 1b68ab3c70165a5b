//! Matrix products by cuBLASLt: f32 sums, a fixed workspace, the first algorithm that the heuristic gives.
//!
//! cuBLASLt thinks in columns; a row-major matrix is its transpose. So `c = a b` is asked for as `c^T = b^T a^T`: the same
//! memory, factors swapped. Split sums may meet in f32 (in place or in the workspace), never in the output's narrower
//! type: "reduced-precision reductions" are off.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::mem::size_of;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::cublaslt::result as lt;
use cudarc::cublaslt::sys as raw;
use cudarc::driver::sys as driver;

use super::libraries;
use crate::device::DType;
use crate::device::launch::{GpuMatrix, Product};
use crate::error::{Error, Result};

/// Bytes of workspace: part of what decides bits, because the heuristic chooses by it.
const WORKSPACE: usize = 32 << 20;

/// What the choice of an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    strides: [usize; 3],
    transposed: (bool, bool),
    types: (&'static str, &'static str),
    /// Whether the old content is added, and whether a bias is.
    kind: (bool, bool),
    /// Alignment of the three addresses, in bytes up to 16.
    alignment: [u32; 4],
}

/// A product, planned: descriptors and algorithm.
#[derive(Clone, Copy)]
struct Plan {
    description: raw::cublasLtMatmulDesc_t,
    layouts: [raw::cublasLtMatrixLayout_t; 3],
    algorithm: raw::cublasLtMatmulAlgo_t,
}

// SAFETY: descriptors are plain data of the library, used under the lock of `Blas::plans`.
unsafe impl Send for Plan {}

/// A cuBLASLt handle with its workspace and the plans of the shapes seen so far.
pub struct Blas {
    handle: raw::cublasLtHandle_t,
    stream: driver::CUstream,
    workspace: u64,
    plans: Mutex<BTreeMap<Shape, Plan>>,
    version: usize,
    /// Whether f32 factors are rounded to TF32.
    tf32: AtomicBool,
}

impl Blas {
    /// Loads the library and makes a handle. A context must be current; `cuda` is the CUDA version of the driver.
    pub fn new(stream: driver::CUstream, cuda: i32) -> Result<Blas> {
        libraries::load_for("libcublasLt.so", cuda)?;
        let failed = |error: lt::CublasError| Error::Device(format!("cuBLASLt does not start: {error}"));
        let handle = lt::create_handle().map_err(failed)?;
        // SAFETY: the library is loaded.
        let version = unsafe { raw::cublasLtGetVersion() };
        let mut workspace = 0;
        // SAFETY: a context is current.
        let got = unsafe { driver::cuMemAlloc_v2(&mut workspace, WORKSPACE) };
        if got != driver::CUresult::CUDA_SUCCESS {
            return Err(Error::Device("the GPU has no 32 MiB left for the workspace of matrix products".into()));
        }
        Ok(Blas { handle, stream, workspace, plans: Mutex::default(), version, tf32: AtomicBool::new(false) })
    }

    /// Name and version.
    pub fn version(&self) -> String {
        format!("cuBLASLt {}.{}.{}", self.version / 10_000, self.version / 100 % 100, self.version % 100)
    }

    /// Whether products of f32 matrices may round their factors to TF32 (10 bits of mantissa), from now on.
    pub fn allow_tf32(&self, allow: bool) {
        let mut plans = self.plans.lock().unwrap_or_else(|poison| poison.into_inner());
        if self.tf32.swap(allow, Ordering::Relaxed) != allow {
            plans.retain(|shape, _| shape.types.0 != DType::F32.suffix());
        }
    }

    /// Starts a product.
    pub fn multiply(&self, product: &Product) -> Result<()> {
        let Product { a, b, c, alpha, beta, bias } = *product;
        let failed = |error: lt::CublasError| {
            let ((m, k), n) = (a.extent(), c.cols);
            Error::Device(format!("a matrix product of {m} x {k} by {k} x {n} ({:?}) failed: {error}", a.dtype))
        };
        let mut plans = self.plans.lock().unwrap_or_else(|poison| poison.into_inner());
        let shape = shape_of(product);
        let plan = match plans.get(&shape) {
            Some(plan) => *plan,
            None => {
                let plan = self.plan(product).map_err(failed)?;
                plans.insert(shape, plan);
                plan
            }
        };
        if let Some(bias) = bias {
            set_description(
                plan.description,
                raw::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                &bias,
            )
            .map_err(failed)?;
        }
        let [right, left, out] = plan.layouts;
        // SAFETY: descriptors and handle are live, the matrices are as large as their layouts say, the workspace is ours,
        // and work on the one stream is in order, so that products may share it.
        unsafe {
            lt::matmul(
                self.handle,
                plan.description,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                b.address as *const c_void,
                right,
                a.address as *const c_void,
                left,
                c.address as *const c_void,
                out,
                c.address as *mut c_void,
                out,
                &plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                self.stream.cast(),
            )
        }
        .map_err(failed)
    }

    fn plan(&self, product: &Product) -> Result<Plan, lt::CublasError> {
        let Product { a, b, c, bias, .. } = *product;
        let compute = match (a.dtype, self.tf32.load(Ordering::Relaxed)) {
            (DType::F32, true) => raw::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => raw::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        use raw::cublasLtMatmulDescAttributes_t as Field;
        let description = lt::create_matmul_desc(compute, raw::cudaDataType_t::CUDA_R_32F)?;
        // As columns, a stored row-major matrix is its transpose already; the product's own transposes carry over.
        set_description(description, Field::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(b.transposed))?;
        set_description(description, Field::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(a.transposed))?;
        if let Some(bias) = bias {
            let epilogue = raw::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
            set_description(description, Field::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            set_description(description, Field::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        let layout = |matrix: GpuMatrix| {
            let (rows, columns) = (matrix.cols as u64, matrix.rows as u64);
            lt::create_matrix_layout(data_type(matrix.dtype), rows, columns, matrix.stride as i64)
        };
        let layouts = [layout(b)?, layout(a)?, layout(c)?];
        let preference = lt::create_matmul_pref()?;
        use raw::cublasLtMatmulPreferenceAttributes_t as Wish;
        let schemes = raw::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_INPLACE as u32
            | raw::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        set_preference(preference, Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)?;
        set_preference(preference, Wish::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes)?;
        let bytes = shape_of(product).alignment;
        for (wish, bytes) in [
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, bytes[1]),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, bytes[0]),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, bytes[2]),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, bytes[2]),
        ] {
            set_preference(preference, wish, &bytes)?;
        }
        // SAFETY: all descriptors are live.
        let found = unsafe {
            lt::get_matmul_algo_heuristic(
                self.handle,
                description,
                layouts[0],
                layouts[1],
                layouts[2],
                layouts[2],
                preference,
            )
        };
        // SAFETY: it was made above and is not used again.
        unsafe { lt::destroy_matmul_pref(preference) }?;
        Ok(Plan { description, layouts, algorithm: found?.algo })
    }
}

fn shape_of(product: &Product) -> Shape {
    let Product { a, b, c, beta, bias, .. } = *product;
    let ((m, k), n) = (a.extent(), c.cols);
    let alignment = |address: u64| 1 << address.trailing_zeros().min(4);
    let bias_alignment = bias.map_or(16, alignment);
    Shape {
        m,
        n,
        k,
        strides: [a.stride, b.stride, c.stride],
        transposed: (a.transposed, b.transposed),
        types: (a.dtype.suffix(), c.dtype.suffix()),
        kind: (beta != 0.0, bias.is_some()),
        alignment: [alignment(a.address), alignment(b.address), alignment(c.address), bias_alignment],
    }
}

fn data_type(dtype: DType) -> raw::cudaDataType_t {
    match dtype {
        DType::BF16 => raw::cudaDataType_t::CUDA_R_16BF,
        DType::F16 => raw::cudaDataType_t::CUDA_R_16F,
        DType::F32 => raw::cudaDataType_t::CUDA_R_32F,
        DType::U32 => raw::cudaDataType_t::CUDA_R_32U,
    }
}

fn set_description<T>(
    description: raw::cublasLtMatmulDesc_t,
    field: raw::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Result<(), lt::CublasError> {
    // SAFETY: the description is live, and the value as long as stated.
    unsafe { lt::set_matmul_desc_attribute(description, field, ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn set_preference<T>(
    preference: raw::cublasLtMatmulPreference_t,
    field: raw::cublasLtMatmulPreferenceAttributes_t,
    value: &T,
) -> Result<(), lt::CublasError> {
    // SAFETY: the preference is live, and the value as long as stated.
    unsafe { lt::set_matmul_pref_attribute(preference, field, ptr::from_ref(value).cast(), size_of::<T>()) }
}
