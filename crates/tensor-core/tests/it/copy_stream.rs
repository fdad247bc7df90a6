//! Copies beside other work, where a GPU is; the refusal where none is.

use bert4rs_tensor_core::copy_stream::CopyStream;
use bert4rs_tensor_core::testing::cuda_or_skip;
use bert4rs_tensor_core::{Device, Error, Kind, Tensor, stream};

#[test]
fn a_device_without_streams_is_refused() {
    let error = CopyStream::new(Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("Cpu has no streams"), "{error}");
}

#[test]
fn later_work_waits_for_copies_beside_it() {
    let Some(device) = cuda_or_skip() else {
        let error = CopyStream::new(Device::Cuda(0)).unwrap_err().to_string();
        return assert!(error.contains("stream for copies"), "{error}");
    };
    let copy_stream = CopyStream::new(device).unwrap();
    let before = stream::current(0).unwrap();
    let host: Vec<Tensor> =
        (0..20).map(|_| Tensor::randn([1 << 20], (Kind::Float, Device::Cpu))).collect();
    let busy = Tensor::randn([2048, 2048], (Kind::Float, device));
    for host in &host {
        let _ = busy.matmul(&busy);
        let copy = copy_stream.run(
            || Ok::<_, Error>(host.pin_memory(device).to_device_(device, Kind::Float, true, false)),
            |copy| vec![copy],
        );
        let found = (copy.unwrap() * 2.0).to_device(Device::Cpu);
        assert!(found.equal(&(host * 2.0)));
    }
    let failed = copy_stream.run(
        || Err::<Tensor, _>(Error::Torch { op: "test".into(), message: "no".into() }),
        |tensor| vec![tensor],
    );
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = copy_stream.run(|| -> Result<Tensor, Error> { panic!("no") }, |x| vec![x]);
    }));
    let Device::Cuda(index) = device else { unreachable!() };
    assert_eq!(stream::current(index).unwrap(), before, "whatever the body did");
    assert!(
        panicked.is_err()
            && failed.is_err()
            && busy.matmul(&busy).isfinite().all().int64_value(&[]) == 1
    );
}
