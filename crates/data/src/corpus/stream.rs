//! Text that can be read only once, kept so that it can be read again.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const BLOCK_BYTES: usize = 1 << 20;

/// Copies `reader`, such as standard input, to a file in `folder` that is named by a hash of its
/// contents, and returns its path. The same contents give the same file, which then stays as it is.
///
/// # Errors
/// A stream that can't be read or is empty; a place that can't be written.
pub fn keep_stream(mut reader: impl Read, folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
    let partial = folder.join(format!("{}.partial", std::process::id()));
    let kept = copy(&mut reader, &partial).and_then(|name| {
        let path = folder.join(name);
        match path.exists() {
            true => fs::remove_file(&partial).map_err(Error::io("remove", &partial))?,
            false => fs::rename(&partial, &path).map_err(Error::io("rename", &partial))?,
        }
        Ok(path)
    });
    if kept.is_err() {
        let _ = fs::remove_file(&partial);
    }
    kept
}

/// Copies to `path`, and returns a name by the contents. It has no ending: what it is, the contents
/// say.
fn copy(reader: &mut impl Read, path: &Path) -> Result<String> {
    let mut file = File::create(path).map_err(Error::io("create", path))?;
    let (mut hasher, mut block, mut bytes) = (blake3::Hasher::new(), vec![0; BLOCK_BYTES], 0);
    let input = Path::new("standard input");
    loop {
        let read = match reader.read(&mut block) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(Error::io("read", input))?,
        };
        if read == 0 {
            break;
        }
        bytes += read;
        hasher.update(&block[..read]);
        file.write_all(&block[..read]).map_err(Error::io("write", path))?;
    }
    if bytes == 0 {
        return Err(Error::corpus(input, "is empty; expected lines of text"));
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}
