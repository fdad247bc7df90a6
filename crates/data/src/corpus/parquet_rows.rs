//! The rows of a Parquet file, as a table of examples.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::parquet::contain;
use super::rows::{RowSource, TableRow, lacks};
use crate::error::{Error, Result};

/// The rows of a file, of the columns that were asked for.
pub(super) struct ParquetRows {
    rows: RowIter<'static>,
    path: PathBuf,
    columns: Vec<String>,
    required: usize,
    /// Rows that were read: what stands for a line.
    row: u64,
}

impl ParquetRows {
    /// The rows of `file`; `path` is for messages. The first `required` of `columns` must be there.
    ///
    /// # Errors
    /// A file that is damaged or lacks a required column.
    pub(super) fn new(file: File, path: &Path, columns: &[&str], required: usize) -> Result<Self> {
        let file = contain(path, || SerializedFileReader::new(file))?;
        let schema = file.metadata().file_metadata().schema();
        let fields = schema.get_fields();
        let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
        if let Some(missing) = columns.iter().take(required).find(|name| !names.contains(name)) {
            return Err(lacks(path, None, missing, &names.join(", ")));
        }
        let wanted = fields.iter().filter(|field| columns.contains(&field.name()));
        let wanted: Vec<Arc<Type>> = wanted.cloned().collect();
        let name = schema.name().to_owned();
        let rows = contain(path, || {
            let projection = Type::group_type_builder(&name).with_fields(wanted).build()?;
            RowIter::from_file_into(Box::new(file)).project(Some(projection))
        })?;
        let columns = columns.iter().map(|&name| name.to_owned()).collect();
        Ok(Self { rows, path: path.to_owned(), columns, required, row: 0 })
    }
}

impl RowSource for ParquetRows {
    fn next_row(&mut self) -> Result<Option<TableRow>> {
        let rows = &mut self.rows;
        let Some(row) = contain(&self.path, || rows.next().transpose())? else { return Ok(None) };
        self.row += 1;
        let mut found: Map<String, Value> = object(row);
        let mut values = Vec::with_capacity(self.columns.len());
        for (index, column) in self.columns.iter().enumerate() {
            let value = found.remove(column).unwrap_or_default();
            if value.is_null() && index < self.required {
                let reason = format!("line {} has nothing in {column:?}", self.row);
                return Err(Error::Text { path: self.path.clone(), reason });
            }
            values.push(value);
        }
        Ok(Some(TableRow { line: self.row, values }))
    }
}

fn object(row: Row) -> Map<String, Value> {
    row.into_columns().into_iter().map(|(name, field)| (name, value(field))).collect()
}

/// As JSON has it. Times and decimals are texts.
fn value(field: Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(truth) => truth.into(),
        Field::Byte(number) => number.into(),
        Field::Short(number) => number.into(),
        Field::Int(number) => number.into(),
        Field::Long(number) => number.into(),
        Field::UByte(number) => number.into(),
        Field::UShort(number) => number.into(),
        Field::UInt(number) => number.into(),
        Field::ULong(number) => number.into(),
        Field::Float16(number) => f64::from(number.to_f32()).into(),
        Field::Float(number) => f64::from(number).into(),
        Field::Double(number) => number.into(),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into(),
        Field::Group(row) => object(row).into(),
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        other => other.to_string().into(),
    }
}
