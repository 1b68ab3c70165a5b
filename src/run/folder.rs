//! The run folder: who may use it, whether it holds a run already, and what machine wrote it.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::checkpoint::store::Store;
use crate::collective::Ranks;
use crate::device::Device;
use crate::device::info::CpuInfo;
use crate::device::products::ProductTable;
use crate::error::{Error, Result};

/// How long a rank looks for what rank 0 has left in the run folder.
const PROBE: Duration = Duration::from_secs(2);

/// The event log's name.
pub const EVENTS: &str = "events.jsonl";

/// The name of the table of matrix products.
pub const MATMUL_TABLE: &str = "matmul.json";

/// A run folder that this process has to itself. The lock goes with the process, however it ends.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Takes the folder, making it if need be.
    ///
    /// # Errors
    /// `Usage` if it holds a run and `resume` is not set; an error if another process uses it or it cannot be written.
    pub fn open(path: &Path, resume: bool) -> Result<RunFolder> {
        std::fs::create_dir_all(path).map_err(Error::io("create", path))?;
        let lock_path = path.join(".lock");
        let lock = File::create(&lock_path).map_err(Error::io("write", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Training(format!(
                    "the run folder {} is in use by another process; wait for it, stop it, or choose another with --run",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &lock_path)(error)),
        }
        let folder = RunFolder { path: path.to_path_buf(), _lock: lock };
        if !resume && folder.holds_a_run()? {
            return Err(Error::usage(format!(
                "{} holds a run already; resume it with --resume, or choose another folder with --run",
                path.display()
            )));
        }
        Ok(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is anything of a run that would be lost by starting anew.
    fn holds_a_run(&self) -> Result<bool> {
        let log = self.path.join(EVENTS);
        let logged = log.metadata().is_ok_and(|metadata| metadata.len() > 0);
        Ok(logged || !Store::of_run(&self.path).steps()?.is_empty())
    }

    /// Writes a file of the folder by rename, so that it is never half there.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn write(&self, name: &str, content: &str) -> Result<()> {
        let temporary = self.path.join(format!(".{name}"));
        let path = self.path.join(name);
        std::fs::write(&temporary, content).map_err(Error::io("write", &path))?;
        std::fs::rename(&temporary, &path).map_err(Error::io("write", &path))
    }

    /// Writes environment.json: what wrote this run and on what.
    ///
    /// # Errors
    /// If the disk refuses, or the device fails.
    pub fn write_environment(&self, device: Device, precision: &str, threads: usize, ranks: &Ranks) -> Result<()> {
        let cpu = CpuInfo::of_this_machine();
        let gpu = device.gpu()?;
        let environment = json!({
            "taper": env!("CARGO_PKG_VERSION"),
            // Set by whoever builds a release. A development build is told apart by the hash of the program itself.
            "commit": option_env!("TAPER_COMMIT"),
            "binary_xxh3": binary_hash(),
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
            "device": device.to_string(),
            "hardware_kind": device.hardware_kind()?,
            "cpu": cpu,
            "gpu": gpu.map(|gpu| gpu.driver().facts()),
            "threads": threads,
            "precision": precision,
            "world_size": ranks.size(),
            "collectives": ranks.engine(),
            "engine": {"matmul": if gpu.is_some() { "cuBLASLt" } else { "gemm 0.19" }},
        });
        self.write("environment.json", &format!("{environment:#}\n"))
    }
}

/// Whether all ranks see one run folder: rank 0 leaves a file there, and the others look for it. All call it together.
///
/// # Errors
/// If a rank is gone, or rank 0 cannot write.
pub fn is_shared(ranks: &Ranks, run: &Path) -> Result<bool> {
    if ranks.size() == 1 {
        return Ok(true);
    }
    // A name that was never there before: file systems over networks remember for a while what they did not find.
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let name = format!(".shared-{}-{}", std::process::id(), since.as_nanos());
    let name = ranks.from_root("shared run folder", || {
        std::fs::write(run.join(&name), []).map_err(Error::io("write", run))?;
        Ok(name.clone())
    })?;
    let path = run.join(name);
    let began = Instant::now();
    while !path.exists() && began.elapsed() < PROBE {
        std::thread::sleep(PROBE / 20);
    }
    let all = ranks.gather("shared run folder", &[u8::from(path.exists())])?;
    if ranks.is_root() {
        std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(all.iter().all(|found| found == &[1]))
}

/// The table of matrix products that a run goes by, as text for [`use_matmul_table`]: the copy of its folder where it
/// `resuming` and has one, else the file `given` (`precision.matmul_table`); empty where there is none.
///
/// # Errors
/// If the table cannot be read.
pub fn matmul_table(run: &Path, given: Option<&str>, resuming: bool) -> Result<String> {
    let own = run.join(MATMUL_TABLE);
    match given {
        _ if resuming && own.exists() => ProductTable::read(&own).map(|table| table.to_text()),
        Some(given) => ProductTable::read(Path::new(given)).map(|table| table.to_text()),
        None => Ok(String::new()),
    }
}

/// Makes the matrix products of a GPU go by the table in `text`, or by none. Returns a word for the user where there is
/// one to say.
///
/// # Errors
/// `Usage` if a new run's table was measured on other hardware.
pub fn use_matmul_table(device: Device, text: &str, resuming: bool) -> Result<Option<String>> {
    let table = if text.is_empty() { None } else { Some(ProductTable::from_text(text, Path::new(MATMUL_TABLE))?) };
    let Some(gpu) = device.gpu()? else {
        return Ok(table.map(|_| "the table of matrix products is for a GPU, and this run is on the CPU".into()));
    };
    let none = ProductTable { hardware: gpu.driver().facts().kind(), ..ProductTable::default() };
    match table {
        // Other hardware gives other bits with any table.
        Some(table) if resuming && table.hardware != none.hardware => {
            gpu.use_products(&none)?;
            Ok(Some(format!(
                "the run's table of matrix products was measured on {}, and this is {}: it is not used here",
                table.hardware, none.hardware
            )))
        }
        table => gpu.use_products(&table.unwrap_or(none)).map(|()| None),
    }
}

/// The XXH3 of the running program: "the same binary" is part of what makes two runs equal.
pub fn binary_hash() -> Option<String> {
    let bytes = std::fs::read(std::env::current_exe().ok()?).ok()?;
    Some(format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_and_no_run_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs/a");
        let first = RunFolder::open(&path, false).unwrap();
        let error = RunFolder::open(&path, true).unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
        std::fs::write(first.path().join(EVENTS), "{}\n").unwrap();
        drop(first);
        let error = RunFolder::open(&path, false).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--resume"), "{error}");
        assert!(RunFolder::open(&path, true).is_ok());
    }
}
