//! NCCL, loaded at run time: collectives between GPUs.
//!
//! A thin wrapper over the C functions, of which each is looked up by name in the library that is found (also as
//! `libnccl.so.2` in Python wheels), so that nothing links NCCL and a missing library or symbol is an error in words.
//! Communicators are non-blocking: every call returns at once or says "in progress", so that the time can be limited, errors
//! of other ranks are noticed, and a communicator can be aborted.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::device::cuda::open_library;
use crate::error::{Error, Result};

/// What ranks need to find each other: rank 0 makes it, the others get it by the rendezvous.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct UniqueId {
    /// Opaque.
    pub bytes: [c_char; 128],
}

impl UniqueId {
    /// The bytes, to be sent to the other ranks.
    pub fn to_bytes(self) -> Vec<u8> {
        self.bytes.iter().map(|&byte| byte as u8).collect()
    }

    /// The id that these bytes are.
    ///
    /// # Errors
    /// If they are not as many as an id has.
    pub fn from_bytes(bytes: &[u8]) -> Result<UniqueId> {
        let wrong = |_| Error::Device(format!("an NCCL id of {} bytes came from rank 0", bytes.len()));
        let bytes: [u8; 128] = bytes.try_into().map_err(wrong)?;
        Ok(UniqueId { bytes: bytes.map(|byte| byte as c_char) })
    }
}

type Comm = *mut c_void;
type Stream = *mut c_void;
type Code = c_int;

const SUCCESS: Code = 0;
const IN_PROGRESS: Code = 7;

/// The numbers of a buffer, as NCCL calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Element {
    /// Bytes.
    U8 = 1,
    /// f32.
    F32 = 7,
    /// bf16.
    Bf16 = 9,
}

/// A range of memory of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its address.
    pub address: u64,
    /// How many elements.
    pub count: usize,
}

/// The fields of ncclConfig_t that every version since 2.14 has.
#[repr(C)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

impl Config {
    fn non_blocking() -> Config {
        Config { size: size_of::<Config>(), magic: 0xcafe_beef, version: 21_400, blocking: 0 }
    }
}

macro_rules! functions {
    ($($field:ident: $symbol:literal ($($argument:ty),*);)*) => {
        struct Functions {
            path: String,
            $($field: unsafe extern "C" fn($($argument),*) -> Code,)*
            error_string: unsafe extern "C" fn(Code) -> *const c_char,
            last_error: unsafe extern "C" fn(Comm) -> *const c_char,
        }

        fn find() -> Result<Functions> {
            let library = open_library("libnccl.so")?;
            // SAFETY: the types are those of nccl.h, which has kept them since 2.14.
            unsafe {
                Ok(Functions {
                    path: library.path().display().to_string(),
                    $($field: std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> Code>(
                        library.symbol($symbol)?,
                    ),)*
                    error_string: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(Code) -> *const c_char>(
                        library.symbol("ncclGetErrorString")?,
                    ),
                    last_error: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(Comm) -> *const c_char>(
                        library.symbol("ncclGetLastError")?,
                    ),
                })
            }
        }
    };
}

functions! {
    get_version: "ncclGetVersion" (*mut c_int);
    get_unique_id: "ncclGetUniqueId" (*mut UniqueId);
    init: "ncclCommInitRankConfig" (*mut Comm, c_int, UniqueId, c_int, *mut Config);
    async_error: "ncclCommGetAsyncError" (Comm, *mut Code);
    comm_abort: "ncclCommAbort" (Comm);
    finalize: "ncclCommFinalize" (Comm);
    destroy: "ncclCommDestroy" (Comm);
    all_reduce: "ncclAllReduce" (*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream);
    broadcast: "ncclBroadcast" (*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream);
    send: "ncclSend" (*const c_void, usize, c_int, c_int, Comm, Stream);
    receive: "ncclRecv" (*mut c_void, usize, c_int, c_int, Comm, Stream);
    group_start: "ncclGroupStart" ();
    group_end: "ncclGroupEnd" ();
}

fn functions() -> Result<&'static Functions> {
    static FOUND: OnceLock<std::result::Result<Functions, String>> = OnceLock::new();
    FOUND
        .get_or_init(|| find().map_err(|error| error.to_string()))
        .as_ref()
        .map_err(|error| Error::Device(error.clone()))
}

