//! The table of matrix products: measured, used by a run, kept with it, refused elsewhere; and GELU inside the products.
//!
//! A table changes how a GPU computes for the whole process, so these tests have an emulated GPU of their own; on a real one
//! `scripts/gpu.sh` runs `taper bench tune` and compares.

use std::path::Path;

use taper::device::Device;
use taper::device::products::ProductTable;
use taper::ops::gelu::{Kind, gelu};
use taper::ops::linear::gelu::gelu_mlp;
use taper::ops::linear::linear;
use taper::tape::{ParamId, Tape, Var};

use super::compare::{activation, check_on, param};
use super::{ROOM, emulated, library, taper};

fn own_device() -> Option<Device> {
    library::library().map(|library| emulated::Emulated::device(library, ROOM))
}

#[test]
fn gelu_inside_products_is_gelu_between_them() {
    let Some(device) = own_device() else { return };
    device.gpu().unwrap().unwrap().set_gelu_epilogue(true);
    let mlp = |tape: &mut Tape<'_>, x: &Var, p: &[ParamId], bias: bool| {
        let (up, down) = if bias { ((p[0], Some(p[2])), (p[1], Some(p[3]))) } else { ((p[0], None), (p[1], None)) };
        if let Some(y) = gelu_mlp(tape, x, up, down)? {
            assert!(y.value().gpu().is_some(), "the CPU has no such product");
            return Ok(y);
        }
        assert!(x.value().gpu().is_none(), "the GPU was to make it");
        let inner = linear(tape, x, up.0, up.1)?;
        let inner = gelu(tape, &inner, Kind::Tanh)?;
        linear(tape, &inner, down.0, down.1)
    };
    for (rows, width, inner) in [(1, 8, 16), (30, 12, 40)] {
        let inputs = [
            activation("x", &[rows, width]),
            param("up", &[inner, width]),
            param("down", &[width, inner]),
            param("bias up", &[inner]),
            param("bias down", &[width]),
        ];
        let what = format!("{rows} x {width} x {inner}");
        let own = [("emulated, GELU inside".to_string(), device)];
        check_on(&own, &what, &inputs, 24.0, &|tape, v, p| mlp(tape, &v[0], p, true));
        check_on(&own, &format!("{what} without bias"), &inputs[..3], 24.0, &|tape, v, p| mlp(tape, &v[0], p, false));
    }
}

const CONFIG: &str = r#"
[model]
n_layer = 1
n_head = 2
n_embd = 128
context_length = 24

[tokenizer]
kind = "bytes"

[data]
text = ["TEXT"]
val_fraction = 0

[train]
micro_batch = 2
max_steps = 4

[sample]
every = "off"

[checkpoint]
every = 2
"#;

#[test]
fn a_run_keeps_its_table() {
    let Some(device) = own_device() else { return };
    let gpu = device.gpu().unwrap().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    std::fs::write(at("text.txt"), "a table of products ".repeat(50)).unwrap();
    std::fs::write(at("run.toml"), CONFIG.replace("TEXT", &at("text.txt"))).unwrap();
    let (config, table, on) = (at("run.toml"), at("matmul.json"), device.to_string());
    assert_eq!(
        taper(&[
            "bench",
            "tune",
            "--config",
            &config,
            "--device",
            &on,
            "--precision",
            "bf16",
            "--steps",
            "5",
            "--out",
            &table
        ]),
        0
    );
    assert!(!gpu.gelu_epilogue(), "what was measured stays with the measurement");
    // Which choice won is a matter of noise here; the test continues with the one that changes most.
    let mut found = ProductTable::read(Path::new(&table)).unwrap();
    assert_eq!(found.hardware, gpu.driver().facts().kind());
    found.algorithms = gpu.driver().tuned();
    // A block has four products forward, and two for each of them backward; the output layer has three.
    let (inside, plain): (Vec<_>, Vec<_>) = found.algorithms.keys().partition(|shape| shape.contains("gelu"));
    assert!(plain.len() >= 8 && inside.len() == 2, "{:?}", found.algorithms);
    found.gelu_epilogue = true;
    std::fs::write(&table, found.to_text()).unwrap();

    let train = |run: &str, more: &[&str]| {
        let words = ["train", &config, "--run", &at(run), "--device", &on, "--set", "precision.compute=bf16"];
        taper(&[&words[..], more].concat())
    };
    let given = format!("precision.matmul_table={table}");
    assert_eq!(train("plain", &[]), 0);
    assert!(!gpu.gelu_epilogue());
    assert_eq!(train("whole", &["--set", &given]), 0);
    assert!(gpu.gelu_epilogue());
    assert_eq!(ProductTable::read(&folder.path().join("whole/matmul.json")).unwrap(), found);
    let weights =
        |run: &str| std::fs::read(folder.path().join(run).join("checkpoints/step-00000004/model.safetensors")).unwrap();
    assert!(weights("plain") != weights("whole"), "GELU inside the products rounds otherwise");

    // A resumed run reads its own copy, also where the file that was given is gone.
    assert_eq!(train("half", &["--set", &given]), 0);
    std::fs::remove_dir_all(folder.path().join("half/checkpoints/step-00000004")).unwrap();
    std::fs::remove_file(&table).unwrap();
    assert_eq!(train("half", &["--set", &given, "--resume"]), 0);
    assert!(weights("half") == weights("whole"), "the resumed run went by another table");

    // A table of other hardware is refused, and the run not started.
    found.hardware = "gpu of another kind".into();
    std::fs::write(&table, found.to_text()).unwrap();
    assert_eq!(train("elsewhere", &["--set", &given]), 2);
    found.hardware = gpu.driver().facts().kind();
    found.algorithms.insert("1x1x1".into(), "ff".into());
    std::fs::write(&table, found.to_text()).unwrap();
    assert_eq!(train("damaged", &["--set", &given]), 1);
    // On the CPU it has no meaning, and no harm.
    assert_eq!(taper(&["train", &config, "--run", &at("cpu"), "--device", "cpu", "--set", &given]), 0);
    assert_eq!(taper(&["bench", "tune", "--config", &config, "--device", "cpu"]), 2);
}
