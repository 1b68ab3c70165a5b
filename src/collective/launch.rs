//! Who this process is among the ranks, as launchers tell it by environment variables.
//!
//! | launcher | rank, size, rank on this machine | where rank 0 is |
//! |---|---|---|
//! | `taper train --processes`, `--gpus` | TAPER_RANK TAPER_WORLD_SIZE TAPER_LOCAL_RANK | TAPER_RENDEZVOUS |
//! | torchrun | RANK WORLD_SIZE LOCAL_RANK | MASTER_ADDR MASTER_PORT |
//! | OpenMPI | OMPI_COMM_WORLD_{RANK,SIZE,LOCAL_RANK} | MPI itself, or MASTER_ADDR MASTER_PORT |
//! | Slurm (srun) | SLURM_{PROCID,NTASKS,LOCALID} | the first host of SLURM_STEP_NODELIST, a port made from the job id |
//! | MPICH | PMI_{RANK,SIZE} MPI_LOCALRANKID | MPI itself, or MASTER_ADDR MASTER_PORT |
//!
//! OpenMPI's variables come before Slurm's, because `mpirun` within a Slurm job sees both.

use crate::error::{Error, Result};

/// Who started the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// `taper train --processes N` or `--gpus N`.
    Taper,
    /// torchrun, or a script that sets its variables.
    Torchrun,
    /// mpirun of OpenMPI.
    OpenMpi,
    /// srun.
    Slurm,
    /// mpiexec of MPICH.
    Mpich,
}

/// This process among the ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Who started it.
    pub launcher: Launcher,
    /// From 0.
    pub rank: usize,
    /// How many ranks there are.
    pub size: usize,
    /// From 0, on this machine.
    pub local_rank: usize,
    /// Host and port at which rank 0 listens; `None` where only MPI knows.
    pub address: Option<(String, u16)>,
    /// What tells this run from another one that uses the same port.
    pub run_id: String,
    /// Whether an MPI launcher has started it (mpiexec, or srun with an MPI plugin).
    pub is_mpi: bool,
}

/// Environment variables that `--processes` sets for the ranks it starts.
pub const RANK: &str = "TAPER_RANK";
/// See [`RANK`].
pub const WORLD_SIZE: &str = "TAPER_WORLD_SIZE";
/// See [`RANK`].
pub const LOCAL_RANK: &str = "TAPER_LOCAL_RANK";
/// See [`RANK`]: host:port of rank 0.
pub const RENDEZVOUS: &str = "TAPER_RENDEZVOUS";
/// See [`RANK`]: what tells this attempt from others.
pub const RUN_ID: &str = "TAPER_RUN_ID";

