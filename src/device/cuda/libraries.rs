//! Finding CUDA at run time, and saying clearly what is missing.
//!
//! Nothing here links CUDA: libraries are looked up by name where drivers, toolkits and Python wheels put them.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A CUDA library of interest and where it was found.
#[derive(Clone, Debug)]
pub struct Library {
    /// The soname stem, such as `libcuda.so`.
    pub name: &'static str,
    /// What it is needed for.
    pub purpose: &'static str,
    /// The file found, if any.
    pub path: Option<PathBuf>,
    /// How to get it where it is missing.
    pub remedy: &'static str,
}

/// The driver and the libraries that the CUDA engine needs: name, purpose, and how to get it.
const NEEDED: [(&str, &str, &str); 4] = [
    ("libcuda.so", "the driver", "install the NVIDIA driver, 525 or newer"),
    ("libnvrtc.so", "compiling kernels", "pip install nvidia-cuda-nvrtc, or the CUDA toolkit"),
    ("libcublasLt.so", "matrix products", "pip install nvidia-cublas, or the CUDA toolkit"),
    ("libnccl.so", "training on several GPUs", "pip install nvidia-nccl-cu12 (or -cu13)"),
];

/// Looks for the driver and the libraries that the CUDA engine needs, in LD_LIBRARY_PATH, the usual system folders,
/// toolkits (`CUDA_HOME`, `/usr/local/cuda`) and the active Python environment's NVIDIA wheels.
pub fn libraries() -> Vec<Library> {
    let folders = search_folders();
    let look = |(name, purpose, remedy)| Library { name, purpose, remedy, path: find_in(&folders, name) };
    NEEDED.into_iter().map(look).collect()
}

/// Where the NVIDIA driver's library is, if this machine has one.
pub fn driver() -> Option<PathBuf> {
    find_in(&search_folders(), "libcuda.so")
}

/// Loads a library by its full path, so that later look-ups by name find it.
///
/// # Errors
/// A `Device` error that says how to get it, or why it does not load.
pub fn load(name: &'static str) -> Result<()> {
    load_newest(name, i32::MAX).map(|_| ())
}

/// A library that was loaded, to look functions up in.
pub struct Loaded {
    path: PathBuf,
    handle: *mut std::ffi::c_void,
}

/// Loads a library by its full path, for its functions to be looked up by [`Loaded::symbol`].
///
/// # Errors
/// As `load`.
pub fn open(name: &'static str) -> Result<Loaded> {
    load_newest(name, i32::MAX)
}

impl Loaded {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The address of a function.
    ///
    /// # Errors
    /// A `Device` error if the library, being of another version, does not have it.
    pub fn symbol(&self, name: &str) -> Result<*mut std::ffi::c_void> {
        let missing = || Error::Device(format!("{} has no function {name}: install a newer one", self.path.display()));
        let terminated = std::ffi::CString::new(name).map_err(|_| missing())?;
        let address = symbol(self.handle, &terminated);
        if address.is_null() { Err(missing()) } else { Ok(address) }
    }
}

#[cfg(unix)]
fn symbol(handle: *mut std::ffi::c_void, name: &std::ffi::CStr) -> *mut std::ffi::c_void {
    // SAFETY: the handle is of a library that stays loaded, and the name is terminated.
    unsafe { libc::dlsym(handle, name.as_ptr()) }
}

#[cfg(not(unix))]
fn symbol(_handle: *mut std::ffi::c_void, _name: &std::ffi::CStr) -> *mut std::ffi::c_void {
    std::ptr::null_mut()
}

/// [`load`], but no newer major version than that of `cuda`, the CUDA version a driver supports (such as 12040): a newer
/// compiler's or matrix library's code does not run on it.
///
/// # Errors
/// As [`load`].
pub fn load_for(name: &'static str, cuda: i32) -> Result<()> {
    load_newest(name, cuda / 1000).map(|_| ())
}

fn load_newest(name: &'static str, most: i32) -> Result<Loaded> {
    let all = all_in(&search_folders(), name);
    let fits = |path: &&PathBuf| major(path, name).is_none_or(|major| major <= most);
    let Some(path) = all.iter().find(fits) else {
        let remedy = NEEDED.iter().find(|(needed, ..)| *needed == name).map_or("", |(_, _, remedy)| remedy);
        let why = match all.first() {
            Some(newer) => {
                format!("{} is newer than the driver's CUDA {most}, and no older one was found", newer.display())
            }
            None => {
                format!("{name} was not found (looked in LD_LIBRARY_PATH, system folders, toolkits, Python wheels)")
            }
        };
        return Err(Error::Device(format!("the GPU cannot be used: {why}; {remedy}. --device cpu needs no GPU")));
    };
    // NVRTC looks for its built-in functions by name only: load them from next to it.
    if name == "libnvrtc.so" {
        let beside: Vec<PathBuf> = path.parent().map(PathBuf::from).into_iter().collect();
        if let Some(builtins) = find_in(&beside, "libnvrtc-builtins.so") {
            open_library(&builtins)?;
        }
    }
    open_library(path)
}