/// NCCL's version, such as 22703, and the file it was loaded from.
///
/// # Errors
/// A `Device` error that says how to get NCCL where it is missing.
pub fn version() -> Result<(i32, String)> {
    let nccl = functions()?;
    let mut version = 0;
    // SAFETY: the pointer is to a live integer.
    let code = unsafe { (nccl.get_version)(&mut version) };
    check(nccl, code, std::ptr::null_mut(), "asking for its version")?;
    Ok((version, nccl.path.clone()))
}

/// An id for a new group.
///
/// # Errors
/// A `Device` error if NCCL is missing or finds no network interface.
pub fn unique_id() -> Result<UniqueId> {
    let nccl = functions()?;
    let mut id = UniqueId { bytes: [0; 128] };
    // SAFETY: the pointer is to a live id.
    let code = unsafe { (nccl.get_unique_id)(&mut id) };
    check(nccl, code, std::ptr::null_mut(), "making a group's id")?;
    Ok(id)
}

/// The error of a code in words: NCCL's name for it, and the last thing that it logged.
fn check(nccl: &Functions, code: Code, comm: Comm, what: &str) -> Result<()> {
    if code == SUCCESS || code == IN_PROGRESS {
        return Ok(());
    }
    let text = |pointer: *const c_char| {
        if pointer.is_null() {
            return String::new();
        }
        // SAFETY: NCCL's messages are terminated and stay.
        unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
    };
    // SAFETY: any code, and any communicator or null, is allowed.
    let (name, last) = unsafe { (text((nccl.error_string)(code)), text((nccl.last_error)(comm))) };
    let last = last.trim();
    let last = if last.is_empty() { String::new() } else { format!(": {last}") };
    Err(Error::Device(format!("NCCL, {what}: {name}{last} (NCCL_DEBUG=INFO tells more)")))
}

/// One rank of a group of GPUs. Work is put on the stream that is given with each call.
pub struct Nccl {
    functions: &'static Functions,
    comm: Comm,
    rank: usize,
    size: usize,
}

// SAFETY: NCCL lets any thread use a communicator, one at a time: every use but `abort` needs `&mut self`.
unsafe impl Send for Nccl {}

impl Nccl {
    /// Joins the group of `id` as `rank` of `size`, with the GPU whose context is current, within `limit`.
    ///
    /// # Errors
    /// A `Device` error if there is no GPU, another rank fails, or the time has passed.
    pub fn start(id: UniqueId, rank: usize, size: usize, limit: Duration) -> Result<Nccl> {
        let functions = functions()?;
        let mut nccl = Nccl { functions, comm: std::ptr::null_mut(), rank, size };
        let mut config = Config::non_blocking();
        // SAFETY: the pointers are to live variables; NCCL copies the config.
        let code = unsafe { (functions.init)(&mut nccl.comm, size as c_int, id, rank as c_int, &mut config) };
        check(functions, code, nccl.comm, "joining the group")?;
        nccl.wait("joining the group", limit)?;
        Ok(nccl)
    }

    /// This process, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// What has gone wrong since, on this rank or in its talk with others: calls return before their work is done.
    ///
    /// # Errors
    /// A `Device` error with NCCL's words.
    pub fn check(&self) -> Result<()> {
        self.state("exchanging").map(|_| ())
    }

    fn state(&self, what: &str) -> Result<Code> {
        let mut code = SUCCESS;
        // SAFETY: the communicator is live.
        let asked = unsafe { (self.functions.async_error)(self.comm, &mut code) };
        check(self.functions, asked, self.comm, what)?;
        check(self.functions, code, self.comm, what)?;
        Ok(code)
    }

