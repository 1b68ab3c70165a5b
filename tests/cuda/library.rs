//! The emulator with all kernels, built by the machine's C++ compiler into a cached library.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};
use taper::device::launch::Geometry;

type Launch = unsafe extern "C" fn(
    *const c_char,
    *const u32,
    *const u32,
    u32,
    *mut *mut c_void,
    u32,
    *const u32,
    *mut c_char,
    usize,
) -> c_int;

/// The library's functions.
pub struct Library {
    launch: Launch,
    allocate: unsafe extern "C" fn(usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    check: unsafe extern "C" fn(*mut c_char, usize) -> c_int,
}

/// The emulator, built when first asked for. None where there is no C++ compiler, with a printed line.
pub fn library() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    LIBRARY.get_or_init(|| compiler().map(|compiler| Library::open(&build(&compiler)))).as_ref()
}

/// The compiler's name, if it runs: `CXX`, else g++, else c++.
fn compiler() -> Option<PathBuf> {
    let chosen = std::env::var_os("CXX").map(PathBuf::from);
    let candidates = chosen.into_iter().chain(["g++", "c++"].map(PathBuf::from));
    let found = candidates
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()));
    if found.is_none() {
        println!("skipped: no C++ compiler to build the emulator with (install g++)");
    }
    found
}

fn flags() -> Vec<String> {
    let flags =
        "-std=c++17 -O2 -g -fPIC -fno-strict-aliasing -ffp-contract=off -DTAPER_EMULATOR -Ikernels -Itests/emulator";
    let mut flags: Vec<String> = flags.split(' ').map(String::from).collect();
    match std::env::var("TAPER_EMULATOR_SANITIZE").as_deref() {
        Ok("") | Err(_) => {}
        Ok(kind) => flags.extend([format!("-fsanitize={kind}"), "-fno-omit-frame-pointer".into()]),
    }
    flags
}

/// Builds the library, or finds it from a former build of the same sources, flags and compiler.
fn build(compiler: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = files(&root.join("kernels"), "cu");
    sources.extend(files(&root.join("tests/emulator"), "cpp"));
    let mut hash = Sha256::new();
    let version = Command::new(compiler).arg("--version").output().expect("it ran before").stdout;
    hash.update(version);
    hash.update(flags().join(" "));
    let headers = files(&root.join("kernels"), "cuh").into_iter().chain(files(&root.join("tests/emulator"), "h"));
    for file in sources.iter().cloned().chain(headers) {
        hash.update(file.to_string_lossy().as_bytes());
        hash.update(std::fs::read(&file).expect("a source of the emulator"));
    }
    let digest: String = hash.finalize().iter().take(10).map(|byte| format!("{byte:02x}")).collect();
    let folder = root.join("target").join("emulator").join(digest);
    let library = folder.join("libemulator.so");
    if library.exists() {
        return library;
    }
    std::fs::create_dir_all(&folder).expect("a folder for the emulator");
    // Aside, then renamed: other test binaries may build at the same time.
    let aside = tempfile::tempdir_in(&folder).expect("a folder for objects");
    let object = |source: &Path| aside.path().join(source.file_name().unwrap()).with_extension("o");
    rayon::scope(|scope| {
        for source in &sources {
            let object = object(source);
            scope.spawn(move |_| {
                run(Command::new(compiler)
                    .current_dir(root)
                    .args(flags())
                    .args(["-c", "-x", "c++"])
                    .arg(source)
                    .arg("-o")
                    .arg(object));
            });
        }
    });
    let fresh = aside.path().join("libemulator.so");
    let objects = sources.iter().map(|source| object(source));
    run(Command::new(compiler).current_dir(root).args(flags()).arg("-shared").args(objects).arg("-o").arg(&fresh));
    std::fs::rename(&fresh, &library).expect("the library in its place");
    library
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of sources");
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension() == Some(OsStr::new(extension)));
    found.sort();
    found
}

fn run(command: &mut Command) {
    let output = command.output().expect("the compiler runs");
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
}

impl Library {
    fn open(path: &Path) -> Library {
        // SAFETY: the library is ours, and its initialisers only fill tables.
        let library = unsafe { libloading::Library::new(path) }.expect("the emulator loads");
        let library = Box::leak(Box::new(library));
        // SAFETY: these are the functions' signatures in tests/emulator/*.cpp.
        unsafe {
            Library {
                launch: *library.get(b"taper_emulator_launch\0").expect("launch"),
                allocate: *library.get(b"taper_emulator_alloc\0").expect("alloc"),
                free: *library.get(b"taper_emulator_free\0").expect("free"),
                check: *library.get(b"taper_emulator_check\0").expect("check"),
            }
        }
    }

    /// Runs a kernel; true if it failed, with the reason in `message`.
    pub fn launch(
        &self,
        name: &CStr,
        geometry: Geometry,
        arguments: &mut [*mut c_void],
        sizes: &[u32],
        message: &mut [c_char],
    ) -> bool {
        let Geometry { grid, block, shared_bytes } = geometry;
        // SAFETY: the pointers are to arrays of the stated lengths.
        let status = unsafe {
            (self.launch)(
                name.as_ptr(),
                grid.as_ptr(),
                block.as_ptr(),
                shared_bytes,
                arguments.as_mut_ptr(),
                arguments.len() as u32,
                sizes.as_ptr(),
                message.as_mut_ptr(),
                message.len(),
            )
        };
        status != 0
    }

    /// Memory with red zones, NaN in every byte.
    pub fn allocate(&self, bytes: usize) -> *mut c_void {
        // SAFETY: it takes any size.
        unsafe { (self.allocate)(bytes) }
    }

    /// Gives memory back.
    pub fn free(&self, memory: *mut c_void) {
        // SAFETY: an unknown address is ignored.
        unsafe { (self.free)(memory) }
    }

    /// Whether a red zone was written to, with the place in `message`.
    pub fn check(&self, message: &mut [c_char]) -> bool {
        // SAFETY: the buffer is as long as stated.
        unsafe { (self.check)(message.as_mut_ptr(), message.len()) != 0 }
    }
}
