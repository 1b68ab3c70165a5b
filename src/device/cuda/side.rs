//! A second stream next to the one that all other work is put on, for what may run meanwhile: sums over ranks.
//!
//! What a thread starts within [`Side::run`] goes there. Events order the two: it begins after all work that was
//! started before, and [`Side::join`] lets all work that is started later wait for it.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use cudarc::driver::sys::{self, CUevent_flags, CUstream_flags};

use super::answer::check;
use crate::device::launch::Mark;
use crate::error::Result;

thread_local! {
    /// Whether this thread is within [`Side::run`].
    static BESIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread's work goes to the second stream.
pub(super) fn is_beside() -> bool {
    BESIDE.get()
}

/// The second stream of a GPU.
pub(super) struct Side {
    stream: sys::CUstream,
    /// Where the other stream stood when work was last put here.
    begun: sys::CUevent,
    /// The end of the work here.
    ended: sys::CUevent,
}

// SAFETY: handles that the driver lets any thread use once the context is current, which callers see to.
unsafe impl Send for Side {}
// SAFETY: the driver API takes calls on one stream or event from several threads at once, and the handles never change.
unsafe impl Sync for Side {}

impl Side {
    /// A second stream; the context is current.
    pub fn new() -> Result<Side> {
        let (mut stream, mut begun, mut ended) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: a context is current, and the pointers are to live handles.
        unsafe {
            let kind = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            check("making a second stream", sys::cuStreamCreate(&mut stream, kind))?;
            check("making an event", sys::cuEventCreate(&mut begun, flags))?;
            check("making an event", sys::cuEventCreate(&mut ended, flags))?;
        }
        Ok(Side { stream, begun, ended })
    }

    /// The stream.
    pub fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Does `work`, what it starts going to the second stream, after all that was put on `main`.
    pub fn run(&self, main: sys::CUstream, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        order(self.begun, main, self.stream)?;
        BESIDE.set(true);
        let done = work();
        BESIDE.set(false);
        done
    }

    /// Lets what is put on `main` from now on wait for what was put here.
    pub fn join(&self, main: sys::CUstream) -> Result<()> {
        order(self.ended, self.stream, main)
    }
}

/// What is put on `after` from now on waits for what was put on `before`.
fn order(event: sys::CUevent, before: sys::CUstream, after: sys::CUstream) -> Result<()> {
    // SAFETY: live handles. An event that is recorded anew leaves waits on its last record as they were.
    unsafe {
        check("recording an event", sys::cuEventRecord(event, before))?;
        check("waiting for an event", sys::cuStreamWaitEvent(after, event, 0))
    }
}

/// A mark that the stream sets when it comes there.
pub(super) fn mark(stream: sys::CUstream) -> Result<Mark> {
    /// Called by the driver with a mark that was made over to it.
    unsafe extern "C" fn set(mark: *mut c_void) {
        // SAFETY: the pointer is that of an `Arc` that was given away for this one call.
        let mark = unsafe { Arc::from_raw(mark as *const OnceLock<Instant>) };
        mark.get_or_init(Instant::now);
    }
    // Timing by events would need a symbol that drivers of CUDA 12.0 do not have under the name that our bindings know.
    let mark = Mark::default();
    let given = Arc::into_raw(mark.clone());
    // SAFETY: `set` takes what it is given back, and calls nothing of CUDA.
    let put = unsafe { sys::cuLaunchHostFunc(stream, Some(set), given as *mut c_void) };
    if let Err(error) = check("marking a moment", put) {
        // SAFETY: the driver has refused it, so nobody else has it.
        drop(unsafe { Arc::from_raw(given) });
        return Err(error);
    }
    Ok(mark)
}
