//! TensorBoard's event files: records of one protobuf message each, with checksums
//! (tensorflow/core/util/event.proto and tensorflow/core/lib/io/record_writer.h).

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::error::{Error, Result, is_storage_full};
use crate::metrics::{MetricSink, StepRecord};

/// What the first record of a file must say.
const VERSION: &str = "brain.Event:2";

/// A record.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Values>,
    #[prost(message, optional, tag = "7")]
    session: Option<Session>,
}

/// Says that a run begins anew: TensorBoard forgets what it has of this step and later ones.
#[derive(Clone, PartialEq, Message)]
struct Session {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.START`.
const START: i32 = 1;

/// Numbers of one step.
#[derive(Clone, PartialEq, Message)]
struct Values {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// A number under the name of its curve; a slash parts groups.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

/// An event file that is being written.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Makes a file of a name of its own in `folder`, which is made if it is missing.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let now = now_s();
        let process = std::process::id();
        // TensorBoard reads the files of a folder in the order of their names.
        let path = folder.join(format!("events.out.tfevents.{:010}.{process}", now as u64));
        let file = File::options().append(true).create_new(true).open(&path);
        let mut events = Self { file: file.map_err(Error::io(&path))?, path };
        let file_version = Some(VERSION.to_owned());
        events.append(&Event { wall_time: now, step: 0, file_version, ..Event::default() })?;
        Ok(events)
    }

    /// Adds `values` of a step, by the names of their curves. What a full disk has no room for is
    /// lost: `metrics.jsonl` has it.
    ///
    /// # Errors
    /// What else the system says.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let value = values
            .iter()
            .map(|&(tag, value)| Scalar { tag: tag.to_owned(), simple_value: value as f32 })
            .collect();
        let summary = Some(Values { value });
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        self.append(&Event { wall_time: now_s(), step, summary, ..Event::default() })
    }

    fn append(&mut self, event: &Event) -> Result<()> {
        match self.file.write_all(&record(&event.encode_to_vec())) {
            Err(error) if !is_storage_full(&error) => Err(Error::io(&self.path)(error)),
            _ => Ok(()),
        }
    }
}

impl MetricSink for EventFile {
    fn steps(&mut self, records: &[StepRecord]) -> Result<()> {
        records.iter().try_for_each(|record| {
            let mut values = vec![
                ("loss/train", record.loss),
                ("learning_rate/adamw", record.lr),
                ("gradient_norm", record.grad_norm),
                ("speed/tokens_per_s", record.tokens_per_s),
                ("speed/data_wait_s", record.data_wait_s),
                ("memory/resident_bytes", record.resident_bytes as f64),
            ];
            values.extend(record.muon_lr.map(|lr| ("learning_rate/muon", lr)));
            values.extend(record.device_bytes.map(|bytes| ("memory/device_bytes", bytes as f64)));
            let held_out: Vec<(String, f64)> = record
                .held_out
                .iter()
                .flatten()
                .map(|(name, mean)| (format!("held_out/{name}"), *mean))
                .collect();
            values.extend(held_out.iter().map(|(name, mean)| (name.as_str(), *mean)));
            let ratios: Vec<(String, f64)> = record
                .update_ratio
                .iter()
                .flatten()
                .map(|(layer, ratio)| (format!("update_to_weight/{layer}"), *ratio))
                .collect();
            values.extend(ratios.iter().map(|(name, ratio)| (name.as_str(), *ratio)));
            self.scalars(record.step, &values)
        })
    }

    fn rewind(&mut self, step: u64) -> Result<()> {
        let step = i64::try_from(step.saturating_add(1)).unwrap_or(i64::MAX);
        let session = Some(Session { status: START });
        self.append(&Event { wall_time: now_s(), step, session, ..Event::default() })
    }
}

/// Length, its checksum, the data, their checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_checksum(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_checksum(data).to_le_bytes());
    record
}

/// CRC-32C, rotated and shifted so that a checksum of data with checksums in them is sound.
fn masked_checksum(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Reads an event file back: the numbers of each step, by the names of their curves. What follows
/// a record that is not whole is left out.
///
/// # Errors
/// What the system says.
pub fn read_scalars(path: &Path) -> io::Result<Vec<(u64, String, f32)>> {
    let bytes = std::fs::read(path)?;
    let mut found = Vec::new();
    let mut rest = &bytes[..];
    while let Some((event, after)) = first_record(rest) {
        for scalar in event.summary.into_iter().flat_map(|summary| summary.value) {
            found.push((event.step.unsigned_abs(), scalar.tag, scalar.simple_value));
        }
        rest = after;
    }
    Ok(found)
}

/// The first record of `bytes` and what follows; `None` where it is not whole.
fn first_record(bytes: &[u8]) -> Option<(Event, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*checksum) != masked_checksum(length) {
        return None;
    }
    let (data, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*checksum) != masked_checksum(data) {
        return None;
    }
    Some((Event::decode(data).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_as_tensorflow_writes_them() {
        // Made by TensorBoard's own writer: the record of `Event(wall_time=1.5, step=3)`.
        let theirs = [
            0x0b, 0, 0, 0, 0, 0, 0, 0, 0x86, 0x15, 0xf5, 0x04, 0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f,
            0x10, 0x03, 0x77, 0x8d, 0xf7, 0xf6,
        ];
        let event = Event { wall_time: 1.5, step: 3, ..Event::default() };
        let ours = record(&event.encode_to_vec());
        assert_eq!(ours, theirs);
    }

    #[test]
    fn what_is_written_is_read_back_and_a_cut_record_ends_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(&folder.path().join("events")).unwrap();
        events.scalars(1, &[("loss/train", 9.5), ("speed/tokens_per_s", 1e4)]).unwrap();
        events.scalars(2, &[("loss/train", 9.25)]).unwrap();
        let whole = [
            (1, "loss/train".to_owned(), 9.5),
            (1, "speed/tokens_per_s".to_owned(), 1e4),
            (2, "loss/train".to_owned(), 9.25),
        ];
        assert_eq!(read_scalars(&events.path).unwrap(), whole);
        let bytes = std::fs::read(&events.path).unwrap();
        for end in (0..bytes.len()).rev().take(20) {
            std::fs::write(&events.path, &bytes[..end]).unwrap();
            assert_eq!(read_scalars(&events.path).unwrap(), whole[..2], "{end}");
        }
    }
}
