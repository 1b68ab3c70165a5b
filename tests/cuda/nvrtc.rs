//! Every kernel compiles by NVRTC, as it will on the user's machine: no GPU is needed for that, only the library.

use taper::device::cuda;

#[test]
fn every_kernel_compiles_by_nvrtc() {
    if cuda::libraries().iter().any(|library| library.name == "libnvrtc.so" && library.path.is_none()) {
        println!("skipped: libnvrtc is not here (pip install nvidia-cuda-nvrtc)");
        return;
    }
    for capability in [(8, 0), (9, 0)] {
        let files = cuda::compile_all(capability).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(files.len(), taper::device::kernels::SOURCES.len());
        let (bytes, seconds) =
            files.iter().fold((0, 0.0), |(bytes, seconds), file| (bytes + file.bytes, seconds + file.seconds));
        println!("sm_{}{}: {} files, {bytes} bytes in {seconds:.1} s", capability.0, capability.1, files.len());
        assert!(files.iter().all(|file| file.bytes > 1000), "{files:?}");
    }
}
