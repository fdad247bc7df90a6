//! Text in Parquet files, and what they may hold instead.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bert4rs_data::{CorpusReading, DatasetOptions, HeldOut, TableReader, TokenizerChoice, prepare};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::json;
use tempfile::tempdir;

use crate::sample::{assert_error, dataset, options};

const SCHEMA: &str = "message rows { required int32 id; optional binary text (UTF8); }";

/// Writes a file with the texts in groups of rows.
pub(crate) fn write(path: &Path, compression: Compression, groups: &[&[Option<&str>]]) {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for group in groups {
        let mut rows = writer.next_row_group().unwrap();
        let ids: Vec<i32> = (0..group.len() as i32).collect();
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<Int32Type>().write_batch(&ids, None, None).unwrap();
        column.close().unwrap();
        let levels: Vec<i16> = group.iter().map(|text| i16::from(text.is_some())).collect();
        let texts: Vec<ByteArray> = group.iter().flatten().map(|&text| text.into()).collect();
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&texts, Some(&levels), None).unwrap();
        column.close().unwrap();
        rows.close().unwrap();
    }
    writer.close().unwrap();
}

fn documents(
    folder: &Path,
    corpus: PathBuf,
    field: &str,
) -> Result<Vec<String>, bert4rs_data::Error> {
    let tokenizer = TokenizerChoice::Load(dataset(folder, 200).folder);
    let reading = CorpusReading { text_field: field.into(), ..CorpusReading::default() };
    let held_out = HeldOut::Share(0.0);
    let options = DatasetOptions { reading, tokenizer, held_out, ..options(folder, corpus) };
    let dataset = prepare(&options, &mut |_| {})?;
    (0..dataset.train.document_count())
        .map(|index| dataset.tokenizer.decode(&dataset.train.document(index)?))
        .collect()
}

#[test]
fn each_value_is_a_document_however_it_is_compressed() {
    let folder = tempdir().unwrap();
    let zstd = Compression::ZSTD(ZstdLevel::try_new(3).unwrap());
    for (name, compression) in [
        ("plain.parquet", Compression::UNCOMPRESSED),
        ("snappy.PARQUET", Compression::SNAPPY),
        ("gzip.parquet", Compression::GZIP(Default::default())),
        // Known by its content.
        ("zstd", zstd),
    ] {
        let path = folder.path().join(name);
        let first: &[_] = &[Some("the cat\n\nsat."), None, Some("")];
        let many = vec![Some("a mat and birds."); 700];
        write(&path, compression, &[first, &many, &[]]);
        let found = documents(folder.path(), path, "text").unwrap();
        assert_eq!(found.len(), 701, "{name}");
        assert_eq!(found[0], "the cat sat.");
        assert!(found[1..].iter().all(|text| text == "a mat and birds."));
    }
}

#[test]
fn what_is_no_text_is_refused() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write(&path, Compression::UNCOMPRESSED, &[&[Some("the cat")]]);
    let found = documents(folder.path(), path.clone(), "body");
    assert_error(found, &["a.parquet", "lacks the column \"body\"; it has id, text"]);
    let found = documents(folder.path(), path.clone(), "id");
    assert_error(found, &["a.parquet", "no text in the column \"id\", but INT32"]);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    assert_error(documents(folder.path(), path.clone(), "text"), &["is no Parquet file"]);
    std::fs::write(&path, "PAR1 the cat").unwrap();
    assert_error(documents(folder.path(), path, "text"), &["is no Parquet file"]);
}

#[test]
fn rows_are_examples_of_a_table() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    write(&path, Compression::SNAPPY, &[&[Some("a cat"), None], &[Some("a mat")]]);
    let rows = |columns: &[&str], required: usize| -> Result<Vec<_>, bert4rs_data::Error> {
        let mut reader = TableReader::open(&path, columns, required)?;
        let mut rows = Vec::new();
        while let Some(row) = reader.next_row()? {
            rows.push((row.line, row.values));
        }
        Ok(rows)
    };
    let expected = [
        (1, vec![json!("a cat"), json!(0), json!(null)]),
        (2, vec![json!(null), json!(1), json!(null)]),
        (3, vec![json!("a mat"), json!(0), json!(null)]),
    ];
    assert_eq!(rows(&["text", "id", "more"], 0).unwrap(), expected);
    for (columns, told) in [
        (["id", "label"], "lacks the column \"label\"; it has id, text"),
        (["id", "text"], "line 2 has nothing in \"text\""),
    ] {
        assert_error(rows(&columns, 2), &["rows.parquet", told]);
    }
    std::fs::write(&path, "PAR1 but no more").unwrap();
    assert_error(rows(&["text"], 1), &["rows.parquet", "is no Parquet file that can be read"]);
}
