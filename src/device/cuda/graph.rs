//! CUDA graphs: the launches of a step, recorded once and started with one call.

use std::ptr;

use cudarc::driver::sys::{self, CUstreamCaptureStatus as Status};

use super::answer::check;
use crate::device::launch::Recording;
use crate::error::{Error, Result};

/// A graph that can be launched.
pub struct Graph {
    context: sys::CUcontext,
    stream: sys::CUstream,
    executable: sys::CUgraphExec,
}

// SAFETY: handles that the driver lets any thread use once the context is current, which `start` and `drop` see to.
unsafe impl Send for Graph {}

/// # Errors
/// A `Device` error if the stream is being recorded.
pub fn refuse_while_recording(stream: sys::CUstream, what: &str) -> Result<()> {
    let mut status = Status::CU_STREAM_CAPTURE_STATUS_NONE;
    // SAFETY: the stream is live, and the pointer is to a live value.
    check("asking for the stream's state", unsafe { sys::cuStreamIsCapturing(stream, &mut status) })?;
    match status {
        Status::CU_STREAM_CAPTURE_STATUS_NONE => Ok(()),
        _ => Err(Error::Device(format!("{what} cannot be part of recorded work"))),
    }
}

impl Graph {
    /// Records what `work` starts on `stream`; the context is current.
    ///
    /// # Errors
    /// That of `work`, or a `Device` error.
    pub fn record(
        context: sys::CUcontext,
        stream: sys::CUstream,
        work: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Graph> {
        // Memory may be allocated and kernels loaded while recording: both happen at once, and are not part of the graph.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is live and not being recorded.
        check("starting to record", unsafe { sys::cuStreamBeginCapture_v2(stream, mode) })?;
        let done = work();
        let mut graph = ptr::null_mut();
        // SAFETY: the stream is being recorded.
        let ended = check("recording work", unsafe { sys::cuStreamEndCapture(stream, &mut graph) });
        let result = done.and(ended).and_then(|()| {
            let mut executable = ptr::null_mut();
            // SAFETY: the graph was just made.
            let made = unsafe { sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0) };
            check("making a graph of recorded work", made)?;
            Ok(Graph { context, stream, executable })
        });
        if !graph.is_null() {
            // SAFETY: the executable does not need the graph that it was made from.
            let _ = unsafe { sys::cuGraphDestroy(graph) };
        }
        result
    }
}

impl Recording for Graph {
    fn start(&self) -> Result<()> {
        // SAFETY: the context lives as long as the process.
        check("entering the context", unsafe { sys::cuCtxSetCurrent(self.context) })?;
        // SAFETY: executable and stream are live.
        check("starting recorded work", unsafe { sys::cuGraphLaunch(self.executable, self.stream) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the executable is not used after this; launches under way keep what they need.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.context);
            let _ = sys::cuGraphExecDestroy(self.executable);
        }
    }
}
