//! Planted faults (faults.cu), and right kernels next to them that must not be blamed.

use super::device::{Device, Value};
use crate::library::sanitizer;
use Value::{U32, U64};

/// Orders of threads that right kernels do not depend on.
const ORDERS: [u32; 4] = [0, 1, 2, 3];

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32).collect()
}

/// Whether a fault cannot be shown here: the sanitizer ends the process, see `sanitizers_name_the_fault`.
fn ends_the_process() -> bool {
    let sanitized = sanitizer().is_some();
    if sanitized {
        println!("skipped under a sanitizer: it would end the process");
    }
    sanitized
}

#[test]
fn right_kernels_are_right_in_any_order() {
    let Some(device) = Device::new() else { return };
    let x = numbers(1024);
    for order in ORDERS {
        device.0.schedule(order);
        let (from, y) = (device.with(&x), device.empty::<f32>(1024));
        device.launch("fault_none", 1, 256, 0, &[from.at(), y.at(), U32(1024)]).unwrap();
        assert_eq!(y.read::<f32>(), x);
        let y = device.empty::<f32>(1024);
        device.launch("fault_copy_right", 1, 256, 4096, &[from.at(), y.at()]).unwrap();
        assert_eq!(y.read::<f32>(), x);
        let y = device.empty::<f32>(256);
        device.launch("fault_sync_warp_right", 1, 256, 0, &[y.at()]).unwrap();
        assert_eq!(y.read::<f32>(), (0..256).map(|i| (i / 32 + 1) as f32).collect::<Vec<_>>());
    }
    device.0.schedule(0);
}

#[test]
fn missing_waits_and_barriers_give_wrong_data() {
    let Some(device) = Device::new() else { return };
    if ends_the_process() {
        return;
    }
    let from = device.with(&numbers(1024));
    for order in ORDERS {
        device.0.schedule(order);
        // Nothing has arrived where nobody waits.
        let y = device.empty::<f32>(1024);
        device.launch("fault_no_wait", 1, 256, 4096, &[from.at(), y.at()]).unwrap();
        assert!(y.read::<f32>().iter().all(|y| y.is_nan()), "order {order}");
        // Half of the threads read before their partner has written.
        let y = device.empty::<f32>(1024);
        device.launch("fault_no_barrier", 1, 256, 4096, &[from.at(), y.at()]).unwrap();
        assert_eq!(y.read::<f32>().iter().filter(|y| y.is_nan()).count(), 512, "order {order}");
    }
    device.0.schedule(0);
    let y = device.empty::<f32>(256);
    device.launch("fault_no_sync_warp", 1, 256, 0, &[y.at()]).unwrap();
    assert_eq!(y.read::<f32>().iter().filter(|y| y.is_nan()).count(), 256 - 8);
}

#[test]
fn divergence_and_deadlock_are_named_with_their_place() {
    let Some(device) = Device::new() else { return };
    let faults = [
        ("fault_divergent_barrier", "divergent barrier", "thread (0, 0, 0): has ended"),
        ("fault_divergent_shuffle", "divergent collective", "waits at shfl_xor"),
        ("fault_mixed_collectives", "divergent collective", "warp"),
        ("fault_deadlock", "deadlock", "waits at sync_warp"),
    ];
    for (kernel, what, place) in faults {
        for order in ORDERS {
            device.0.schedule(order);
            let y = device.empty::<f32>(256);
            let error = device.launch(kernel, 1, 256, 0, &[y.at()]).unwrap_err();
            assert!(error.contains(kernel) && error.contains(what) && error.contains(place), "{error}");
        }
    }
    device.0.schedule(0);
    // A fault leaves nothing behind that a right launch would stumble over.
    right_kernels_are_right_in_any_order();
}

#[test]
fn bank_conflicts_are_counted() {
    let Some(device) = Device::new() else { return };
    // Rows of 128 bytes: without a swizzle, the eight rows of each of the four matrices lie in the same banks.
    for (kernel, shared, conflicts) in
        [("fault_swizzled", 4096, 0), ("fault_bank_conflicts", 4096, 4 * 7), ("fault_bank_conflicts_words", 4096, 31)]
    {
        let y = device.empty::<u32>(128);
        device.launch(kernel, 1, 32, shared, &[y.at()]).unwrap();
        assert_eq!(device.0.counter(c"bank_conflicts"), conflicts, "{kernel}");
    }
}

