//! Choices between two ways to compute the same, by a measurement on the device at hand when one
//! is first asked for, kept with the compiled kernels.

#![expect(unsafe_code, reason = "events of the CUDA driver")]

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bert4rs_tensor_core::{Error, Result, stream};
use cudarc::driver::{DriverError, result, sys};

use super::kernel_cache::KernelCache;

/// How often each way is tried, and how often that is timed.
const TRIALS: usize = 3;
const REPEATS: usize = 5;

/// Which of two ways is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    First,
    Second,
}

/// What was chosen, by what decides it.
pub(crate) struct MeasuredChoices {
    /// What the choice is between, for entries on disk.
    name: &'static str,
    known: Mutex<Option<HashMap<String, Way>>>,
}

impl MeasuredChoices {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, known: Mutex::new(None) }
    }

    /// The way that is known for `key` in this process.
    pub(crate) fn known(&self, key: &str) -> Option<Way> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().and_then(|known| known.get(key)).copied()
    }

    /// The way that is known for `key`, from `cache` or from before, or else that of which
    /// `time` tells the lesser time. Only that of the choice is left undone.
    ///
    /// # Errors
    /// Those of `time`.
    pub(crate) fn choose(
        &self,
        key: &str,
        cache: Option<&KernelCache>,
        mut time: impl FnMut(Way) -> Result<f64>,
    ) -> Result<Way> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        if let Some(&way) = known.get(key) {
            return Ok(way);
        }
        let mut measure = || {
            let (mut first, mut second) = (f64::INFINITY, f64::INFINITY);
            // In turn, so that what slows the device slows both.
            for _ in 0..TRIALS {
                first = first.min(time(Way::First)?);
                second = second.min(time(Way::Second)?);
            }
            Ok(vec![u8::from(second < first)])
        };
        let chosen = match cache {
            Some(cache) => cache.get(&[self.name, key], measure)?,
            None => measure()?,
        };
        let way = if chosen == [1] { Way::Second } else { Way::First };
        known.insert(key.to_owned(), way);
        Ok(way)
    }
}

/// Whether work on the current stream of this device is being recorded: nothing can be timed then.
pub(crate) fn is_recording(device: usize) -> Result<bool> {
    let stream = stream::current(device)? as sys::CUstream;
    // SAFETY: the stream is libtorch's, and lives.
    let status = unsafe { result::stream::is_capturing(stream) }.map_err(failed)?;
    Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}

/// Milliseconds that `body` takes on the current stream of this device, the least it waits for.
pub(crate) fn milliseconds(device: usize, mut body: impl FnMut() -> Result<()>) -> Result<f64> {
    let stream = stream::current(device)? as sys::CUstream;
    body()?;
    let [start, end] = [Event::new()?, Event::new()?];
    start.record(stream)?;
    for _ in 0..REPEATS {
        body()?;
    }
    end.record(stream)?;
    // SAFETY: both events live and were recorded.
    unsafe {
        result::event::synchronize(end.0).map_err(failed)?;
        result::event::elapsed(start.0, end.0).map(f64::from).map_err(failed)
    }
}

struct Event(sys::CUevent);

impl Event {
    fn new() -> Result<Self> {
        result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map(Self).map_err(failed)
    }

    fn record(&self, stream: sys::CUstream) -> Result<()> {
        // SAFETY: event and stream live, in the context that the caller's work made current.
        unsafe { result::event::record(self.0, stream) }.map_err(failed)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed only here.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

fn failed(error: DriverError) -> Error {
    Error::Torch { op: "time a CUDA kernel".into(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_way_is_measured_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::at(folder.path());
        let ask = |choices: &MeasuredChoices, key: &str, times: [f64; 2]| {
            let mut asked = 0;
            let time = |way| {
                asked += 1;
                Ok(times[usize::from(way == Way::Second)])
            };
            let way = choices.choose(key, Some(&cache), time).unwrap();
            (way, asked)
        };
        let here = MeasuredChoices::new("a test");
        assert_eq!(ask(&here, "small", [1.0, 2.0]), (Way::First, 2 * TRIALS));
        assert_eq!(ask(&here, "large", [2.0, 1.0]), (Way::Second, 2 * TRIALS));
        assert_eq!(ask(&here, "small", [9.0, 1.0]), (Way::First, 0), "known");
        assert_eq!((here.known("large"), here.known("other")), (Some(Way::Second), None));
        let later = MeasuredChoices::new("a test");
        assert_eq!(ask(&later, "large", [1.0, 9.0]), (Way::Second, 0), "kept on disk");
        let other = MeasuredChoices::new("another");
        assert_eq!(ask(&other, "large", [1.0, 9.0]), (Way::First, 2 * TRIALS));
        let failing = |_| Err(Error::Unsupported { what: "this".into(), reason: "no".into() });
        assert!(other.choose("new", None, failing).is_err());
        assert_eq!(ask(&other, "new", [2.0, 1.0]), (Way::Second, 2 * TRIALS), "not kept");
    }
}
