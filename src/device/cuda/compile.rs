//! Kernels from source, by NVRTC, for the GPU at hand; compiled ones are kept on disk.
//!
//! The sources are in the binary and include nothing but each other, so no toolkit is needed. A compiled kernel is kept
//! under a name that holds a hash of the sources, the architecture and the compiler's version.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::path::PathBuf;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cudarc::nvrtc::sys::{self, nvrtcResult};
use sha2::{Digest, Sha256};

use super::libraries;
use crate::device::kernels::{HEADERS, SOURCES, Source};
use crate::error::{Error, Result};

/// A file of kernels by its stem, and what was defined when it was compiled.
pub type Instance = (&'static str, Vec<String>);

/// Compiles kernels for one architecture.
pub struct Compiler {
    architecture: String,
    version: (i32, i32),
    cache: Option<PathBuf>,
    /// Compiled files, by stem and definitions, as far as [`Compiler::warm_up`] made them.
    ready: Mutex<BTreeMap<Instance, Vec<u8>>>,
}

/// What compiling one file gave.
#[derive(Clone, Debug)]
pub struct CompileFacts {
    /// The file's stem.
    pub stem: &'static str,
    /// Bytes of the compiled kernels.
    pub bytes: usize,
    /// Seconds it took.
    pub seconds: f64,
}

/// Compiles every kernel for a compute capability such as (8, 0), without a GPU and without the cache.
///
/// # Errors
/// A `Device` error if NVRTC is missing, or with its report if a kernel does not compile.
pub fn compile_all(capability: (u32, u32)) -> Result<Vec<CompileFacts>> {
    let compiler = Compiler { cache: None, ..Compiler::new(capability, i32::MAX)? };
    let sources: Vec<&Source> = SOURCES.iter().collect();
    let mut all = in_parallel(&sources, |source| {
        let began = std::time::Instant::now();
        let bytes = compiler.compile(source, &[])?.len();
        Ok(CompileFacts { stem: source.stem, bytes, seconds: began.elapsed().as_secs_f64() })
    })?;
    all.sort_by_key(|facts| facts.stem);
    Ok(all)
}

/// Does `work` for each source on all cores: NVRTC may run on several threads at once.
fn in_parallel<T: Send>(sources: &[&Source], work: impl Fn(&Source) -> Result<T> + Sync) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push(work(source)?);
        }
        Ok(done)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(sources.len());
    let parts: Vec<Result<Vec<T>>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        running.into_iter().map(|thread| thread.join().expect("a compiling thread")).collect()
    });
    Ok(parts.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn check(what: &str, result: nvrtcResult) -> Result<()> {
    match result {
        nvrtcResult::NVRTC_SUCCESS => Ok(()),
        error => Err(Error::Device(format!("NVRTC failed at {what}: {error:?}"))),
    }
}

impl Compiler {
    /// Loads NVRTC; `cuda` is the CUDA version of the driver, which NVRTC's major version must not exceed.
    pub fn new(capability: (u32, u32), cuda: i32) -> Result<Compiler> {
        libraries::load_for("libnvrtc.so", cuda)?;
        let mut version = (0, 0);
        // SAFETY: the library is loaded, and the pointers are to live integers.
        check("asking for its version", unsafe { sys::nvrtcVersion(&mut version.0, &mut version.1) })?;
        let architecture = format!("sm_{}{}", capability.0, capability.1);
        Ok(Compiler { architecture, version, cache: cache_folder(), ready: Mutex::default() })
    }

    /// Name and version.
    pub fn version(&self) -> String {
        format!("NVRTC {}.{}", self.version.0, self.version.1)
    }

    /// Compiles every file that every model needs, on all cores, so that a first start takes seconds.
    pub fn warm_up(&self) -> Result<()> {
        let of_all: Vec<&Source> = SOURCES.iter().filter(|source| !source.stem.starts_with("attention_")).collect();
        let made = in_parallel(&of_all, |source| Ok((source.stem, self.cubin(source, &[])?)))?;
        let mut ready = self.ready.lock().unwrap_or_else(|poison| poison.into_inner());
        ready.extend(made.into_iter().map(|(stem, cubin)| ((stem, Vec::new()), cubin)));
        Ok(())
    }

    /// The compiled kernels of a file, from the cache on disk where they are there.
    pub fn cubin(&self, source: &Source, definitions: &[String]) -> Result<Vec<u8>> {
        let key = (source.stem, definitions.to_vec());
        if let Some(bytes) = self.ready.lock().unwrap_or_else(|poison| poison.into_inner()).remove(&key) {
            return Ok(bytes);
        }
        let kept = self.cache.as_ref().map(|folder| folder.join(self.name(source, definitions)));
        if let Some(bytes) = kept.as_ref().and_then(|path| read_whole(path)) {
            return Ok(bytes);
        }
        let bytes = self.compile(source, definitions)?;
        tracing::debug!(kernels = source.stem, architecture = %self.architecture, "compiled");
        // A cache that cannot be written costs time at the next start, and nothing else.
        if let Some(path) = kept {
            let _ = write_whole(&path, &bytes);
        }
        Ok(bytes)
    }

    fn name(&self, source: &Source, definitions: &[String]) -> String {
        let mut hash = Sha256::new();
        let texts = HEADERS.iter().flat_map(|(name, text)| [*name, *text]);
        let definitions = definitions.join(" ");
        for text in texts.chain([source.text, &definitions, &self.architecture, &self.version()]) {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        let digest: String = hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{}-{digest}.cubin", source.stem, self.architecture)
    }

    fn compile(&self, source: &Source, definitions: &[String]) -> Result<Vec<u8>> {
        let terminated = |text: &str| CString::new(text).expect("kernel sources hold no zero byte");
        let text = terminated(source.text);
        let name = terminated(&format!("{}.cu", source.stem));
        let headers: Vec<(CString, CString)> =
            HEADERS.iter().map(|(name, text)| (terminated(name), terminated(text))).collect();
        let header_names: Vec<*const c_char> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let header_texts: Vec<*const c_char> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
        let mut program = ptr::null_mut();
        // SAFETY: all strings are terminated and live through the call; the counts fit.
        check("taking the source", unsafe {
            sys::nvrtcCreateProgram(
                &mut program,
                text.as_ptr(),
                name.as_ptr(),
                headers.len() as i32,
                header_texts.as_ptr(),
                header_names.as_ptr(),
            )
        })?;
        let options = [format!("--gpu-architecture={}", self.architecture), "--std=c++17".into()];
        let defined = definitions.iter().map(|name| format!("--define-macro={name}"));
        let options: Vec<CString> = options.into_iter().chain(defined).map(|option| terminated(&option)).collect();
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the program was just made; the options are terminated and live.
        let compiled = unsafe { sys::nvrtcCompileProgram(program, options.len() as i32, options.as_ptr()) };
        let result = match compiled {
            nvrtcResult::NVRTC_SUCCESS => cubin_of(program),
            error => Err(Error::Device(format!(
                "the kernels of {}.cu do not compile for {} with {} ({error:?}):\n{}",
                source.stem,
                self.architecture,
                self.version(),
                log_of(program)
            ))),
        };
        // SAFETY: the program is live, and not used again.
        unsafe { sys::nvrtcDestroyProgram(&mut program) };
        result
    }
}

fn cubin_of(program: sys::nvrtcProgram) -> Result<Vec<u8>> {
    let mut size = 0;
    // SAFETY: the program is live.
    check("giving the size of its result", unsafe { sys::nvrtcGetCUBINSize(program, &mut size) })?;
    let mut bytes = vec![0u8; size];
    // SAFETY: the buffer is as long as NVRTC asked for.
    check("giving its result", unsafe { sys::nvrtcGetCUBIN(program, bytes.as_mut_ptr().cast()) })?;
    Ok(bytes)
}

fn log_of(program: sys::nvrtcProgram) -> String {
    let mut size = 0;
    // SAFETY: the program is live.
    if unsafe { sys::nvrtcGetProgramLogSize(program, &mut size) } != nvrtcResult::NVRTC_SUCCESS || size == 0 {
        return String::new();
    }
    let mut bytes = vec![0u8; size];
    // SAFETY: the buffer is as long as NVRTC asked for.
    unsafe { sys::nvrtcGetProgramLog(program, bytes.as_mut_ptr().cast()) };
    CStr::from_bytes_until_nul(&bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Where compiled kernels are kept: `taper/kernels` in the user's cache folder.
fn cache_folder() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| std::env::home_dir().map(|home| home.join(".cache")))?;
    Some(base.join("taper").join("kernels"))
}

/// A kept file, if its last 32 bytes are the hash of the others: a torn file is compiled again.
fn read_whole(path: &std::path::Path) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(path).ok()?;
    let split = bytes.len().checked_sub(32)?;
    let whole = Sha256::digest(&bytes[..split])[..] == bytes[split..];
    bytes.truncate(split);
    whole.then_some(bytes)
}

/// Writes aside and renames, so that two runs that start together never see half a file.
fn write_whole(path: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)?;
    let mut aside = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut aside, bytes)?;
    std::io::Write::write_all(&mut aside, &Sha256::digest(bytes))?;
    aside.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_kernel_is_not_taken_from_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a").join("x.cubin");
        write_whole(&path, b"compiled").unwrap();
        assert_eq!(read_whole(&path).as_deref(), Some(&b"compiled"[..]));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(read_whole(&path), None);
        std::fs::write(&path, b"short").unwrap();
        assert_eq!(read_whole(&path), None);
    }
}
