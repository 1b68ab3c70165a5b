//! Real MPI processes (feature `mpi`): the same bytes for any number of them, and no failure that hangs the job.

use std::process::Output;
use std::time::{Duration, Instant};

use super::common::{Shop, read, stderr};
use super::ranks::{Moments, WIDER};

/// `mpiexec -n N taper train`, with a fault on purpose or none.
fn mpiexec(shop: &Shop, processes: &str, run: &str, more: &[&str], fault: &str) -> Output {
    let taper = shop.taper(&[]);
    let mut command = std::process::Command::new("mpiexec");
    command.args(["-n", processes]).arg(taper.get_program()).args(["train", "tiny.toml", "--run", run]);
    command.args(WIDER).args(more).current_dir(shop.path("."));
    command.env("RAYON_NUM_THREADS", "1").env("TAPER_FAULT", fault).output().expect("mpiexec is installed with MPI")
}

fn the_same(shop: &Shop, run: &str, expected: &str) {
    for name in ["model.safetensors", "training/arena.safetensors"] {
        let of = |run: &str| read(&shop.path(run).join("checkpoints/step-00000024").join(name));
        assert!(of(run) == of(expected), "{run}: {name}");
    }
}

#[test]
fn mpi_processes_give_the_same_bytes() {
    let shop = Shop::new();
    for (processes, run, more) in [
        ("1", "one", &[][..]),
        ("2", "two", &[]),
        ("4", "four", &[]),
        ("2", "two-sharded", &["--set", "dist.shard_optimizer=true"]),
        ("4", "four-sharded", &["--set", "dist.shard_optimizer=true"]),
    ] {
        let output = mpiexec(&shop, processes, run, more, "");
        assert!(output.status.success(), "{run}: {}", stderr(&output));
        the_same(&shop, run, "one");
    }
    // MPICH lets another thread call it.
    assert!(shop.log("four").ranks().count() > 0 && shop.log("four").ranks().all(|spread| spread.overlap));
    let environment = read(&shop.path("four").join("environment.json"));
    assert!(String::from_utf8_lossy(&environment).contains(r#""collectives": "mpi""#));
    // The engine's own sum.
    let output = mpiexec(&shop, "4", "fast", &["--set", "dist.reduction=fast"], "");
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_failed_mpi_rank_ends_the_job_and_another_number_goes_on() {
    let shop = Shop::new();
    assert!(mpiexec(&shop, "1", "calm", &[], "").status.success());
    for (fault, words) in
        [("1@checkpoint/8:kill", ""), ("2@gradients/12:panic", "panicked"), ("3@gradients/9:stall", "waited 2 s")]
    {
        let run = fault.replace([':', '@', '/'], "-");
        let began = Instant::now();
        let output = mpiexec(&shop, "4", &run, &["--set", "dist.timeout=2"], fault);
        assert!(!output.status.success() && began.elapsed() < Duration::from_secs(60), "{fault}");
        assert!(stderr(&output).contains(words), "{fault}: {}", stderr(&output));
        let output = mpiexec(&shop, "2", &run, &["--resume"], "");
        assert!(output.status.success(), "{fault}: {}", stderr(&output));
        the_same(&shop, &run, "calm");
    }
}

#[test]
fn mpi_faults_at_random_moments_hang_nothing_and_the_run_ends_in_the_same_bytes() {
    let shop = Shop::new();
    let mut moments = Moments::new();
    let began = Instant::now();
    // Ranks of MPI wait in a loop: more of them than cores take long.
    assert!(mpiexec(&shop, "2", "calm", &[], "").status.success());
    let calm = began.elapsed();
    for kind in ["kill", "panic", "stall"] {
        let fault = moments.fault(2, kind, calm);
        let (run, what) = (fault.replace([':', '@'], "-"), format!("TAPER_TEST_SEED={}: {fault}", moments.seed));
        println!("{fault}");
        let began = Instant::now();
        // Whether the fault comes before the end of the run is a matter of chance.
        mpiexec(&shop, "2", &run, &["--set", "dist.timeout=4"], &fault);
        assert!(began.elapsed() < Duration::from_secs(120), "{what} took {:?}", began.elapsed());
        let output = mpiexec(&shop, "1", &run, &["--resume"], "");
        assert!(output.status.success(), "{what}: {}", stderr(&output));
        the_same(&shop, &run, "calm");
    }
}