#[cfg(unix)]
fn open_library(path: &Path) -> Result<Loaded> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::Device(format!("{}: a path with a zero byte", path.display())))?;
    // SAFETY: the name is terminated. The library is one of NVIDIA's and stays loaded for the rest of the process.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(Loaded { path: path.to_path_buf(), handle });
    }
    // SAFETY: after a failed dlopen, dlerror gives a terminated message or null.
    let why = unsafe {
        let message = libc::dlerror();
        if message.is_null() { String::new() } else { std::ffi::CStr::from_ptr(message).to_string_lossy().into_owned() }
    };
    Err(Error::Device(format!("{} does not load: {why}", path.display())))
}

#[cfg(not(unix))]
fn open_library(path: &Path) -> Result<Loaded> {
    Err(Error::Device(format!("{}: CUDA is supported on Linux only; use --device cpu", path.display())))
}

/// The major version of a library file: from its name, or from that of the file a link leads to.
fn major(path: &Path, name: &str) -> Option<i32> {
    let of = |path: &Path| {
        path.file_name()?.to_str()?.strip_prefix(name)?.strip_prefix('.')?.split('.').next()?.parse().ok()
    };
    of(path).or_else(|| of(&path.canonicalize().ok()?))
}

fn search_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(paths) = std::env::var_os("LD_LIBRARY_PATH") {
        folders.extend(std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()));
    }
    for toolkit in ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(std::env::var_os) {
        folders.push(PathBuf::from(&toolkit).join("lib64"));
    }
    for folder in [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/lib/wsl/lib",
        "/usr/local/cuda/lib64",
        "/usr/local/nvidia/lib64",
    ] {
        folders.push(folder.into());
    }
    // The active environment's wheels, then those of the Python on PATH, then the user's and the system's own.
    let active = std::env::var_os("VIRTUAL_ENV").or_else(|| std::env::var_os("CONDA_PREFIX")).map(PathBuf::from);
    let mut prefixes: Vec<PathBuf> = active.into_iter().chain(python_on_path()).collect();
    prefixes.extend(std::env::home_dir().map(|home| home.join(".local")));
    prefixes.extend([PathBuf::from("/usr/local"), PathBuf::from("/usr")]);
    for prefix in prefixes {
        folders.extend(wheel_folders(&prefix.join("lib")));
    }
    folders
}

/// The prefix of the `python3` that a shell would start: the folder above its `bin`, links left as they are (an
/// environment's own Python is a link out of it).
fn python_on_path() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    let bin = std::env::split_paths(&paths).find(|folder| folder.join("python3").is_file())?;
    bin.parent().map(PathBuf::from)
}

/// `lib/python3.*/{site,dist}-packages/nvidia/*/lib` under an environment's lib folder, sorted.
fn wheel_folders(lib: &std::path::Path) -> Vec<PathBuf> {
    let list = |folder: PathBuf| {
        let mut names: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        names.sort();
        names
    };
    list(lib.to_path_buf())
        .into_iter()
        .filter(|folder| folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")))
        .flat_map(|python| ["site-packages", "dist-packages"].map(|packages| python.join(packages).join("nvidia")))
        .flat_map(list)
        .map(|package| package.join("lib"))
        .filter(|folder| folder.is_dir())
        .collect()
}

/// The first file `name`, `name.N` (the highest N) in the folders.
fn find_in(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    all_in(folders, name).into_iter().next()
}

/// All files `name`, `name.N` in the folders: by folder, in each the highest N first.
fn all_in(folders: &[PathBuf], name: &str) -> Vec<PathBuf> {
    let in_folder = |folder: &PathBuf| {
        let mut matches: Vec<PathBuf> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let file = path.file_name().and_then(|file| file.to_str()).unwrap_or("");
                file == name || file.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
            })
            .collect();
        matches.sort_by_key(|path| (std::cmp::Reverse(major(path, name)), path.clone()));
        matches
    };
    folders.iter().flat_map(in_folder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_versioned_library() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("libnvrtc.so.12"), b"").unwrap();
        std::fs::write(folder.path().join("libnvrtc-builtins.so.12"), b"").unwrap();
        let found = find_in(&[folder.path().to_path_buf()], "libnvrtc.so");
        assert_eq!(found, Some(folder.path().join("libnvrtc.so.12")));
        assert_eq!(find_in(&[folder.path().to_path_buf()], "libcuda.so"), None);
    }

    #[test]
    fn a_newer_library_than_the_driver_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        for version in ["9", "12", "13"] {
            std::fs::write(folder.path().join(format!("libnvrtc.so.{version}")), b"").unwrap();
        }
        let all = all_in(&[folder.path().to_path_buf()], "libnvrtc.so");
        let majors: Vec<_> = all.iter().map(|path| major(path, "libnvrtc.so")).collect();
        assert_eq!(majors, [Some(13), Some(12), Some(9)]);
    }
}
