//! Frames on a TCP connection between two ranks, with deadlines.
//!
//! A frame is a header of 24 bytes (magic, kind, sequence number, length; little endian) and its bytes. Sequence numbers
//! count the calls of a rank: two ranks whose numbers differ do not run the same program, and say so instead of mixing up
//! their data.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The first bytes of everything that ranks send: it tells them from whoever else finds the port.
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"tpr1");
const HEADER: usize = 24;
/// How often a wait looks at its deadline.
const TICK: Duration = Duration::from_millis(500);
/// The longest reason of an abort that is believed.
const LONGEST_REASON: u64 = 1 << 16;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes of a collective.
    Data,
    /// Why the sender cannot continue.
    Abort,
}

/// Why a frame did not come.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The connection is closed or broken.
    Gone(String),
    /// The deadline has passed.
    Late,
    /// The other rank has stopped the run, for this reason.
    Aborted(String),
    /// The other rank is at another call than this one.
    OutOfStep(String),
}

/// Writes a frame.
pub(super) fn write_frame(
    stream: &TcpStream,
    kind: Kind,
    sequence: u64,
    bytes: &[u8],
    deadline: Option<Instant>,
) -> Result<(), Trouble> {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[4] = kind as u8;
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    header[16..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    write_all(stream, &header, deadline)?;
    write_all(stream, bytes, deadline)
}

/// Reads the data frame `sequence`, whose length is that of `bytes`.
pub(super) fn read_frame(
    stream: &TcpStream,
    sequence: u64,
    bytes: &mut [u8],
    deadline: Option<Instant>,
) -> Result<(), Trouble> {
    let mut header = [0; HEADER];
    read_exact(stream, &mut header, deadline)?;
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let (found, length) = (word(8), word(16));
    if header[..4] != MAGIC.to_le_bytes() {
        return Err(Trouble::Gone("it sent something that is not a frame".into()));
    }
    if header[4] == Kind::Abort as u8 {
        let mut reason = vec![0; length.min(LONGEST_REASON) as usize];
        read_exact(stream, &mut reason, Some(Instant::now() + Duration::from_secs(2)))?;
        return Err(Trouble::Aborted(String::from_utf8_lossy(&reason).into_owned()));
    }
    if (found, length) != (sequence, bytes.len() as u64) {
        return Err(Trouble::OutOfStep(format!(
            "it is at exchange {found} with {length} bytes, where exchange {sequence} with {} bytes was expected",
            bytes.len()
        )));
    }
    read_exact(stream, bytes, deadline)
}

/// Reads exactly these bytes.
pub(super) fn read_exact(
    mut stream: &TcpStream,
    mut bytes: &mut [u8],
    deadline: Option<Instant>,
) -> Result<(), Trouble> {
    while !bytes.is_empty() {
        tick(deadline, |wait| stream.set_read_timeout(wait))?;
        match stream.read(bytes) {
            Ok(0) => return Err(Trouble::Gone("its connection was closed".into())),
            Ok(n) => bytes = &mut bytes[n..],
            Err(error) => pass_over(error)?,
        }
    }
    Ok(())
}

fn write_all(mut stream: &TcpStream, mut bytes: &[u8], deadline: Option<Instant>) -> Result<(), Trouble> {
    while !bytes.is_empty() {
        tick(deadline, |wait| stream.set_write_timeout(wait))?;
        match stream.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) => pass_over(error)?,
        }
    }
    Ok(())
}

/// Sets how long the next system call may wait, or finds that the deadline has passed.
fn tick(deadline: Option<Instant>, set: impl Fn(Option<Duration>) -> std::io::Result<()>) -> Result<(), Trouble> {
    let left = deadline.map_or(TICK, |deadline| deadline.saturating_duration_since(Instant::now()));
    if left.is_zero() {
        return Err(Trouble::Late);
    }
    set(Some(left.min(TICK))).map_err(|error| Trouble::Gone(error.to_string()))
}

/// A wait that ended early is no error.
fn pass_over(error: std::io::Error) -> Result<(), Trouble> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(()),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Err(Trouble::Gone("its connection was closed".into())),
        _ => Err(Trouble::Gone(error.to_string())),
    }
}
