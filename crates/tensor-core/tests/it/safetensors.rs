//! Tensors to files and back.

use std::collections::HashMap;
use std::path::Path;

use bert4rs_tensor_core::safetensors::{load, save, write_atomic};
use bert4rs_tensor_core::testing::in_own_process_after;
use bert4rs_tensor_core::{Device, Error, Kind, Tensor};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::values;

const KINDS: [Kind; 10] = [
    Kind::Double,
    Kind::Float,
    Kind::BFloat16,
    Kind::Half,
    Kind::Int64,
    Kind::Int,
    Kind::Int16,
    Kind::Int8,
    Kind::Uint8,
    Kind::Bool,
];

/// Tensors of every dtype, each as a matrix, a scalar and empty.
fn all_sorts() -> Vec<(String, Tensor)> {
    let mut tensors = Vec::new();
    for kind in KINDS {
        let matrix = Tensor::arange(12, (Kind::Float, Device::Cpu)).reshape([3, 4]);
        tensors.push((format!("{kind:?}.matrix"), matrix.to_kind(kind)));
        tensors.push((format!("{kind:?}.scalar"), Tensor::from(1f32).to_kind(kind)));
        tensors.push((format!("{kind:?}.empty"), Tensor::zeros([0, 4], (kind, Device::Cpu))));
    }
    tensors
}

fn borrowed(tensors: &[(String, Tensor)]) -> Vec<(String, &Tensor)> {
    tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect()
}

/// Asserts that the folder holds exactly `names`.
fn holds(folder: &TempDir, names: &[&str]) {
    let mut found: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, names);
}

/// Asserts that `error` names `path`.
fn names_the_file(error: &Error, path: &Path) {
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn every_dtype_round_trips() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("all.safetensors");
    let tensors = all_sorts();
    save(&path, &borrowed(&tensors), None).unwrap();
    let read = load(&path).unwrap();
    assert_eq!(read.len(), tensors.len());
    for (name, tensor) in &tensors {
        let found = &read[name];
        assert_eq!((found.kind(), found.size()), (tensor.kind(), tensor.size()), "{name}");
        assert_eq!(values(found), values(tensor), "{name}");
    }
    holds(&folder, &["all.safetensors"]);
}

#[test]
fn views_are_stored_as_they_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("views.safetensors");
    let matrix = Tensor::arange(12, (Kind::Float, Device::Cpu)).reshape([3, 4]);
    let views = [
        ("columns".to_owned(), matrix.transpose(0, 1)),
        ("expanded".to_owned(), matrix.narrow(0, 1, 1).expand([5, 4], false)),
        ("part".to_owned(), matrix.narrow(1, 1, 2)),
        ("trained".to_owned(), matrix.copy().set_requires_grad(true)),
    ];
    save(&path, &borrowed(&views), None).unwrap();
    let read = load(&path).unwrap();
    for (name, tensor) in &views {
        assert_eq!(values(&read[name]), values(tensor), "{name}");
    }
}

#[test]
fn equal_contents_give_equal_bytes() {
    let folder = TempDir::new().unwrap();
    let tensors = all_sorts();
    let write = |name: &str, reversed: bool| {
        let path = folder.path().join(name);
        let mut list = borrowed(&tensors);
        let mut keys: Vec<u32> = (0..20).collect();
        if reversed {
            list.reverse();
            keys.reverse();
        }
        let pairs = keys.iter().map(|key| (format!("key {key}"), "value".to_owned()));
        save(&path, &list, Some(pairs.collect())).unwrap();
        std::fs::read(path).unwrap()
    };
    let first = write("first", false);
    assert_eq!(first, write("second", true));
    assert_eq!(first, write("first", true));
    holds(&folder, &["first", "second"]);
}

#[test]
fn the_format_is_that_of_the_safetensors_crate() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let tensors = all_sorts();
    save(&path, &borrowed(&tensors), Some(metadata.clone())).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let (header_length, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header_length % 8, 0);
    assert_eq!(header.metadata().as_ref(), Some(&metadata));
    let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, view) in parsed.tensors() {
        let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
        assert_eq!(start % (view.dtype().bitsize() / 8), 0, "{name} is not aligned");
    }
}

