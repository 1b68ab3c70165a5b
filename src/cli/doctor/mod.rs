//! `taper doctor`: what this machine can do, measured and looked up, and whether its numbers are right.

mod numerics;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::bench::rates::{copy_gbs, gemm_gflops};
use crate::cli::doctor::numerics::Check;
use crate::cli::ui::{print_json, print_line};
use crate::data::text::corpus;
use crate::device::info::{CpuInfo, available_memory};
use crate::device::{Gpu, cuda, gpu};
use crate::error::{Error, Result};

/// Arguments of `taper doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  taper doctor
  taper doctor --numerics      the engine against the reference engine; exit code 1 if it is off")]
pub struct Args {
    /// Compare the engine with the reference engine, operator by operator and as a whole.
    #[arg(long)]
    numerics: bool,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
}

/// How long each measurement takes.
const PATIENCE: Duration = Duration::from_millis(300);

/// Runs `taper doctor`.
///
/// # Errors
/// With `--numerics`, if the engine is further from the truth than it may be.
pub fn run(args: Args) -> Result<()> {
    if args.numerics { check_numerics(args.json) } else { describe(args.json) }
}

fn describe(as_json: bool) -> Result<()> {
    let cpu = CpuInfo::of_this_machine();
    let threads = rayon::current_num_threads();
    let (gflops, gbs) = (gemm_gflops(PATIENCE), copy_gbs(PATIENCE));
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let free = free_disk(&here);
    let home = cache_home();
    let corpus = corpus::cargo_sources();
    let libraries = cuda::libraries();
    let gpu = gpu::open(0);
    if as_json {
        let libraries: Vec<Value> = libraries
            .iter()
            .map(|library| json!({"name": library.name, "purpose": library.purpose, "path": library.path}))
            .collect();
        return print_json(&json!({
            "taper": env!("CARGO_PKG_VERSION"),
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
            "cpu": cpu,
            "threads": threads,
            "hardware_kind": cpu.kind(),
            "memory_available_bytes": available_memory(),
            "gemm_gflops": gflops,
            "copy_gb_per_s": gbs,
            "cuda": {
                "usable": gpu.is_ok(),
                "gpu": gpu.as_ref().ok().map(|gpu| gpu.driver().facts()),
                "why_not": gpu.as_ref().err().map(ToString::to_string),
                "libraries": libraries,
            },
            "cache_home": home,
            "quickstart_corpus": corpus.is_ok(),
            "disk_free_bytes": free,
        }));
    }
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1u32 << 30));
    let [l1, l2, l3] = cpu.cache_kib;
    let unknown = || "unknown".to_string();
    let mut rows = vec![
        ("taper", format!("{} on {} {}", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH)),
        ("CPU", cpu.model.clone()),
        ("cores", format!("{} ({threads} threads in use; RAYON_NUM_THREADS changes that)", cpu.cores)),
        ("vectors", cpu.features.join(" ")),
        ("caches", format!("{l1} / {l2} / {l3} KiB (level 1, 2, 3)")),
        ("memory", format!("{}, {} available", gib(cpu.memory_bytes), gib(available_memory()))),
        ("matrix products", format!("{gflops:.0} GFLOP/s in float32, all threads, measured just now")),
        ("memory copy", format!("{gbs:.1} GB/s, read and write counted, all threads")),
        ("disk here", free.map_or_else(unknown, |bytes| format!("{} free in {}", gib(bytes), here.display()))),
        ("Hugging Face home", home.as_ref().map_or_else(unknown, |home| home.display().to_string())),
        (
            "quickstart text",
            match &corpus {
                Ok(corpus) => format!("there: {} files, {:.1} MB", corpus.files.len(), corpus.bytes as f64 / 1e6),
                Err(error) => error.to_string(),
            },
        ),
        ("GPU", gpu_words(&gpu)),
    ];
    for library in &libraries {
        rows.push((
            library.name,
            match &library.path {
                Some(path) => format!("{} ({})", path.display(), library.purpose),
                None => format!("not found ({}); {}", library.purpose, library.remedy),
            },
        ));
    }
    for (name, value) in rows {
        print_line(&format!("{name:<18} {value}"))?;
    }
    Ok(())
}

/// What a first GPU is, or why there is none.
fn gpu_words(gpu: &Result<&'static Gpu>) -> String {
    match gpu {
        Ok(gpu) => {
            let facts = gpu.driver().facts();
            let (major, minor) = facts.capability;
            let free = gpu.driver().free_bytes().unwrap_or(0);
            format!(
                "{}, compute capability {major}.{minor}, {} multiprocessors, {:.1} of {:.1} GiB free; {}",
                facts.name,
                facts.multiprocessors,
                free as f64 / f64::from(1u32 << 30),
                facts.memory_bytes as f64 / f64::from(1u32 << 30),
                facts.libraries
            )
        }
        Err(error) => error.to_string(),
    }
}

fn check_numerics(as_json: bool) -> Result<()> {
    let checks = numerics::compare()?;
    let failed = checks.iter().filter(|check| !check.ok).count();
    if as_json {
        print_json(&json!({"ok": failed == 0, "checks": checks}))?;
    } else {
        print_line(&format!("{:<14} {:<10} {:>10} {:>10} {:>10}", "", "", "engine", "plain", "allowed"))?;
        for Check { what, part, error, plain_error, allowed, ok } in &checks {
            let verdict = if *ok { "ok" } else { "FAIL" };
            print_line(&format!(
                "{what:<14} {part:<10} {error:>10.2e} {plain_error:>10.2e} {allowed:>10.2e}  {verdict}"
            ))?;
        }
        print_line(
            "\nLargest distance from candle in float64: of taper's engine, and of candle in float32. Allowed is twice \
             candle's,\nand four units in the last place of the largest value.",
        )?;
    }
    if failed > 0 {
        return Err(Error::Training(format!(
            "{failed} of {} comparisons are further off than rounding explains; please report this with the table and \
             the output of `taper doctor`",
            checks.len()
        )));
    }
    Ok(())
}

/// Where models of the Hub are kept: `$HF_HOME`, else `~/.cache/huggingface`.
fn cache_home() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("HF_HOME")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache").join("huggingface")))
}

/// Bytes that this user may still write to the file system of `path`.
#[cfg(unix)]
fn free_disk(path: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `path` ends in a zero byte and `stat` is writable and large enough.
    let done = unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) };
    // SAFETY: all-zero bytes are a valid `statvfs`, and the call filled it.
    let stat = unsafe { stat.assume_init() };
    #[allow(clippy::unnecessary_cast)] // the fields' types differ between systems
    (done == 0).then(|| stat.f_bavail as u64 * stat.f_frsize as u64)
}

/// Unknown where the system has no `statvfs`.
#[cfg(not(unix))]
fn free_disk(_path: &Path) -> Option<u64> {
    None
}
