//! Tensors to and from safetensors files. A file is whole or not there.

#![expect(unsafe_code, reason = "the border to C and C++")]

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};

/// Writes `tensors` to `path`, sorted by name, through a temporary file beside it, so that
/// equal tensors give equal bytes and an interrupted write leaves the old file.
pub fn save(
    path: &Path,
    tensors: &[(String, &Tensor)],
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let mut held = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        held.push((name.as_str(), dtype(path, name, tensor)?, bytes(path, name, tensor)?, tensor));
    }
    let mut views = Vec::with_capacity(held.len());
    for (name, dtype, bytes, tensor) in &held {
        let shape = tensor.size().iter().map(|&extent| extent as usize).collect();
        let view = TensorView::new(*dtype, shape, bytes).map_err(|error| bad(path, name, error))?;
        views.push((*name, view));
    }
    let serialized =
        safetensors::serialize(views, metadata).map_err(|error| bad(path, "file", error))?;
    write_whole(path, &serialized)
}

/// Writes `contents` to a temporary file beside `path`, flushes it to disk, and renames it.
pub fn write_whole(path: &Path, contents: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.partial", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(contents)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    });
    written.map_err(|source| {
        let _ = std::fs::remove_file(&temporary);
        Error::Io { path: path.to_owned(), source }
    })
}

/// Reads every tensor of `path` onto the CPU.
pub fn load(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    // SAFETY: the mapping is only read and ends with this function; another process that cuts
    // the file short meanwhile could fault us, as with any mapped file.
    let mapped = unsafe { Mmap::map(&file) }.map_err(io)?;
    let parsed = SafeTensors::deserialize(&mapped).map_err(|error| bad(path, "file", error))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in parsed.tensors() {
        let kind = kind(path, &name, view.dtype())?;
        let shape: Vec<i64> = view.shape().iter().map(|&extent| extent as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, kind)
            .map_err(|error| Error::torch(format!("{}: {name}", path.display()), error))?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

fn bad(path: &Path, what: &str, reason: impl std::fmt::Display) -> Error {
    let reason = format!("{what}: {reason}; not a whole safetensors file");
    Error::File { path: path.to_owned(), reason }
}

fn bytes(path: &Path, name: &str, tensor: &Tensor) -> Result<Vec<u8>> {
    let count = tensor.numel();
    let mut bytes = vec![0u8; count * tensor.kind().elt_size_in_bytes()];
    tensor
        .detach()
        .to_device(tch::Device::Cpu)
        .contiguous()
        .f_copy_data_u8(&mut bytes, count)
        .map_err(|error| Error::torch(format!("{}: {name}", path.display()), error))?;
    Ok(bytes)
}

fn dtype(path: &Path, name: &str, tensor: &Tensor) -> Result<Dtype> {
    Ok(match tensor.kind() {
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Half => Dtype::F16,
        Kind::Int64 => Dtype::I64,
        Kind::Int => Dtype::I32,
        Kind::Int16 => Dtype::I16,
        Kind::Int8 => Dtype::I8,
        Kind::Uint8 => Dtype::U8,
        Kind::Bool => Dtype::BOOL,
        other => return Err(bad(path, name, format!("dtype {other:?} can't be stored"))),
    })
}

fn kind(path: &Path, name: &str, dtype: Dtype) -> Result<Kind> {
    Ok(match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F16 => Kind::Half,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        other => return Err(bad(path, name, format!("dtype {other:?} can't be read"))),
    })
}
