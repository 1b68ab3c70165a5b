//! Finding CUDA at run time, and saying clearly what is missing.
//!
//! Nothing here links CUDA: libraries are looked up by name where drivers, toolkits and Python wheels put them. Never
//! run on a GPU so far.

use std::path::PathBuf;

use super::Device;
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

/// Looks for the driver and the libraries that the CUDA engine needs, in LD_LIBRARY_PATH, the usual system folders,
/// toolkits (`CUDA_HOME`, `/usr/local/cuda`) and the active Python environment's NVIDIA wheels.
pub fn libraries() -> Vec<Library> {
    let folders = search_folders();
    let find = |name: &'static str, purpose, remedy| Library { name, purpose, remedy, path: find_in(&folders, name) };
    vec![
        find("libcuda.so", "the driver", "install the NVIDIA driver, 525 or newer"),
        find("libnvrtc.so", "compiling kernels", "pip install nvidia-cuda-nvrtc, or the CUDA toolkit"),
        find("libcublasLt.so", "matrix products", "pip install nvidia-cublas, or the CUDA toolkit"),
        find("libnccl.so", "training on several GPUs", "pip install nvidia-nccl-cu12 (or -cu13)"),
    ]
}

/// Opens the GPU `ordinal`.
///
/// # Errors
/// Always, in this version: the CUDA kernels are not part of it. The message also says whether a driver was found.
pub fn open(ordinal: usize) -> Result<Device> {
    let driver = libraries().into_iter().find(|library| library.name == "libcuda.so").and_then(|library| library.path);
    let found = match driver {
        Some(path) => format!("a driver is at {}", path.display()),
        None => "and no NVIDIA driver (libcuda.so) was found either".into(),
    };
    Err(Error::Device(format!(
        "cuda:{ordinal} cannot be used: this version of taper has no CUDA kernels yet ({found}); use --device cpu"
    )))
}

/// The error of an operator that was asked to run on CUDA.
pub(crate) fn not_there(op: &str) -> Error {
    Error::Device(format!("{op}: this version of taper has no CUDA kernels yet; use --device cpu"))
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
    if let Some(python) = std::env::var_os("VIRTUAL_ENV").or_else(|| std::env::var_os("CONDA_PREFIX")) {
        folders.extend(wheel_folders(&PathBuf::from(python).join("lib")));
    }
    folders
}

/// `lib/python3.*/site-packages/nvidia/*/lib` under an environment's lib folder, sorted.
fn wheel_folders(lib: &std::path::Path) -> Vec<PathBuf> {
    let list = |folder: PathBuf| {
        let mut names: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        names.sort();
        names
    };
    list(lib.to_path_buf())
        .into_iter()
        .flat_map(|python| list(python.join("site-packages/nvidia")))
        .map(|package| package.join("lib"))
        .filter(|folder| folder.is_dir())
        .collect()
}

/// The first file `name`, `name.N` (the highest N) in the folders.
fn find_in(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    folders.iter().find_map(|folder| {
        let mut matches: Vec<PathBuf> = std::fs::read_dir(folder)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let file = path.file_name().and_then(|file| file.to_str()).unwrap_or("");
                file == name || file.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
            })
            .collect();
        matches.sort();
        matches.pop()
    })
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
    fn asking_for_cuda_is_one_sentence_and_no_panic() {
        let error = Device::parse("cuda:1").unwrap_err();
        assert!(error.to_string().contains("--device cpu"), "{error}");
        assert_eq!(Device::parse("gpu").unwrap_err().exit_code(), 2);
    }
}