    /// Waits until what was started is under way (not until it is done on the GPU).
    fn wait(&self, what: &str, limit: Duration) -> Result<()> {
        let began = Instant::now();
        while self.state(what)? == IN_PROGRESS {
            if began.elapsed() > limit {
                let seconds = limit.as_secs_f64();
                return Err(Error::Device(format!(
                    "NCCL, {what}: rank {} of {} waited {seconds:.0} s for the others",
                    self.rank, self.size
                )));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    /// Sends `send[r]` to rank `r` and receives `receive[r]` from it, in stream order.
    ///
    /// # Errors
    /// A `Device` error with NCCL's words.
    ///
    /// # Safety
    /// The parts are memory of this GPU that lives until the stream has done the work, and the receiving ones do not overlap
    /// with any other.
    pub unsafe fn all_to_all(
        &mut self,
        send: &[Part],
        receive: &[Part],
        element: Element,
        stream: u64,
        limit: Duration,
    ) -> Result<()> {
        let nccl = self.functions;
        let what = "all-to-all";
        let code = |code| check(nccl, code, self.comm, what);
        // SAFETY: the communicator is live as long as `self`, and `&mut self` keeps others from it; each part is memory of this GPU of
        // `count` elements that lives until the stream has done the work, and received parts do not overlap, by the caller.
        unsafe {
            code((nccl.group_start)())?;
            for (peer, (out, into)) in send.iter().zip(receive).enumerate() {
                let (peer, element) = (peer as c_int, element as c_int);
                if out.count > 0 {
                    code((nccl.send)(out.address as _, out.count, element, peer, self.comm, stream as Stream))?;
                }
                if into.count > 0 {
                    code((nccl.receive)(into.address as _, into.count, element, peer, self.comm, stream as Stream))?;
                }
            }
            code((nccl.group_end)())?;
        }
        self.wait(what, limit)
    }

    /// Sums over ranks in NCCL's own order, in place and in stream order.
    ///
    /// # Errors
    /// A `Device` error with NCCL's words.
    ///
    /// # Safety
    /// The part is memory of this GPU that lives until the stream has done the work.
    pub unsafe fn all_reduce(&mut self, part: Part, element: Element, stream: u64, limit: Duration) -> Result<()> {
        const SUM: c_int = 0;
        let (at, stream) = (part.address, stream as Stream);
        // SAFETY: the communicator is live as long as `self`, and `&mut self` keeps others from it; `part` is memory of this GPU of
        // `count` elements that lives until the stream has done the work, by the caller.
        let code = unsafe {
            (self.functions.all_reduce)(at as _, at as _, part.count, element as c_int, SUM, self.comm, stream)
        };
        check(self.functions, code, self.comm, "all-reduce")?;
        self.wait("all-reduce", limit)
    }

    /// Gives every rank what `root` has, in place and in stream order.
    ///
    /// # Errors
    /// A `Device` error with NCCL's words.
    ///
    /// # Safety
    /// The part is memory of this GPU that lives until the stream has done the work.
    pub unsafe fn broadcast(
        &mut self,
        part: Part,
        element: Element,
        root: usize,
        stream: u64,
        limit: Duration,
    ) -> Result<()> {
        let (at, stream) = (part.address, stream as Stream);
        // SAFETY: the communicator is live as long as `self`, and `&mut self` keeps others from it; `part` is memory of this GPU of
        // `count` elements that lives until the stream has done the work, by the caller.
        let code = unsafe {
            (self.functions.broadcast)(at as _, at as _, part.count, element as c_int, root as c_int, self.comm, stream)
        };
        check(self.functions, code, self.comm, "broadcast")?;
        self.wait("broadcast", limit)
    }

    /// Ends the group in order: every rank calls it.
    ///
    /// # Errors
    /// A `Device` error with NCCL's words.
    pub fn finish(mut self, limit: Duration) -> Result<()> {
        // SAFETY: the communicator is live, and is not used after this.
        let code = unsafe { (self.functions.finalize)(self.comm) };
        check(self.functions, code, self.comm, "ending")?;
        self.wait("ending", limit)?;
        let comm = std::mem::replace(&mut self.comm, std::ptr::null_mut());
        // SAFETY: the group has ended, and `self.comm` is null now, so that neither `drop` nor anybody else uses it again.
        let code = unsafe { (self.functions.destroy)(comm) };
        check(self.functions, code, std::ptr::null_mut(), "ending")
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if !self.comm.is_null() {
            // SAFETY: the communicator is live and not used after this. Aborting waits for no other rank; an error of it has
            // nobody left to be told.
            unsafe { (self.functions.comm_abort)(self.comm) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bootstrap and the error path against the real library, which needs no GPU for them.
    #[test]
    fn the_real_library_makes_ids_and_refuses_without_a_gpu() {
        let (version, path) = match version() {
            Ok(found) => found,
            Err(error) => {
                assert!(error.to_string().contains("libnccl.so"), "{error}");
                println!("skipped: {error}");
                return;
            }
        };
        println!("NCCL {version} from {path}");
        assert!(version >= 21_400, "NCCL {version} of {path} is older than 2.14");
        let (one, other) = (unique_id().unwrap(), unique_id().unwrap());
        assert!(one.bytes != other.bytes && one.bytes.iter().any(|&byte| byte != 0));
        if crate::device::gpu::open(0).is_ok() {
            println!("skipped: the rest is for machines without a GPU");
            return;
        }
        let began = Instant::now();
        let error = Nccl::start(one, 0, 1, Duration::from_secs(60)).err().expect("no GPU").to_string();
        assert!(error.starts_with("NCCL, joining the group: ") && error.contains("CUDA"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}
