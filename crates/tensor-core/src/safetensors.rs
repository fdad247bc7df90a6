//! Tensors to and from safetensors files. A file is whole or not there.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use safetensors::tensor::{Dtype, SafeTensors, TensorInfo};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::error::{Context, Error, Result};
use crate::files::{check_fetched, map_file};

/// Each dtype that has a name in both worlds.
const DTYPES: [(Kind, Dtype); 10] = [
    (Kind::Double, Dtype::F64),
    (Kind::Float, Dtype::F32),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Half, Dtype::F16),
    (Kind::Int64, Dtype::I64),
    (Kind::Int, Dtype::I32),
    (Kind::Int16, Dtype::I16),
    (Kind::Int8, Dtype::I8),
    (Kind::Uint8, Dtype::U8),
    (Kind::Bool, Dtype::BOOL),
];

/// Writes `tensors` and `metadata` to `path`, so that equal contents give equal bytes and an
/// interrupted write leaves the old file. Holds one tensor's bytes at a time beside the tensors.
///
/// # Errors
/// Two tensors of one name, a dtype that the format lacks, and what the system or libtorch says.
pub fn save(
    path: &Path,
    tensors: &[(String, &Tensor)],
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let mut parts = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        parts.push((dtype(path, name, tensor)?, name.as_str(), *tensor));
    }
    // Wider dtypes come first, so that every tensor is aligned to its own elements.
    parts.sort_by(|left, right| right.0.cmp(&left.0).then(left.1.cmp(right.1)));
    let header = header(path, &parts, metadata)?;
    write_through(path, |file| {
        write(path, file, &(header.len() as u64).to_le_bytes())?;
        write(path, file, &header)?;
        parts.iter().try_for_each(|(_, name, tensor)| {
            let bytes = bytes(tensor).during(&format!("{}: {name}", path.display()))?;
            write(path, file, &bytes)
        })
    })
}

/// Writes `contents` to a temporary file beside `path`, flushes it to disk, and renames it.
///
/// # Errors
/// What the system says; then the temporary file is gone and `path` is as it was.
pub fn write_atomic(path: &Path, contents: &[u8]) -> Result<()> {
    write_through(path, |file| write(path, file, contents))
}

/// Reads every tensor of `path` onto the CPU.
///
/// # Errors
/// A file that can't be read, that is no whole safetensors file, or that holds a dtype other than
/// those of [`save`].
pub fn load(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mapped = map_file(path)?;
    check_fetched(path, &mapped)?;
    let parsed = SafeTensors::deserialize(&mapped)
        .map_err(|error| bad(path, format!("not a whole safetensors file: {error}")))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in parsed.tensors() {
        let found = DTYPES.iter().find(|(_, dtype)| *dtype == view.dtype());
        let &(kind, _) = found
            .ok_or_else(|| bad(path, format!("{name}: dtype {:?} can't be read", view.dtype())))?;
        let shape: Vec<i64> = view.shape().iter().map(|&extent| extent as i64).collect();
        let tensor =
            from_bytes(view.data(), &shape, kind).during(&format!("{}: {name}", path.display()))?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// One entry of a file's header.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Metadata(BTreeMap<&'a str, &'a str>),
    Tensor(TensorInfo),
}

/// The JSON header, its keys sorted and its length a multiple of 8.
fn header(
    path: &Path,
    parts: &[(Dtype, &str, &Tensor)],
    metadata: Option<HashMap<String, String>>,
) -> Result<Vec<u8>> {
    const METADATA: &str = "__metadata__";
    let mut entries = BTreeMap::new();
    if let Some(metadata) = &metadata {
        let sorted = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        entries.insert(METADATA, Entry::Metadata(sorted));
    }
    let mut offset = 0;
    for &(dtype, name, tensor) in parts {
        let shape = tensor.size().iter().map(|&extent| extent as usize).collect();
        let end = offset + byte_count(tensor);
        let entry = Entry::Tensor(TensorInfo { dtype, shape, data_offsets: (offset, end) });
        if entries.insert(name, entry).is_some() || name == METADATA {
            return Err(bad(path, format!("{name}: a second entry of this name")));
        }
        offset = end;
    }
    let mut text = serde_json::to_vec(&entries).map_err(|error| bad(path, error.to_string()))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok(text)
}

/// Lets `fill` write a temporary file beside `path`, then flushes and renames it.
fn write_through(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}-{count}.partial", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut file = BufWriter::new(File::create(&temporary).map_err(io)?);
    let written = fill(&mut file).and_then(|()| {
        let file = file.into_inner().map_err(|error| io(error.into_error()))?;
        file.sync_all().and_then(|()| std::fs::rename(&temporary, path)).map_err(io)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn write(path: &Path, file: &mut BufWriter<File>, bytes: &[u8]) -> Result<()> {
    file.write_all(bytes).map_err(|source: io::Error| Error::Io { path: path.to_owned(), source })
}

fn bad(path: &Path, reason: String) -> Error {
    Error::File { path: path.to_owned(), reason }
}

fn dtype(path: &Path, name: &str, tensor: &Tensor) -> Result<Dtype> {
    let kind = tensor.f_kind().during(name)?;
    let found = DTYPES.iter().find(|(known, _)| *known == kind);
    found
        .map(|(_, dtype)| *dtype)
        .ok_or_else(|| bad(path, format!("{name}: dtype {kind:?} can't be stored")))
}

fn byte_count(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

fn bytes(tensor: &Tensor) -> std::result::Result<Vec<u8>, tch::TchError> {
    let mut bytes = vec![0u8; byte_count(tensor)];
    tensor.f_detach()?.f_to_device(Device::Cpu)?.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}

fn from_bytes(
    bytes: &[u8],
    shape: &[i64],
    kind: Kind,
) -> std::result::Result<Tensor, tch::TchError> {
    if kind == Kind::Bool {
        // A file may hold any byte, a boolean only 0 and 1.
        return Tensor::f_from_data_size(bytes, shape, Kind::Uint8)?.f_ne(0);
    }
    Tensor::f_from_data_size(bytes, shape, kind)
}
