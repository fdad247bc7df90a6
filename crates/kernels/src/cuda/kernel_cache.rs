//! Compiled kernels on disk, so that only the first process that needs one compiles it.
//!
//! An entry's name is a hash of all that decides its content: source, options, NVRTC's version.
//! An entry begins with the hash of the rest; one that does not hold is made again. Entries are
//! written aside and renamed, so that processes that run at once see whole ones.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use bert4rs_tensor_core::{Error, Result};

/// Bytes of the hash that an entry begins with.
const HASH: usize = 32;

/// A folder of compiled kernels.
#[derive(Debug, Clone)]
pub struct KernelCache {
    folder: PathBuf,
}

impl KernelCache {
    /// The user's: `$XDG_CACHE_HOME/bert4rs/kernels`, else `~/.cache/bert4rs/kernels`; none where
    /// neither variable says.
    pub fn of_user() -> Option<Self> {
        let absolute = |name: &str| {
            std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
        };
        let base = absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
        Some(Self::at(&base.join("bert4rs/kernels")))
    }

    /// One in `folder`, made when the first entry is written.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The entry made of `parts`, made by `make` where it is not there or damaged.
    ///
    /// A disk that can't be written to costs time, not the kernel.
    ///
    /// # Errors
    /// That of `make`.
    pub fn get(&self, parts: &[&str], make: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let path = self.path(parts);
        if let Some(content) = read(&path) {
            return Ok(content);
        }
        let content = make()?;
        let _ = self.write(&path, &content);
        Ok(content)
    }

    /// Where the entry made of `parts` lies.
    pub fn path(&self, parts: &[&str]) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            // The length keeps ("ab", "c") from being ("a", "bc").
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        self.folder.join(format!("{}.cubin", hasher.finalize().to_hex()))
    }

    fn write(&self, path: &Path, content: &[u8]) -> Result<()> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        fs::create_dir_all(&self.folder).map_err(at(&self.folder))?;
        let fresh = path.with_extension(format!("{}.{}", std::process::id(), thread()));
        let write = || {
            let mut file = fs::File::create(&fresh)?;
            file.write_all(blake3::hash(content).as_bytes())?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&fresh, path)
        };
        write().inspect_err(|_| drop(fs::remove_file(&fresh))).map_err(at(path))
    }
}

/// A number that no other thread of this process has.
fn thread() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The content of an entry that is whole.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(path).ok()?;
    if bytes.len() < HASH {
        return None;
    }
    let content = bytes.split_off(HASH);
    (blake3::hash(&content).as_bytes()[..] == bytes).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(cache: &KernelCache, parts: &[&str], content: &[u8]) -> (Vec<u8>, bool) {
        let mut made = false;
        let make = || {
            made = true;
            Ok(content.to_vec())
        };
        (cache.get(parts, make).unwrap(), made)
    }

    #[test]
    fn an_entry_is_made_once_for_all_that_decides_it() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::at(&folder.path().join("new/kernels"));
        assert_eq!(made(&cache, &["source", "sm_90a"], b"first"), (b"first".to_vec(), true));
        assert_eq!(made(&cache, &["source", "sm_90a"], b"second"), (b"first".to_vec(), false));
        assert_eq!(made(&cache, &["source", "sm_80"], b"third"), (b"third".to_vec(), true));
        assert_eq!(made(&cache, &["sources", "m_80"], b"fourth"), (b"fourth".to_vec(), true));
    }

    #[test]
    fn a_damaged_entry_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::at(folder.path());
        let path = cache.path(&["a"]);
        made(&cache, &["a"], b"content");
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[HASH + 2] ^= 1;
        for damaged in [&whole[..whole.len() - 1], &flipped, b"", &whole[..HASH - 1]] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(made(&cache, &["a"], b"content"), (b"content".to_vec(), true));
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn many_makers_at_once_leave_one_whole_entry_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::at(folder.path());
        let content = vec![7; 1 << 16];
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(made(&cache, &["a"], &content).0, content));
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_store_that_can_not_be_written_to_gives_the_kernel_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let cache = KernelCache::at(&file.join("below"));
        assert_eq!(made(&cache, &["a"], b"content"), (b"content".to_vec(), true));
    }
}