#[test]
fn addresses_are_checked() {
    let Some(device) = Device::new() else { return };
    let (x, y) = (device.with(&numbers(1024)), device.empty::<f32>(4));
    let load = |offset: u32| device.launch("fault_load16", 1, 32, 0, &[x.at(), y.at(), U32(offset)]);
    load(0).unwrap();
    load(1020).unwrap();
    for (offset, what) in [
        (1, "misaligned load"),
        (1021, "misaligned load"),
        (1024, "out of bounds: load"),
        (1 << 20, "out of bounds: load"),
    ] {
        let error = load(offset).unwrap_err();
        assert!(error.contains(what) && error.contains("thread (0, 0, 0)"), "{offset}: {error}");
    }
    let store = |offset| device.launch("fault_store_address", 1, 32, 1024, &[U32(offset)]);
    store(1020).unwrap();
    assert!(store(1024).unwrap_err().contains("out of bounds: shared store"));
    assert!(store(2).unwrap_err().contains("misaligned shared store"));
    let error = device.launch("fault_ldmatrix_misaligned", 1, 32, 1024, &[y.at()]).unwrap_err();
    assert!(error.contains("misaligned ldmatrix row"), "{error}");
    let error = device.launch("fault_cp_async_misaligned", 1, 32, 1024, &[x.at()]).unwrap_err();
    assert!(error.contains("misaligned cp.async"), "{error}");
}

#[test]
fn plain_stores_out_of_bounds_hurt_a_red_zone() {
    let Some(device) = Device::new() else { return };
    if ends_the_process() {
        return;
    }
    let y = device.empty::<f32>(4);
    device.launch("fault_store", 1, 32, 0, &[y.at(), U32(3)]).unwrap();
    let error = device.launch("fault_store", 1, 32, 0, &[y.at(), U32(4)]).unwrap_err();
    assert!(error.contains("out of bounds: written 0 bytes behind an allocation of 16 bytes"), "{error}");
    drop(y);
    device.launch("fault_store_shared", 1, 32, 1024, &[U32(1023)]).unwrap();
    let error = device.launch("fault_store_shared", 1, 32, 1024, &[U32(1024)]).unwrap_err();
    assert!(error.contains("shared memory was written 0 bytes behind the 1024 dynamic bytes"), "{error}");
}

#[test]
fn what_was_not_written_is_nan() {
    let Some(device) = Device::new() else { return };
    let y = device.empty::<f32>(100);
    device.launch("fault_unwritten", 1, 32, 0, &[y.at(), U32(100)]).unwrap();
    let y = y.read::<f32>();
    assert!(y[..99].iter().all(|&y| y == 0.0) && y[99].is_nan());
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let Some(device) = Device::new() else { return };
    let y = device.empty::<f32>(100);
    let launch =
        |kernel, block, shared, arguments: &[Value]| device.launch(kernel, 1, block, shared, arguments).unwrap_err();
    let right = [y.at(), U32(3)];
    let refused = [
        (launch("no_such_kernel", 32, 0, &right), "there is no kernel"),
        (launch("fault_unwritten", 32, 0, &right[..1]), "1 arguments given, the kernel takes 2"),
        (launch("fault_unwritten", 32, 0, &[y.at(), U64(3)]), "argument 1 has 8 bytes, the kernel takes 4"),
        (launch("fault_unwritten", 64, 0, &right), "made for 1 to 32"),
        (launch("fault_unwritten", 16, 0, &right), "not a multiple of 32"),
        (launch("fault_unwritten", 32, 200_000, &right), "200000 bytes of dynamic shared memory"),
        (launch("fault_static_shared", 32, 128 << 10, &right[..1]), "too much shared memory"),
        (device.launch("fault_unwritten", 0, 32, 0, &right).unwrap_err(), "a grid of (0, 1, 1) blocks"),
    ];
    for (error, what) in refused {
        assert!(error.contains(what), "{error}");
    }
    device.launch("fault_static_shared", 1, 32, 1024, &right[..1]).unwrap();
}

/// Under a sanitizer: each fault in a process of its own, which the sanitizer must end with its words.
#[test]
fn sanitizers_name_the_fault() {
    let faults: &[(&str, &str)] = match sanitizer().as_deref() {
        Some("address") => &[("fault_store", "use-after-poison"), ("fault_store_shared", "use-after-poison")],
        Some("thread") => &[("fault_no_barrier", "data race"), ("fault_no_sync_warp", "data race")],
        Some("undefined") => &[],
        _ => {
            println!("skipped: TAPER_EMULATOR_SANITIZE names no sanitizer");
            return;
        }
    };
    for (kernel, words) in faults {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "faults::one_fault", "--nocapture"])
            .env("TAPER_EMULATOR_FAULT", kernel)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words) && said.contains(kernel), "{kernel}: {said}");
    }
}

#[test]
#[ignore = "one fault in a process of its own, started by sanitizers_name_the_fault"]
fn one_fault() {
    let Ok(kernel) = std::env::var("TAPER_EMULATOR_FAULT") else { return };
    let Some(device) = Device::new() else { return };
    let (x, y) = (device.with(&numbers(1024)), device.empty::<f32>(1024));
    let (arguments, shared): (&[Value], u32) = match kernel.as_str() {
        "fault_store" => (&[y.at(), U32(1024)], 0),
        "fault_store_shared" => (&[U32(1024)], 1024),
        "fault_no_barrier" => (&[x.at(), y.at()], 4096),
        "fault_no_sync_warp" => (&[y.at()], 0),
        other => panic!("no fault of the name {other}"),
    };
    let threads = if kernel.starts_with("fault_store") { 32 } else { 256 };
    device.launch(&kernel, 1, threads, shared, arguments).unwrap();
}
