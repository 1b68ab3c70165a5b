//! `taper plan`: predictions against numbers worked out by hand, against the memory model, against themselves (more GPUs,
//! more of everything), and what the command says to bad input. How near they come to published runs stands in docs/plan.md.

use std::path::{Path, PathBuf};

use crate::program::{taper, told};
use serde_json::Value;
use taper::arch::config::{Mlp, ModelConfig, Norm, Position};
use taper::device::DType;
use taper::device::peak;
use taper::model::Gpt;
use taper::plan::gpus::{self, Shares};
use taper::plan::network::{ALPHA_LINK, ALPHA_NETWORK, NETWORK_SHARE, NVLINK_SHARE, ORDERED, phase, traffic};
use taper::plan::{Choice, Cluster, Job, Plan, alternatives, plan};
use taper::train::batch::Memory;
use taper::train::config::Precision;

const PLAIN: Choice = Choice { recompute: false, shard_optimizer: false };
const SHARDED: Choice = Choice { recompute: false, shard_optimizer: true };

/// GPT-2 of so many layers, heads and channels.
fn gpt2(n_layer: usize, n_head: usize, n_embd: usize) -> ModelConfig {
    ModelConfig::gpt2(n_layer, n_head, n_embd, 1024, 50_257)
}

fn small() -> ModelConfig {
    gpt2(12, 12, 768)
}

fn job(shape: &ModelConfig) -> Job<'_> {
    let (global_batch, precision) = (512, Precision::Bf16);
    Job { shape, global_batch, micro_batch: None, lanes: None, precision, state_bytes: 8, steps: Some(1000) }
}

fn cluster(gpu: &str, gpus: usize, nodes: usize) -> Cluster {
    let gpu = gpus::find(gpu).unwrap();
    Cluster { gpu, gpus, nodes, network_gbit: 400.0, shares: gpu.shares }
}

fn near(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 1e-9, "{found} where {expected} was expected");
}

#[test]
fn each_gpu_has_its_peaks_and_shares() {
    for gpu in gpus::TABLE {
        let peaks = gpu.peaks().unwrap();
        assert_eq!(Some(peaks), peak::of(gpu.product));
        assert!(peaks.bf16 > 5e13 && gpu.memory_gib > 20.0 && gpu.bandwidth > 2e11, "{}", gpu.name);
        let Shares { gemm, attention, bandwidth } = gpu.shares;
        assert!([gemm, attention, bandwidth].iter().all(|share| (0.05..1.0).contains(share)), "{}", gpu.name);
        assert_eq!(gpus::find(gpu.name).unwrap().name, gpu.name);
    }
    assert_eq!(gpus::find("A100_80").unwrap().name, "a100-80");
}

#[test]
fn parts_add_up_to_the_memory_model() {
    let llama = ModelConfig {
        n_kv_head: 4,
        norm: Norm::Rmsnorm,
        position: Position::Rope,
        mlp: Mlp::Swiglu,
        mlp_dim: 2048,
        qkv_bias: false,
        bias: false,
        tie_embeddings: false,
        ..small()
    };
    for shape in [small(), llama, gpt2(36, 20, 1280)] {
        let parameters = Gpt::new(shape.clone()).unwrap().layout().parameters();
        for (precision, recompute) in [(Precision::Bf16, false), (Precision::Bf16, true), (Precision::Fp32, false)] {
            let dtype = precision.dtype();
            let job = Job { precision, micro_batch: Some(4), ..job(&shape) };
            assert_eq!(job.parameters(), parameters);
            // 128 micro-batches in 8 lanes: four buffers on one GPU, one on each of eight.
            for (gpus, buffers) in [(1, 4), (2, 3), (8, 1)] {
                let cluster = cluster("h200", gpus, 1);
                let found = plan(&job, Choice { recompute, ..PLAIN }, &cluster).unwrap();
                assert_eq!((found.layout.lanes, found.layout.gradient_buffers), (8, buffers));
                let memory = Memory {
                    model: &shape,
                    parameters,
                    trained: parameters,
                    state_bytes: 8,
                    recompute,
                    dtype,
                    on_gpu: true,
                };
                let parts = found.memory;
                assert_eq!(
                    parts.total() - parts.workspace - parts.communication,
                    memory.predicted_bytes(4, buffers),
                    "{gpus} GPUs, {precision:?}"
                );
                assert_eq!(parts.communication > 0, gpus > 1);
                assert_eq!(parts.compute_copy, if dtype == DType::F32 { 0 } else { 2 * parameters as u64 });
            }
        }
    }
}

