//! The CUDA emulator with all kernels, built by the machine's C++ compiler into a cached library. Use as `mod emulator`.
//!
//! `TAPER_EMULATOR_SANITIZE=address|undefined|thread` builds the kernels under that sanitizer (the emulator itself never
//! is: see tests/emulator/fiber.cpp). The process must then have been started with the sanitizer's library preloaded, as
//! scripts/check_sanitizers.sh does.
#![allow(dead_code)] // each test binary uses a part of it

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
    schedule: unsafe extern "C" fn(u32),
    counter: unsafe extern "C" fn(*const c_char) -> u64,
}

/// The emulator, built when first asked for. None where there is no C++ compiler, with a printed line.
pub fn library() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    LIBRARY.get_or_init(|| compiler().map(|compiler| Library::open(&build(&compiler)))).as_ref()
}

/// The sanitizer that the kernels run under, if any.
pub fn sanitizer() -> Option<String> {
    std::env::var("TAPER_EMULATOR_SANITIZE").ok().filter(|kind| !kind.is_empty())
}

/// A command that does not run under the sanitizer that this process runs under.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_remove("LD_PRELOAD");
    command
}

/// The compiler's name, if it runs: `CXX`, else g++, else c++.
fn compiler() -> Option<PathBuf> {
    let chosen = std::env::var_os("CXX").map(PathBuf::from);
    let mut candidates = chosen.into_iter().chain(["g++", "c++"].map(PathBuf::from));
    let runs = |name: &PathBuf| command(name).arg("--version").output().is_ok_and(|output| output.status.success());
    let found = candidates.find(runs);
    if found.is_none() {
        println!("skipped: no C++ compiler to build the emulator with (install g++)");
    }
    found
}

/// Flags for all files, then those for kernels only, which are also the linker's.
fn flags() -> (Vec<String>, Vec<String>) {
    let all = "-std=c++17 -g -fPIC -fno-strict-aliasing -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas -Werror \
               -DTAPER_EMULATOR -Ikernels -Itests/emulator";
    let mut all: Vec<String> = all.split_whitespace().map(String::from).collect();
    let kernels = match sanitizer().as_deref() {
        None => {
            all.push("-O2".into());
            return (all, Vec::new());
        }
        Some("address") => {
            all.push("-DTAPER_ASAN".into());
            vec!["-fsanitize=address"]
        }
        Some("thread") => {
            all.push("-DTAPER_TSAN".into());
            vec!["-fsanitize=thread"]
        }
        Some("undefined") => vec!["-fsanitize=undefined", "-fno-sanitize-recover=undefined"],
        Some(other) => panic!("TAPER_EMULATOR_SANITIZE is {other}, not address, undefined or thread"),
    };
    all.extend(["-O1".into(), "-fno-omit-frame-pointer".into()]);
    (all, kernels.into_iter().map(String::from).collect())
}

/// The checkout: where the tests were built, or, where a test binary was carried to another machine, the folder it is
/// started in.
fn root() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    if built.join("kernels").is_dir() { built } else { std::env::current_dir().expect("a current folder") }
}

/// Builds the library, or finds it from a former build of the same sources, flags and compiler.
fn build(compiler: &Path) -> PathBuf {
    let root = &root();
    let (kernels, own) = (root.join("kernels"), root.join("tests/emulator"));
    let sources = [files(&kernels, "cu"), files(&own, "cu"), files(&own, "cpp")].concat();
    let (all_flags, kernel_flags) = flags();
    let mut hash = Sha256::new();
    hash.update(command(compiler).arg("--version").output().expect("it ran before").stdout);
    hash.update([all_flags.join(" "), kernel_flags.join(" ")].join("\n"));
    for file in sources.iter().cloned().chain(files(&kernels, "cuh")).chain(files(&own, "h")) {
        hash.update(file.file_name().expect("a file").as_encoded_bytes());
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
    let object = |source: &Path| aside.path().join(source.file_name().expect("a file")).with_added_extension("o");
    rayon::scope(|scope| {
        for source in &sources {
            let (object, all_flags, kernel_flags) = (object(source), &all_flags, &kernel_flags);
            scope.spawn(move |_| {
                let mut compile = command(compiler);
                compile.current_dir(root).args(all_flags);
                if source.extension() == Some(OsStr::new("cu")) {
                    compile.args(kernel_flags);
                }
                run(compile.args(["-c", "-x", "c++"]).arg(source).arg("-o").arg(object));
            });
        }
    });
    let fresh = aside.path().join("libemulator.so");
    let objects = sources.iter().map(|source| object(source));
    run(command(compiler).current_dir(root).args(&kernel_flags).arg("-shared").args(objects).arg("-o").arg(&fresh));
    std::fs::rename(&fresh, &library).expect("the library in its place");
    library
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of sources");
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
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
                schedule: *library.get(b"taper_emulator_schedule\0").expect("schedule"),
                counter: *library.get(b"taper_emulator_counter\0").expect("counter"),
            }
        }
    }

    /// Runs a kernel; true if it failed, with the reason in `message`. `arguments` point to values of `sizes` bytes each.
    pub fn launch(
        &self,
        name: &CStr,
        geometry: Geometry,
        arguments: &mut [*mut c_void],
        sizes: &[u32],
        message: &mut [c_char],
    ) -> bool {
        assert_eq!(arguments.len(), sizes.len());
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

    /// Memory with red zones, NaN in every byte; null if there is none.
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

    /// In which order the calling thread's launches run lanes and warps: 0 the last first, 1 the first first, others
    /// shuffled by that number.
    pub fn schedule(&self, order: u32) {
        // SAFETY: any number is one.
        unsafe { (self.schedule)(order) }
    }

    /// A count of the calling thread's last launch, such as `bank_conflicts`.
    pub fn counter(&self, name: &CStr) -> u64 {
        // SAFETY: the name ends in a zero.
        let count = unsafe { (self.counter)(name.as_ptr()) };
        assert_ne!(count, u64::MAX, "no counter of the name {name:?}");
        count
    }
}
