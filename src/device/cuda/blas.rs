//! Matrix products by cuBLASLt: f32 sums, a fixed workspace, the first algorithm that the heuristic gives, or the one that a
//! table has for the shape ([`crate::device::products`]).
//!
//! cuBLASLt thinks in columns; a row-major matrix is its transpose. So `c = a b` is asked for as `c^T = b^T a^T`: the same
//! memory, factors swapped. Split sums may meet in f32 (in place or in the workspace), never in the output's narrower
//! type: "reduced-precision reductions" are off.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::mem::size_of;
use std::ptr;
use std::sync::Mutex;
use std::time::Instant;

use cudarc::cublaslt::result as lt;
use cudarc::cublaslt::sys as raw;
use cudarc::driver::sys as driver;

use super::libraries;
use crate::device::DType;
use crate::device::launch::{Epilogue, GpuMatrix, Product};
use crate::device::products::{ProductTable, hexadecimal};
use crate::error::{Error, Result};

/// Bytes of workspace: part of what decides bits, because the heuristic chooses by it.
const WORKSPACE: usize = 32 << 20;

/// Algorithms that tuning tries for a shape: as many as the heuristic thinks worth it, at most.
const CANDIDATES: usize = 24;
/// Calls between two looks at the clock when tuning, and how often that is done: the best round counts.
const CALLS: u32 = 5;
const ROUNDS: usize = 4;
/// An algorithm is taken instead of the heuristic's first only if its time is below this share of the first's: a choice
/// within the noise of the clock is none.
const BETTER: f64 = 0.98;

/// What the choice of an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    strides: [usize; 3],
    transposed: (bool, bool),
    types: (&'static str, &'static str),
    /// Whether the old content is added, whether a bias is, and the epilogue.
    kind: (bool, bool, &'static str),
    /// Alignment of the three addresses, in bytes up to 16.
    alignment: [u32; 4],
}

impl Shape {
    /// The shape in words: the key of a table.
    fn words(&self) -> String {
        let Shape { m, n, k, strides, transposed, types, kind, alignment } = self;
        let t = |transposed| if transposed { "t" } else { "n" };
        let (ta, tb) = (t(transposed.0), t(transposed.1));
        let added = if kind.0 { " add" } else { "" };
        let bias = if kind.1 { " bias" } else { "" };
        let [a, b, c] = strides;
        let [align_a, align_b, align_c, align_bias] = alignment;
        format!(
            "{m}x{n}x{k} {ta}{tb} {}->{}{added}{bias}{} strides {a},{b},{c} aligned {align_a},{align_b},{align_c},{align_bias}",
            types.0, types.1, kind.2
        )
    }
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
    state: Mutex<State>,
    version: usize,
}

