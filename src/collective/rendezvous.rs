//! How processes find each other: everyone calls rank 0, who tells everyone where the others are.
//!
//! A call begins with a magic word, the run's id, and who calls; a process of another run, or whatever else finds the port,
//! is turned away. Every rank then opens connections to those before it. All of it has one deadline, and an error names the
//! ranks that did not come.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::launch::Place;
use super::tcp::Tcp;
use super::wire::{self, Kind, MAGIC, Trouble};
use crate::error::{Error, Result};

/// Who calls: what a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hello {
    run: u64,
    rank: u32,
    size: u32,
    port: u16,
}

const HELLO: usize = 24;
/// A caller that does not say who it is within this time is turned away.
const PATIENCE: Duration = Duration::from_secs(5);
/// The frame that tells where everyone is.
const ADDRESSES: u64 = u64::MAX;

impl Hello {
    fn write(self, stream: &TcpStream) -> std::io::Result<()> {
        let mut bytes = [0; HELLO];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.run.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.rank.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.size.to_le_bytes());
        bytes[20..22].copy_from_slice(&self.port.to_le_bytes());
        std::io::Write::write_all(&mut &*stream, &bytes)
    }

    /// What a caller says; `None` if it is not one of us.
    fn read(stream: &TcpStream) -> Option<Hello> {
        let mut bytes = [0; HELLO];
        wire::read_exact(stream, &mut bytes, Some(Instant::now() + PATIENCE)).ok()?;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        (word(0) == MAGIC).then(|| Hello {
            run: u64::from_le_bytes(bytes[4..12].try_into().expect("eight bytes")),
            rank: word(12),
            size: word(16),
            port: u16::from_le_bytes([bytes[20], bytes[21]]),
        })
    }
}

/// Connects this process with all others of its run, within `limit`.
///
/// # Errors
/// A `Device` error that names who did not come, or why this process was turned away.
pub fn connect(place: &Place, limit: Duration) -> Result<Tcp> {
    let Some((host, port)) = &place.address else {
        return Err(Error::usage(
            "the launcher does not tell where rank 0 is: set MASTER_ADDR and MASTER_PORT to its host and a free port (a build \
             with --features mpi needs neither)",
        ));
    };
    let deadline = Instant::now() + limit;
    let run = xxhash_rust::xxh3::xxh3_64(place.run_id.as_bytes());
    let me = Hello { run, rank: place.rank as u32, size: place.size as u32, port: 0 };
    let peers = if place.rank == 0 { gather(me, *port, deadline)? } else { call(me, host, *port, deadline)? };
    for peer in peers.iter().flatten() {
        // Small frames must not wait for each other.
        peer.set_nodelay(true).and_then(|()| peer.set_nonblocking(false)).map_err(refused("set up a connection"))?;
    }
    Ok(Tcp::new(place.rank, peers))
}

fn refused(what: &str) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.to_string();
    move |error| Error::Device(format!("meeting the other ranks: cannot {what}: {error}"))
}

fn late(missing: &[usize], limit: &str) -> Error {
    let list: Vec<String> = missing.iter().map(usize::to_string).collect();
    Error::Device(format!("rank {} did not come to the rendezvous {limit}; look at its own messages", list.join(", ")))
}

/// Rank 0: waits for everyone, then tells all of them where the others listen.
fn gather(me: Hello, port: u16, deadline: Instant) -> Result<Vec<Option<TcpStream>>> {
    let listener = listen(port)?;
    let mut addresses: Vec<Option<SocketAddr>> = vec![None; me.size as usize];
    let streams = accept(&listener, me, &(1..me.size as usize).collect::<Vec<_>>(), deadline, &mut addresses)?;
    let text: Vec<String> =
        addresses.iter().map(|address| address.map_or(String::new(), |address| address.to_string())).collect();
    let text = text.join(" ");
    for (rank, stream) in streams.iter().enumerate().filter_map(|(rank, stream)| Some((rank, stream.as_ref()?))) {
        let sent = wire::write_frame(stream, Kind::Data, ADDRESSES, &(text.len() as u64).to_le_bytes(), Some(deadline))
            .and_then(|()| wire::write_frame(stream, Kind::Data, ADDRESSES, text.as_bytes(), Some(deadline)));
        sent.map_err(|trouble| met(rank, trouble))?;
    }
    Ok(streams)
}

/// Ports that rank 0 tries one after the other, and at which the others look for it: a launcher's port may be taken by one
/// of the launcher's own connections, as happens with torchrun's.
fn candidates(port: u16) -> impl Iterator<Item = u16> {
    (0..4).filter_map(move |index| port.checked_add(101 * index))
}

