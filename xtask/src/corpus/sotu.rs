//! State of the Union speeches: one text file each.

use std::path::Path;

use super::{files_in, read_text};
use crate::error::Result;

/// The speeches of the unpacked package.
pub(super) fn read(unpacked: &Path) -> Result<Vec<String>> {
    let files = files_in(&unpacked.join("package/data"), is_speech)?;
    files.iter().map(|path| read_text(path)).collect()
}

/// Each speech also comes as JSON.
fn is_speech(name: &str) -> bool {
    name.ends_with(".txt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_speech_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("package/data");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("1790_george_washington_n.txt"), "Fellow-Citizens:").unwrap();
        std::fs::write(data.join("1790_george_washington_n.json"), "{}").unwrap();
        assert_eq!(read(folder.path()).unwrap(), ["Fellow-Citizens:"]);
    }
}