/// 1558M on eight: ZeRO-1 shares out 12 bytes a parameter, of which each GPU keeps an eighth.
#[test]
fn a_sharded_optimizer_saves_what_it_shares_out() {
    let shape = gpt2(48, 25, 1600);
    let job = Job { micro_batch: Some(4), ..job(&shape) };
    let of = |choice| plan(&job, choice, &cluster("h100", 8, 1)).unwrap();
    let (whole, sharded) = (of(PLAIN), of(SHARDED));
    let parameters = 1_557_611_200;
    assert_eq!(job.parameters(), parameters);
    assert_eq!(whole.memory.total() - sharded.memory.total(), 12 * parameters as u64 / 8 * 7);
    assert_eq!(whole.memory.activations, sharded.memory.activations);
    // On one GPU there is nobody to share with.
    let alone = Job { micro_batch: Some(1), lanes: Some(1), ..job.clone() };
    let alone = plan(&alone, SHARDED, &cluster("h200", 1, 1)).unwrap();
    assert!(!alone.choice.shard_optimizer && alone.memory.moments == 8 * parameters as u64);
}

/// GPT-2 small in bf16, 64 sequences on one A100-80, by hand.
#[test]
fn the_roofline_of_gpt2_small() {
    let shape = small();
    let job = Job { global_batch: 64, micro_batch: Some(64), ..job(&shape) };
    let cluster = cluster("a100-80", 1, 1);
    let found = plan(&job, PLAIN, &cluster).unwrap();
    let seconds = |plan: &Plan, name: &str| {
        let group = plan.compute.groups.iter().find(|group| group.name == name);
        group.unwrap_or_else(|| panic!("no group {name}")).seconds
    };
    let (tokens, parameters) = (65_536.0, 124_439_808.0);
    let bandwidth = 2.039e12 * 0.85;
    // 12 blocks of 12 C^2, and the output layer; 6 operations each.
    let products = 6.0 * (12.0 * 12.0 * 768.0 * 768.0 + 768.0 * 50_257.0) * tokens;
    near(seconds(&found, "matrix products"), products / (0.75 * 312e12));
    // Seven products of the causal half.
    near(seconds(&found, "attention"), 7.0 * 12.0 * 768.0 * 1024.0 * tokens / (0.27 * 312e12));
    // 25 norms, 8 C bytes each way.
    near(seconds(&found, "norms and residuals"), 25.0 * 8.0 * 768.0 * 2.0 * tokens / bandwidth);
    // GELU: two passes over 4 C forward, three backward.
    near(seconds(&found, "activation function"), 12.0 * 5.0 * 3072.0 * 2.0 * tokens / bandwidth);
    // Gradients of 9 C outputs a block.
    near(seconds(&found, "bias gradients"), 12.0 * 9.0 * 768.0 * 2.0 * tokens / bandwidth);
    near(seconds(&found, "classifier"), 4.0 * 50_257.0 * tokens / bandwidth);
    near(seconds(&found, "AdamW"), 30.0 * parameters / bandwidth);
    let total: f64 = found.compute.groups.iter().map(|group| group.seconds).sum();
    near(found.step_seconds, total);
    near(found.tokens_per_second, tokens / total);
    near(found.mfu, tokens / total * shape.flops_per_token() as f64 / 312e12);
    near(found.hours.unwrap(), 1000.0 * total / 3600.0);
    near(found.scaling_efficiency, 1.0);
    assert_eq!((found.compute.launch_seconds, found.traffic.seconds), (0.0, 0.0));
    assert!(!found.compute.groups.iter().any(|group| group.name == "rotary positions"));

    // Once more forward: 8 operations a weight in the blocks, 9 products of attention.
    let again = plan(&job, Choice { recompute: true, ..PLAIN }, &cluster).unwrap();
    let blocks = 2.0 * 12.0 * 12.0 * 768.0 * 768.0 * tokens;
    near(seconds(&again, "matrix products"), (products + blocks) / (0.75 * 312e12));
    near(seconds(&again, "attention"), 9.0 / 7.0 * seconds(&found, "attention"));
    assert!(again.memory.activations < found.memory.activations / 2);

    // One short sequence: a GPU is kept waiting by its kernels' starts, 12 blocks of 27 and 12 more at 5 us.
    let short = ModelConfig { context_length: 16, ..small() };
    let short = Job { shape: &short, global_batch: 1, micro_batch: Some(1), ..job.clone() };
    let short = plan(&short, PLAIN, &cluster).unwrap();
    near(short.compute.micro_batch_seconds, 336.0 * 5e-6);
}