fn listen(port: u16) -> Result<TcpListener> {
    let mut last = None;
    for port in candidates(port) {
        match TcpListener::bind(("0.0.0.0", port)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    let last = last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into());
    Err(refused(&format!("listen at port {port} or one of three after it, which other programs may use"))(last))
}

fn met(rank: usize, trouble: Trouble) -> Error {
    Error::Device(match trouble {
        Trouble::Gone(why) | Trouble::OutOfStep(why) => format!("rank {rank} is gone during the rendezvous ({why})"),
        Trouble::Late => format!("rank {rank} does not answer during the rendezvous"),
        Trouble::Aborted(why) => format!("rank {rank} turned this process away: {why}"),
    })
}

/// Accepts one caller for each of these ranks; `addresses` gets where each of them listens.
fn accept(
    listener: &TcpListener,
    me: Hello,
    expected: &[usize],
    deadline: Instant,
    addresses: &mut [Option<SocketAddr>],
) -> Result<Vec<Option<TcpStream>>> {
    let began = Instant::now();
    listener.set_nonblocking(true).map_err(refused("listen"))?;
    let mut streams: Vec<Option<TcpStream>> = (0..me.size).map(|_| None).collect();
    loop {
        let missing: Vec<usize> = expected.iter().copied().filter(|&rank| streams[rank].is_none()).collect();
        if missing.is_empty() {
            return Ok(streams);
        }
        if Instant::now() >= deadline {
            return Err(late(&missing, &format!("within {:.0} s", began.elapsed().as_secs_f64())));
        }
        let (stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            Err(error) => return Err(refused("accept a connection")(error)),
        };
        stream.set_nonblocking(false).map_err(refused("accept a connection"))?;
        // Not one of us: a port scanner, a health check.
        let Some(hello) = Hello::read(&stream) else { continue };
        let rank = hello.rank as usize;
        let why = if hello.run != me.run {
            "it belongs to another run (the run ids differ)".to_string()
        } else if hello.size != me.size {
            format!("it was started as one of {} ranks, rank {} as one of {}", hello.size, me.rank, me.size)
        } else if !missing.contains(&rank) {
            format!("there is a rank {rank} already")
        } else {
            addresses[rank] = Some(SocketAddr::new(from.ip(), hello.port));
            streams[rank] = Some(stream);
            continue;
        };
        let soon = Some(Instant::now() + Duration::from_secs(1));
        let _ = wire::write_frame(&stream, Kind::Abort, 0, why.as_bytes(), soon);
    }
}

/// Every other rank: calls rank 0, then those before it, and is called by those after it.
fn call(me: Hello, host: &str, port: u16, deadline: Instant) -> Result<Vec<Option<TcpStream>>> {
    let any: IpAddr = [0, 0, 0, 0].into();
    let listener = TcpListener::bind((any, 0)).map_err(refused("listen"))?;
    let own = listener.local_addr().map_err(refused("listen"))?.port();
    let me = Hello { port: own, ..me };
    let everywhere = || -> std::io::Result<Vec<SocketAddr>> {
        let mut all = Vec::new();
        for port in candidates(port) {
            all.extend((host, port).to_socket_addrs()?);
        }
        Ok(all)
    };
    let zero = dial(me, 0, everywhere, deadline)?;
    let mut length = [0; 8];
    wire::read_frame(&zero, ADDRESSES, &mut length, Some(deadline)).map_err(|trouble| met(0, trouble))?;
    let mut text = vec![0; u64::from_le_bytes(length).min(1 << 20) as usize];
    wire::read_frame(&zero, ADDRESSES, &mut text, Some(deadline)).map_err(|trouble| met(0, trouble))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let addresses: Vec<Option<SocketAddr>> = text.split(' ').map(|address| address.parse().ok()).collect();

    let (rank, size) = (me.rank as usize, me.size as usize);
    let mut dialled = Vec::new();
    for before in 1..rank {
        let address = addresses.get(before).copied().flatten();
        let address = address.ok_or_else(|| Error::Device(format!("rank 0 does not know where rank {before} is")))?;
        dialled.push((before, dial(me, before, || Ok(vec![address]), deadline)?));
    }
    let after: Vec<usize> = (rank + 1..size).collect();
    let mut streams = accept(&listener, me, &after, deadline, &mut vec![None; size])?;
    streams[0] = Some(zero);
    for (before, stream) in dialled {
        streams[before] = Some(stream);
    }
    Ok(streams)
}

/// Calls a rank until it answers: it may not listen yet.
fn dial(
    me: Hello,
    rank: usize,
    addresses: impl Fn() -> std::io::Result<Vec<SocketAddr>>,
    deadline: Instant,
) -> Result<TcpStream> {
    let mut why = "it was not tried".to_string();
    while Instant::now() < deadline {
        match addresses() {
            Ok(found) => {
                for address in found {
                    match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
                        Ok(stream) => {
                            me.write(&stream).map_err(refused(&format!("call rank {rank}")))?;
                            return Ok(stream);
                        }
                        Err(error) => why = format!("{address}: {error}"),
                    }
                }
            }
            Err(error) => why = error.to_string(),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(Error::Device(format!(
        "rank {} cannot reach rank {rank} ({why}); is it running, and is the port open?",
        me.rank
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::launch::Launcher;
    use crate::collective::{Call, Collective};

    fn place(rank: usize, size: usize, port: u16, run: &str) -> Place {
        let address = Some(("127.0.0.1".to_string(), port));
        Place { launcher: Launcher::Taper, rank, size, local_rank: rank, address, run_id: run.into(), is_mpi: false }
    }

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    const CALL: Call = Call { name: "test", step: 7, limit: Some(Duration::from_secs(20)) };

    /// Ranks as threads, each with its own sockets.
    fn run<T: Send>(size: usize, work: impl Fn(Tcp) -> T + Sync) -> Vec<T> {
        let port = free_port();
        std::thread::scope(|scope| {
            let work = &work;
            let start = |rank| {
                scope.spawn(move || work(connect(&place(rank, size, port, "r"), Duration::from_secs(20)).unwrap()))
            };
            let threads: Vec<_> = (0..size).map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn everyone_is_connected_with_everyone() {
        for size in [2, 3, 5] {
            let found = run(size, |tcp| {
                let me = tcp.rank();
                // Long enough for a thread of its own, and different for every pair.
                let sent: Vec<Vec<u8>> = (0..size).map(|to| vec![(10 * me + to) as u8; 40_000 + me]).collect();
                let send: Vec<&[u8]> = sent.iter().map(Vec::as_slice).collect();
                let mut got: Vec<Vec<u8>> = (0..size).map(|from| vec![0; 40_000 + from]).collect();
                let mut receive: Vec<&mut [u8]> = got.iter_mut().map(Vec::as_mut_slice).collect();
                tcp.all_to_all(CALL, &send, &mut receive).unwrap();
                tcp.barrier(CALL).unwrap();
                got
            });
            for (me, got) in found.iter().enumerate() {
                for (from, bytes) in got.iter().enumerate() {
                    assert!(bytes.iter().all(|&byte| byte == (10 * from + me) as u8), "{from} to {me}");
                }
            }
        }
    }

    #[test]
    fn a_rank_that_goes_hangs_or_stops_the_run_is_named() {
        let gone = run(3, |tcp| match tcp.rank() {
            2 => String::new(),
            _ => tcp.barrier(CALL).unwrap_err().to_string(),
        });
        assert!(gone[0].contains("rank 2 is gone") && gone[0].contains("\"test\" of step 7"), "{gone:?}");
        let told = run(2, |tcp| match tcp.rank() {
            1 => {
                tcp.abort("the disk is full", 1);
                // Whoever is told reads before the connection is closed.
                std::thread::sleep(Duration::from_millis(200));
                String::new()
            }
            _ => tcp.barrier(CALL).unwrap_err().to_string(),
        });
        assert_eq!(told[0], "rank 1 stopped the run: the disk is full");
        let short = Call { limit: Some(Duration::from_millis(200)), ..CALL };
        let hung = run(2, |tcp| match tcp.rank() {
            1 => {
                std::thread::sleep(Duration::from_millis(600));
                String::new()
            }
            _ => tcp.barrier(short).unwrap_err().to_string(),
        });
        assert!(hung[0].contains("rank 1 does not answer"), "{hung:?}");
        let apart = run(2, |tcp| {
            // Rank 1 expects a byte more of rank 0 than it sends.
            let mut bytes = vec![0; 3 + tcp.rank()];
            tcp.all_gather(CALL, &[1, 2, 3], &mut [&mut bytes, &mut [0; 3]]).err().map(|error| error.to_string())
        });
        assert!(apart.iter().flatten().any(|error| error.contains("out of step")), "{apart:?}");
    }

    #[test]
    fn a_port_that_is_taken_is_passed_over() {
        let taken = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let listener = listen(port).unwrap();
        let found = listener.local_addr().unwrap().port();
        assert!(found != port && candidates(port).any(|candidate| candidate == found), "{found} for {port}");
    }

    #[test]
    fn strangers_are_turned_away_and_absent_ranks_are_named() {
        let port = free_port();
        std::thread::scope(|scope| {
            let zero = scope.spawn(move || connect(&place(0, 3, port, "mine"), Duration::from_millis(1500)));
            let other = scope.spawn(move || connect(&place(1, 3, port, "another"), Duration::from_secs(5)));
            let error = other.join().unwrap().err().unwrap().to_string();
            assert!(error.contains("another run"), "{error}");
            let smaller = scope.spawn(move || connect(&place(1, 2, port, "mine"), Duration::from_secs(5)));
            let error = smaller.join().unwrap().err().unwrap().to_string();
            assert!(error.contains("one of 2 ranks"), "{error}");
            // Someone who speaks another language.
            if let Ok(mut stranger) = TcpStream::connect(("127.0.0.1", port)) {
                let _ = std::io::Write::write_all(&mut stranger, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            }
            let error = zero.join().unwrap().err().unwrap().to_string();
            assert!(error.contains("rank 1, 2 did not come"), "{error}");
        });
    }
}