/// What decides algorithms, and what has been decided.
#[derive(Default)]
struct State {
    plans: BTreeMap<Shape, Plan>,
    /// Whether f32 factors are rounded to TF32.
    tf32: bool,
    /// Given algorithms, by the shape in words.
    table: ProductTable,
    /// Whether new shapes are measured, and what that has found.
    tuning: bool,
    tuned: BTreeMap<String, String>,
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
        Ok(Blas { handle, stream, workspace, state: Mutex::default(), version })
    }

    /// Name and version.
    pub fn version(&self) -> String {
        format!("cuBLASLt {}.{}.{}", self.version / 10_000, self.version / 100 % 100, self.version % 100)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Whether products of f32 matrices may round their factors to TF32 (10 bits of mantissa), from now on.
    pub fn allow_tf32(&self, allow: bool) {
        let mut state = self.state();
        if std::mem::replace(&mut state.tf32, allow) != allow {
            state.plans.retain(|shape, _| shape.types.0 != DType::F32.suffix());
        }
    }

    /// See [`crate::device::launch::Driver::use_algorithms`].
    pub fn use_algorithms(&self, algorithms: &BTreeMap<String, String>) -> Result<()> {
        let table = ProductTable { algorithms: algorithms.clone(), ..ProductTable::default() };
        let length = size_of::<raw::cublasLtMatmulAlgo_t>();
        if let Some(shape) =
            table.algorithms.keys().find(|&shape| table.algorithm(shape).is_none_or(|a| a.len() != length))
        {
            return Err(Error::Device(format!("the algorithm for {shape:?} is not one of this cuBLASLt's")));
        }
        let mut state = self.state();
        state.plans.clear();
        state.table = table;
        Ok(())
    }

    /// See [`crate::device::launch::Driver::tune`].
    pub fn tune(&self, tuning: bool) {
        let mut state = self.state();
        state.tuning = tuning;
        state.plans.clear();
    }

    /// See [`crate::device::launch::Driver::tuned`].
    pub fn tuned(&self) -> BTreeMap<String, String> {
        self.state().tuned.clone()
    }

    /// Starts a product.
    pub fn multiply(&self, product: &Product) -> Result<()> {
        let failed = |error: lt::CublasError| {
            let ((m, k), n) = (product.a.extent(), product.c.cols);
            Error::Device(format!("a matrix product of {m} x {k} by {k} x {n} ({:?}) failed: {error}", product.a.dtype))
        };
        let mut state = self.state();
        let shape = shape_of(product);
        let plan = match state.plans.get(&shape) {
            Some(plan) => *plan,
            None => {
                let plan = self.plan(product, &shape, &mut state).map_err(failed)?;
                state.plans.insert(shape, plan);
                plan
            }
        };
        self.start(product, &plan).map_err(failed)
    }

    fn start(&self, product: &Product, plan: &Plan) -> Result<(), lt::CublasError> {
        let Product { a, b, c, alpha, beta, .. } = *product;
        set_addresses(plan.description, product)?;
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
    }

    fn plan(&self, product: &Product, shape: &Shape, state: &mut State) -> Result<Plan, lt::CublasError> {
        let Product { a, b, c, .. } = *product;
        let compute = match (a.dtype, state.tf32) {
            (DType::F32, true) => raw::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => raw::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        use raw::cublasLtMatmulDescAttributes_t as Field;
        let description = lt::create_matmul_desc(compute, raw::cudaDataType_t::CUDA_R_32F)?;
        // As columns, a stored row-major matrix is its transpose already; the product's own transposes carry over.
        set_description(description, Field::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(b.transposed))?;
        set_description(description, Field::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(a.transposed))?;
        set_description(description, Field::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue(product) as u32))?;
        if product.epilogue != Epilogue::Plain {
            set_description(description, Field::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &(c.stride as i64))?;
        }
        // The heuristic asks whether the epilogue's addresses are there.
        set_addresses(description, product)?;
        let layout = |matrix: GpuMatrix| {
            let (rows, columns) = (matrix.cols as u64, matrix.rows as u64);
            lt::create_matrix_layout(data_type(matrix.dtype), rows, columns, matrix.stride as i64)
        };
        let layouts = [layout(b)?, layout(a)?, layout(c)?];
        let mut plan = Plan { description, layouts, algorithm: raw::cublasLtMatmulAlgo_t { data: [0; 8] } };
        let words = shape.words();
        if let Some(algorithm) = state.table.algorithm(&words) {
            plan.algorithm = self.checked(&plan, &algorithm)?;
            return Ok(plan);
        }
        let candidates = self.candidates(&plan, shape, if state.tuning { CANDIDATES } else { 1 })?;
        plan.algorithm = candidates[0];
        if state.tuning {
            plan.algorithm = self.fastest(product, plan, &candidates)?;
            state.tuned.insert(words, hexadecimal(bytemuck::cast_slice(&plan.algorithm.data)));
        }
        Ok(plan)
    }

    /// An algorithm of a table, which the library must know and be able to run in the workspace.
    fn checked(&self, plan: &Plan, bytes: &[u8]) -> Result<raw::cublasLtMatmulAlgo_t, lt::CublasError> {
        let mut algorithm = raw::cublasLtMatmulAlgo_t { data: [0; 8] };
        bytemuck::cast_slice_mut(&mut algorithm.data).copy_from_slice(bytes);
        let [right, left, out] = plan.layouts;
        // SAFETY: an all-zero result is a valid one.
        let mut found: raw::cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        // SAFETY: all descriptors are live.
        unsafe {
            let (handle, description) = (self.handle, plan.description);
            raw::cublasLtMatmulAlgoCheck(handle, description, right, left, out, out, &algorithm, &mut found)
                .result()?;
        }
        if found.workspaceSize > WORKSPACE {
            return Err(lt::CublasError(raw::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED));
        }
        Ok(algorithm)
    }

    /// Up to `count` algorithms, those first that the heuristic thinks best.
    fn candidates(
        &self,
        plan: &Plan,
        shape: &Shape,
        count: usize,
    ) -> Result<Vec<raw::cublasLtMatmulAlgo_t>, lt::CublasError> {
        let preference = lt::create_matmul_pref()?;
        use raw::cublasLtMatmulPreferenceAttributes_t as Wish;
        let schemes = raw::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_INPLACE as u32
            | raw::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        set_preference(preference, Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)?;
        set_preference(preference, Wish::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes)?;
        let bytes = shape.alignment;
        for (wish, bytes) in [
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, bytes[1]),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, bytes[0]),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, bytes[2]),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, bytes[2]),
        ] {
            set_preference(preference, wish, &bytes)?;
        }
        // SAFETY: all-zero results are valid ones.
        let mut found: Vec<raw::cublasLtMatmulHeuristicResult_t> = vec![unsafe { std::mem::zeroed() }; count];
        let ([right, left, out], mut written) = (plan.layouts, 0);
        // SAFETY: all descriptors are live, and `found` has room for `count` results.
        let asked = unsafe {
            raw::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                plan.description,
                right,
                left,
                out,
                out,
                preference,
                count as i32,
                found.as_mut_ptr(),
                &mut written,
            )
        };
        // SAFETY: it was made above and is not used again.
        unsafe { lt::destroy_matmul_pref(preference) }?;
        asked.result()?;
        found.truncate(written.max(0) as usize);
        found.retain(|found| found.state == raw::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
        match found.is_empty() {
            true => Err(lt::CublasError(raw::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)),
            false => Ok(found.iter().map(|found| found.algo).collect()),
        }
    }

    /// The fastest of some algorithms on these matrices: the first, unless another is clearly better.
    fn fastest(
        &self,
        product: &Product,
        plan: Plan,
        candidates: &[raw::cublasLtMatmulAlgo_t],
    ) -> Result<raw::cublasLtMatmulAlgo_t, lt::CublasError> {
        let mut best: Option<(f64, raw::cublasLtMatmulAlgo_t)> = None;
        for &algorithm in candidates {
            // One that does not run is no candidate; the first must.
            let time = self.seconds(product, &Plan { algorithm, ..plan });
            match (&best, time) {
                (None, Err(error)) => return Err(error),
                (None, Ok(time)) => best = Some((time * BETTER, algorithm)),
                (Some((least, _)), Ok(time)) if time < *least => best = Some((time, algorithm)),
                _ => {}
            }
        }
        Ok(best.map_or(plan.algorithm, |(_, algorithm)| algorithm))
    }

    /// Seconds of one call.
    fn seconds(&self, product: &Product, plan: &Plan) -> Result<f64, lt::CublasError> {
        let wait = || {
            // SAFETY: the stream lives as long as the driver.
            match unsafe { driver::cuStreamSynchronize(self.stream) } {
                driver::CUresult::CUDA_SUCCESS => Ok(()),
                _ => Err(lt::CublasError(raw::cublasStatus_t::CUBLAS_STATUS_EXECUTION_FAILED)),
            }
        };
        self.start(product, plan)?;
        wait()?;
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let began = Instant::now();
            for _ in 0..CALLS {
                self.start(product, plan)?;
            }
            wait()?;
            best = best.min(began.elapsed().as_secs_f64() / f64::from(CALLS));
        }
        Ok(best)
    }
}