#[test]
fn communication_by_hand() {
    let shape = small();
    let job = job(&shape);
    let eight = cluster("a100-80", 8, 1);
    // A reduce-scatter of 8 GB on eight GPUs: 7 GB sent at 300 GB/s x share, three doublings.
    near(phase(&eight, 8e9), ORDERED * (7e9 / (300e9 * NVLINK_SHARE) + 3.0 * ALPHA_LINK));
    // Four machines: 6 of 8 GB leave each, at 400 Gbit/s x share.
    let more = ORDERED * (6e9 / (50e9 * NETWORK_SHARE) + 2.0 * ALPHA_NETWORK);
    near(phase(&cluster("a100-80", 8, 4), 8e9), phase(&eight, 8e9) + more);

    // A block is 12 C^2 + 13 C; what is left are embeddings and the last norm.
    let (block, tail) = (12 * 768 * 768 + 13 * 768, 50_257 * 768 + 1024 * 768 + 2 * 768);
    assert_eq!(job.buckets(), (block, tail));
    let of = |choice, window: f64| traffic(&job, choice, &eight, window);
    let bucket = |elements: usize| phase(&eight, 4.0 * elements as f64);
    // Nothing to hide behind; long enough to hide all blocks.
    let (none, all) = (of(PLAIN, 0.0), of(PLAIN, 10.0));
    near(none.exposed, 2.0 * (12.0 * bucket(block) + bucket(tail)));
    near(all.exposed, 2.0 * bucket(tail));
    near(all.hidden, 2.0 * 12.0 * bucket(block));
    near(none.bytes, 8.0 * 124_439_808.0 * 7.0 / 8.0);
    // Sharded: gradients one way, new weights in bf16 the other.
    near(of(SHARDED, 10.0).exposed, bucket(tail) + phase(&eight, 2.0 * 124_439_808.0));
    near(of(SHARDED, 0.0).bytes, 6.0 * 124_439_808.0 * 7.0 / 8.0);
    assert_eq!(traffic(&job, PLAIN, &cluster("a100-80", 1, 1), 1.0).seconds, 0.0);
}

#[test]
fn more_gpus_are_faster_and_less_efficient() {
    for gpu in ["a100-40", "a100-80-pcie", "h100", "l4"] {
        let shape = small();
        let job = Job { micro_batch: Some(4), ..job(&shape) };
        let of = |gpus, nodes| plan(&job, PLAIN, &cluster(gpu, gpus, nodes)).unwrap();
        let plans = [of(1, 1), of(2, 1), of(4, 1), of(8, 1), of(8, 2), of(8, 4)];
        for pair in plans.windows(2) {
            assert!(pair[1].tokens_per_second > pair[0].tokens_per_second, "{gpu}");
            assert!(pair[1].scaling_efficiency < pair[0].scaling_efficiency + 1e-12, "{gpu}");
            assert!(pair[1].mfu < pair[0].mfu + 1e-12 && pair[1].mfu > 0.0, "{gpu}");
            assert!(pair[1].hours < pair[0].hours, "{gpu}");
        }
        // A slower network costs, and only where there is one.
        let slow = |nodes| Cluster { network_gbit: 10.0, ..cluster(gpu, 8, nodes) };
        assert!(plan(&job, PLAIN, &slow(2)).unwrap().step_seconds > of(8, 2).step_seconds);
        assert_eq!(plan(&job, PLAIN, &slow(1)).unwrap().step_seconds, of(8, 1).step_seconds);
    }
}