#[test]
fn an_empty_file_of_tensors() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("none.safetensors");
    save(&path, &[], None).unwrap();
    assert!(load(&path).unwrap().is_empty());
}

#[test]
fn a_cut_file_is_an_error_wherever_it_is_cut() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("cut.safetensors");
    save(&path, &borrowed(&all_sorts()), None).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(13).chain([7, 8, whole.len() - 1]) {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = load(&path).unwrap_err();
        names_the_file(&error, &path);
        assert!(matches!(error, Error::File { .. }), "{length}: {error}");
    }
    std::fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    assert!(load(&path).is_err());
}

#[test]
fn names_and_dtypes_that_do_not_fit() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("bad.safetensors");
    let one = Tensor::from(1f32);
    let complex = Tensor::zeros([1], (Kind::ComplexFloat, Device::Cpu));
    let undefined = Tensor::new();
    for list in [
        vec![("a".to_owned(), &one), ("a".to_owned(), &one)],
        vec![("__metadata__".to_owned(), &one)],
        vec![("a".to_owned(), &complex)],
        vec![("a".to_owned(), &undefined)],
    ] {
        assert!(save(&path, &list, None).is_err());
    }
    holds(&folder, &[]);
}

#[test]
fn a_dtype_that_libtorch_lacks_here() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("f8.safetensors");
    let header = br#"{"x":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}      "#;
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(&path, [&length[..], &header[..], &[0; 8]].concat()).unwrap();
    let error = load(&path).unwrap_err();
    assert!(error.to_string().ends_with("x: dtype F8_E4M3 can't be read"), "{error}");
}

#[test]
fn any_byte_is_read_as_a_boolean() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("bool.safetensors");
    let header = br#"{"x":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}"#;
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(&path, [&length[..], &header[..], &[0, 1, 255]].concat()).unwrap();
    assert_eq!(values(&load(&path).unwrap()["x"]), [0.0, 1.0, 1.0]);
}

#[test]
fn places_that_cannot_be_written_or_read() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("no such folder").join("x");
    let is_folder = folder.path().join("folder");
    std::fs::create_dir(&is_folder).unwrap();
    let one = Tensor::from(1f32);
    for path in [&missing, &is_folder] {
        let error = save(path, &[("a".to_owned(), &one)], None).unwrap_err();
        assert!(matches!(error, Error::Io { .. }));
        names_the_file(&error, path);
        names_the_file(&write_atomic(path, b"text").unwrap_err(), path);
        names_the_file(&load(path).unwrap_err(), path);
    }
    holds(&folder, &["folder"]);
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    // Without the signal, a write beyond the limit of 64 KiB fails as on a full disk.
    let setup = "trap '' XFSZ && ulimit -f 128";
    in_own_process_after(setup, "safetensors::a_failed_write_leaves_the_old_file", || {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("x.safetensors");
        let small = Tensor::zeros([8], (Kind::Float, Device::Cpu));
        save(&path, &[("a".to_owned(), &small)], None).unwrap();
        let old = std::fs::read(&path).unwrap();
        let large = Tensor::zeros([1 << 20], (Kind::Float, Device::Cpu));
        let error = save(&path, &[("a".to_owned(), &large)], None).unwrap_err();
        assert!(matches!(error, Error::Io { .. }));
        names_the_file(&error, &path);
        assert!(write_atomic(&path, &[1; 1 << 20]).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), old);
        holds(&folder, &["x.safetensors"]);
    });
}

#[test]
fn writers_of_one_file_do_not_mix() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x");
    std::thread::scope(|scope| {
        for letter in [b'a', b'b', b'c', b'd'] {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..20 {
                    write_atomic(path, &[letter; 10_000]).unwrap();
                }
            });
        }
    });
    let found = std::fs::read(&path).unwrap();
    assert!(found.len() == 10_000 && found.iter().all(|letter| *letter == found[0]));
    holds(&folder, &["x"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_damaged_file_never_panics(at in 0usize..400, byte in any::<u8>()) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("damaged");
        let pair = [("a".to_owned(), Tensor::from(1f32)), ("b".to_owned(), Tensor::from(2i64))];
        save(&path, &borrowed(&pair), None).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        std::fs::write(&path, bytes).unwrap();
        if let Err(error) = load(&path) {
            names_the_file(&error, &path);
        }
    }
}