fn epilogue(product: &Product) -> raw::cublasLtEpilogue_t {
    use raw::cublasLtEpilogue_t as Kind;
    match (product.epilogue, product.bias.is_some()) {
        (Epilogue::Plain, false) => Kind::CUBLASLT_EPILOGUE_DEFAULT,
        (Epilogue::Plain, true) => Kind::CUBLASLT_EPILOGUE_BIAS,
        (Epilogue::Gelu { .. }, false) => Kind::CUBLASLT_EPILOGUE_GELU_AUX,
        (Epilogue::Gelu { .. }, true) => Kind::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
        (Epilogue::GeluBackward { .. }, _) => Kind::CUBLASLT_EPILOGUE_DGELU,
    }
}

/// The addresses that the epilogue reads and writes: they change from call to call.
fn set_addresses(description: raw::cublasLtMatmulDesc_t, product: &Product) -> Result<(), lt::CublasError> {
    use raw::cublasLtMatmulDescAttributes_t as Field;
    if let Some(bias) = product.bias {
        set_description(description, Field::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
    }
    match product.epilogue {
        Epilogue::Plain => Ok(()),
        Epilogue::Gelu { input } | Epilogue::GeluBackward { input } => {
            set_description(description, Field::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &input)
        }
    }
}

fn shape_of(product: &Product) -> Shape {
    let Product { a, b, c, alpha: _, beta, bias, epilogue } = *product;
    let ((m, k), n) = (a.extent(), c.cols);
    let alignment = |address: u64| 1 << address.trailing_zeros().min(4);
    let bias_alignment = bias.map_or(16, alignment);
    let epilogue = match epilogue {
        Epilogue::Plain => "",
        Epilogue::Gelu { .. } => " gelu",
        Epilogue::GeluBackward { .. } => " gelu-backward",
    };
    Shape {
        m,
        n,
        k,
        strides: [a.stride, b.stride, c.stride],
        transposed: (a.transposed, b.transposed),
        types: (a.dtype.suffix(), c.dtype.suffix()),
        kind: (beta != 0.0, bias.is_some(), epilogue),
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