#[test]
fn the_micro_batch_is_the_largest_that_fits() {
    let shape = gpt2(36, 20, 1280);
    let job = job(&shape);
    let eight = cluster("a100-40", 8, 1);
    for (choice, found) in alternatives(&job, &eight) {
        let found = found.unwrap();
        let size = found.layout.micro_batch;
        assert_eq!(found.largest_micro_batch, Some(size));
        assert_eq!(size * found.layout.micro_batches, 64);
        let room = |parts: taper::plan::memory::Parts| {
            (parts.total() - parts.workspace) as f64 / (eight.gpu.memory() - parts.workspace) as f64
        };
        assert!(room(found.memory) <= 0.8);
        // Twice as many would not have fitted (or there are no more).
        let twice = Job { micro_batch: Some(2 * size), ..job.clone() };
        assert!(
            size == 64 || plan(&twice, choice, &eight).map_or(true, |twice| room(twice.memory) > 0.8),
            "{choice:?}"
        );
    }
    assert_eq!(alternatives(&job, &cluster("a100-40", 1, 1)).len(), 2);
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let shape = gpt2(48, 25, 1600);
    let refused = |job: &Job, choice, cluster: &Cluster| {
        let error = plan(job, choice, cluster).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    };
    let large = Job { micro_batch: Some(64), ..job(&shape) };
    let error = refused(&large, PLAIN, &cluster("a100-40", 8, 1));
    assert!(error.contains("a step of 64") && error.contains("40.0 GiB"), "{error}");
    assert!(error.contains("train.micro_batch = 1;") && error.contains("recompute = true"), "{error}");
    // 18 bytes for each of 1.6 billion parameters are more than an L4 has; sharded and recomputed they are less.
    let error = refused(&job(&shape), PLAIN, &cluster("l4", 8, 1));
    assert!(error.contains("shard") && error.contains("such as"), "{error}");
    let one = refused(&job(&shape), PLAIN, &cluster("l4", 1, 1));
    assert!(one.contains("a GPU with more memory") && !one.contains("shard"), "{one}");

    let shape = small();
    let odd = refused(&job(&shape), PLAIN, &cluster("h100", 6, 1));
    assert!(odd.contains("powers of two"), "{odd}");
    let few = refused(&Job { global_batch: 12, ..job(&shape) }, PLAIN, &cluster("h100", 8, 1));
    assert!(few.contains("12 sequences"), "{few}");
    let uneven = refused(&Job { micro_batch: Some(48), ..job(&shape) }, PLAIN, &cluster("h100", 8, 1));
    assert!(uneven.contains("does not divide the 64 sequences") && uneven.contains("take 32"), "{uneven}");
    let lanes = refused(&Job { lanes: Some(4), ..job(&shape) }, PLAIN, &cluster("h100", 8, 1));
    assert!(lanes.contains("dist.lanes = 4"), "{lanes}");
    let huge = ModelConfig { n_embd: 1 << 30, n_layer: 1 << 20, ..small() };
    assert!(refused(&job(&huge), PLAIN, &cluster("h100", 8, 1)).contains("beyond"));
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name)
}

/// Standard output, standard error, exit code.
fn run(args: &[&str]) -> (String, String, i32) {
    let (code, out, err) = told(taper(".").arg("plan").args(args));
    (out, err, code)
}

fn json(args: &[&str]) -> Value {
    let (out, err, code) = run(&[args, &["--json"]].concat());
    assert_eq!((code, out.lines().count()), (0, 1), "{err}");
    serde_json::from_str(&out).unwrap()
}