/// The place of this process, or `None` where no launcher has started it, or only one process.
///
/// # Errors
/// `Usage` if variables are there, but incomplete or wrong.
pub fn place() -> Result<Option<Place>> {
    read(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

/// [`place`], from variables that `get` looks up.
fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<Place>> {
    let sets = [
        (Launcher::Taper, [RANK, WORLD_SIZE, LOCAL_RANK]),
        (Launcher::Torchrun, ["RANK", "WORLD_SIZE", "LOCAL_RANK"]),
        (Launcher::OpenMpi, ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"]),
        (Launcher::Slurm, ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"]),
        (Launcher::Mpich, ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"]),
    ];
    for (launcher, names) in sets {
        // The batch script of a Slurm job has its variables too, without being a task of a step.
        if launcher == Launcher::Slurm && get("SLURM_STEP_NODELIST").is_none() {
            continue;
        }
        let [Some(rank), Some(size)] = [names[0], names[1]].map(get) else { continue };
        let number = |name: &str, value: &str| -> Result<usize> {
            value
                .parse()
                .map_err(|_| Error::usage(format!("the environment variable {name} = {value:?} is not a whole number")))
        };
        let (rank, size) = (number(names[0], &rank)?, number(names[1], &size)?);
        if size == 1 {
            return Ok(None);
        }
        if rank >= size {
            return Err(Error::usage(format!("{} = {rank} is not below {} = {size}", names[0], names[1])));
        }
        let local_rank = get(names[2]).map_or(Ok(rank), |value| number(names[2], &value))?;
        let address = address(launcher, get)?;
        let run_id = match launcher {
            Launcher::Taper => get(RUN_ID),
            Launcher::Torchrun => get("TORCHELASTIC_RUN_ID")
                .map(|id| format!("{id} {}", get("TORCHELASTIC_RESTART_COUNT").unwrap_or_default())),
            Launcher::Slurm => {
                get("SLURM_JOB_ID").map(|id| format!("{id} {}", get("SLURM_STEP_ID").unwrap_or_default()))
            }
            Launcher::OpenMpi | Launcher::Mpich => None,
        };
        let is_mpi = launcher != Launcher::Taper
            && launcher != Launcher::Torchrun
            && ["PMI_RANK", "OMPI_COMM_WORLD_RANK"].iter().any(|name| get(name).is_some());
        let run_id = run_id.unwrap_or_default();
        return Ok(Some(Place { launcher, rank, size, local_rank, address, run_id, is_mpi }));
    }
    Ok(None)
}

fn address(launcher: Launcher, get: &dyn Fn(&str) -> Option<String>) -> Result<Option<(String, u16)>> {
    if launcher == Launcher::Taper {
        let value = get(RENDEZVOUS).unwrap_or_default();
        let parts = value.rsplit_once(':').and_then(|(host, port)| Some((host.to_string(), port.parse().ok()?)));
        return match parts {
            Some(parts) => Ok(Some(parts)),
            None => Err(Error::usage(format!("the environment variable {RENDEZVOUS} = {value:?} is not HOST:PORT"))),
        };
    }
    if let (Some(host), Some(port)) = (get("MASTER_ADDR"), get("MASTER_PORT")) {
        let port: u16 = port
            .parse()
            .map_err(|_| Error::usage(format!("the environment variable MASTER_PORT = {port:?} is not a port")))?;
        // torchrun's own store listens at MASTER_PORT.
        let agent = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        return Ok(Some((host, if agent { port.saturating_add(1) } else { port })));
    }
    if launcher == Launcher::Torchrun {
        return Err(Error::usage(
            "RANK and WORLD_SIZE are set, MASTER_ADDR and MASTER_PORT are not: set all four, or none",
        ));
    }
    if launcher == Launcher::Slurm {
        let host = get("SLURM_STEP_NODELIST").and_then(|list| first_host(&list));
        let job: Option<u32> = get("SLURM_JOB_ID").and_then(|id| id.parse().ok());
        if let (Some(host), Some(job)) = (host, job) {
            return Ok(Some((host, (20_000 + job % 20_000) as u16)));
        }
    }
    Ok(None)
}

/// The first host of a Slurm node list: `gpu[003-010,12],login` begins with `gpu003`.
fn first_host(list: &str) -> Option<String> {
    let end = list.find(',').unwrap_or(list.len());
    match list.find('[').filter(|&open| open < end) {
        Some(open) => {
            let inside = &list[open + 1..list.find(']')?];
            let first = inside.split([',', '-']).next()?;
            let after = &list[list.find(']')? + 1..];
            let suffix = &after[..after.find(',').unwrap_or(after.len())];
            Some(format!("{}{first}{suffix}", &list[..open]))
        }
        None => Some(list[..end].to_string()).filter(|host| !host.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_of(variables: &[(&str, &str)]) -> Result<Option<Place>> {
        read(&|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn every_launcher_of_the_table_is_understood() {
        let torchrun = [
            ("RANK", "3"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "node0"),
            ("MASTER_PORT", "29500"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("TORCHELASTIC_RUN_ID", "job"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
        ];
        let found = place_of(&torchrun).unwrap().unwrap();
        let expected = Place {
            launcher: Launcher::Torchrun,
            rank: 3,
            size: 8,
            local_rank: 1,
            address: Some(("node0".into(), 29501)),
            run_id: "job 2".into(),
            is_mpi: false,
        };
        assert_eq!(found, expected);
        assert_eq!(place_of(&torchrun[..5]).unwrap().unwrap().address, Some(("node0".into(), 29500)));

        let slurm = [
            ("SLURM_PROCID", "9"),
            ("SLURM_NTASKS", "16"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_JOB_ID", "43210"),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_STEP_NODELIST", "gpu[003-004]"),
        ];
        let found = place_of(&slurm).unwrap().unwrap();
        assert_eq!((found.rank, found.local_rank, found.address), (9, 1, Some(("gpu003".into(), 23210))));
        assert_eq!(place_of(&slurm[..5]).unwrap(), None, "a batch script is no rank");

        // mpirun within a Slurm job.
        let mut both = vec![("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")];
        both.extend(slurm);
        assert_eq!(place_of(&both).unwrap().unwrap().launcher, Launcher::OpenMpi);
        let mpich = [("PMI_RANK", "1"), ("PMI_SIZE", "4"), ("MPI_LOCALRANKID", "1")];
        let found = place_of(&mpich).unwrap().unwrap();
        assert_eq!((found.launcher, found.rank, found.size, found.address), (Launcher::Mpich, 1, 4, None));
        assert!(found.is_mpi);
        let own = [(RANK, "0"), (WORLD_SIZE, "2"), (LOCAL_RANK, "0"), (RENDEZVOUS, "127.0.0.1:999"), (RUN_ID, "7")];
        assert_eq!(place_of(&own).unwrap().unwrap().address, Some(("127.0.0.1".into(), 999)));
        assert_eq!(place_of(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
        assert_eq!(place_of(&[]).unwrap(), None);
    }

    #[test]
    fn wrong_variables_are_named() {
        for (variables, word) in [
            (&[("RANK", "x"), ("WORLD_SIZE", "2")][..], "RANK"),
            (&[("RANK", "2"), ("WORLD_SIZE", "2")], "RANK = 2"),
            (&[("RANK", "0"), ("WORLD_SIZE", "2")], "MASTER_ADDR"),
            (&[("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "99999")], "MASTER_PORT"),
            (&[(RANK, "0"), (WORLD_SIZE, "2"), (RENDEZVOUS, "here")], RENDEZVOUS),
        ] {
            let error = place_of(variables).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn the_first_host_of_a_node_list() {
        for (list, first) in [
            ("n1", "n1"),
            ("n1,n2", "n1"),
            ("n[1-4]", "n1"),
            ("gpu[003-010,12],login", "gpu003"),
            ("a,b[1-2]", "a"),
            ("n[07,9]-x", "n07-x"),
        ] {
            assert_eq!(first_host(list).as_deref(), Some(first), "{list}");
        }
    }
}