/// The headers of the four recipes say what the command says: `8 x a100-80: 1.6 hours in micro-batches of 64, 23 GiB`.
#[test]
fn recipes_say_what_the_plan_says() {
    let recipes = [
        ("gpt2_124m.toml", 124_439_808u64, 19_073u64),
        ("gpt2_350m.toml", 354_823_168, 60_000),
        ("gpt2_774m.toml", 774_030_080, 286_102),
        ("gpt2_1558m.toml", 1_557_611_200, 32_000),
    ];
    for (name, parameters, steps) in recipes {
        let path = shipped(name);
        let text = std::fs::read_to_string(&path).unwrap();
        for gpu in ["a100-80", "a100-40"] {
            let found = json(&[path.to_str().unwrap(), "--gpus", "8", "--gpu", gpu, "--price-per-hour", "10"]);
            assert_eq!((found["parameters"].as_u64(), found["steps"].as_u64()), (Some(parameters), Some(steps)));
            let hours = found["plan"]["hours"].as_f64().unwrap();
            near(found["cost"].as_f64().unwrap(), 10.0 * hours);
            let line = format!(
                "8 x {gpu}: {hours:.*} hours in micro-batches of {}, {:.0} GiB",
                usize::from(hours < 100.0),
                found["plan"]["layout"]["micro_batch"],
                found["memory_bytes"].as_f64().unwrap() / (1u64 << 30) as f64
            );
            assert!(text.contains(&line), "{name} does not say: {line}");
        }
    }
}

#[test]
fn the_command_prints_and_explains() {
    let path = shipped("gpt2_124m.toml");
    let path = path.to_str().unwrap();
    let (out, err, code) = run(&[path, "--gpus", "8", "--nodes", "2", "--network", "400", "--price-per-hour", "14"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let words = [
        "predictions",
        "16 lanes",
        "mfu ",
        "(16 x 312.0 TFLOP/s)",
        "communication, exposed",
        "\ncost ",
        "2 machine(s)",
        "assumptions",
        "of 400 Gbit/s",
        "sharded optimizer",
    ];
    for word in words {
        assert!(out.contains(word), "{word:?} is missing in\n{out}");
    }
    // Better knowledge of the matrix products changes them, and is shown.
    let slow = json(&[path, "--gemm-share", "0.375"]);
    let table = json(&[path]);
    let products = |value: &Value| value["plan"]["compute"]["groups"][0]["seconds"].as_f64().unwrap();
    near(products(&slow), 2.0 * products(&table));
    // How many steps an epoch has, only the data says.
    let epochs = ["--set", "train.epochs=1", "--price-per-hour", "14"];
    let (out, err, code) = run(&[&[path][..], &epochs].concat());
    assert!(code == 0 && out.contains("depends on the data") && !out.contains("\ncost"), "{err}{out}");
    assert!(json(&[&[path][..], &epochs].concat())["cost"].is_null());

    let fails = |args: &[&str], words: &[&str]| {
        let (out, err, code) = run(&[&[path], args].concat());
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(words.iter().all(|word| err.contains(word)) && !err.contains("panicked"), "{err}");
    };
    fails(&["--gpu", "rtx4080"], &["did you mean \"rtx4090\"?", "a100-80"]);
    fails(&["--gpu", "a100"], &["did you mean \"a100-40\"?"]);
    fails(&["--gpu", "a10O"], &["did you mean \"a10\"?"]);
    fails(&["--gpu", ""], &["known: a100-40"]);
    fails(&["--gpus", "0"], &["--gpus"]);
    fails(&["--network", "-1"], &["--network"]);
    fails(&["--price-per-hour", "nan"], &["--price-per-hour"]);
    fails(&["--price-per-hour", "-3"], &["at least 0"]);
    fails(&["--gemm-share", "1.5"], &["--gemm-share"]);
    fails(&["--set", "model.n_lair=3"], &["n_layer"]);
}
