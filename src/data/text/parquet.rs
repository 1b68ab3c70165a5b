//! Reading the text column of a Parquet file, one document a row.
//!
//! Read page by page through the low-level column reader, without Arrow: only the one column is touched, and one page of
//! it at a time is in memory. Rows whose text is null or empty are passed over.
//!
//! The parquet crate panics on some damaged pages (an index beyond a slice in its bit readers). Such a panic is caught here
//! and becomes the error that it should be; the reader is not used again after it.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::data::text::reader::{Reader, no_column};
use crate::error::{Error, Result};

/// How many rows are asked for at once: enough to amortise the call, few enough that long texts stay few.
const ROWS: usize = 64;

/// The documents of a Parquet file.
pub(in crate::data) struct ParquetReader {
    file: SerializedFileReader<File>,
    path: PathBuf,
    column: usize,
    group: usize,
    reader: Option<ColumnReaderImpl<ByteArrayType>>,
    /// Rows read and not yet given out, the last first; `None` where the text is null.
    rows: Vec<Option<ByteArray>>,
    row: u64,
    total_rows: u64,
    /// For progress: the bytes of the file, those of it reported so far, and where to report them.
    bytes: u64,
    reported: u64,
    consumed: Arc<AtomicU64>,
}

/// Calls into the parquet crate, with its panics as errors. What the call touched must not be used after an error.
fn guarded<T>(call: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(ParquetError::General("the pages do not fit together".into())))
}

impl ParquetReader {
    /// Opens a file and finds the column.
    pub(in crate::data) fn open(
        path: &Path,
        file: File,
        column: &str,
        bytes: u64,
        consumed: Arc<AtomicU64>,
    ) -> Result<Self> {
        let file = SerializedFileReader::new(file).map_err(|error| {
            Error::data(path, format!("cannot be read as Parquet ({error}); it is damaged or truncated"))
        })?;
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let names: Vec<String> = schema.columns().iter().map(|c| c.path().string()).collect();
        let index = names
            .iter()
            .position(|name| name == column)
            .ok_or_else(|| Error::data(path, no_column(column, "column", &names)))?;
        let descriptor = schema.column(index);
        if descriptor.physical_type() != Type::BYTE_ARRAY || descriptor.max_rep_level() > 0 {
            let message = format!("the column {column:?} holds {}, not one text a row", descriptor.physical_type());
            return Err(Error::data(path, message));
        }
        let total_rows = u64::try_from(file.metadata().file_metadata().num_rows()).unwrap_or(0);
        let path = path.to_path_buf();
        let reader = ParquetReader {
            file,
            path,
            column: index,
            group: 0,
            reader: None,
            rows: Vec::new(),
            row: 0,
            total_rows,
            bytes,
            reported: 0,
            consumed,
        };
        Ok(reader)
    }

    fn damaged(&self, error: impl std::fmt::Display) -> Error {
        Error::data(&self.path, format!("damaged after row {}: {error}", self.row))
    }

    /// Reads the next rows; false at the end of the file.
    fn fill(&mut self) -> Result<bool> {
        loop {
            let Some(reader) = &mut self.reader else {
                if self.group == self.file.num_row_groups() {
                    return Ok(false);
                }
                let column = guarded(|| self.file.get_row_group(self.group)?.get_column_reader(self.column));
                match column.map_err(|error| self.damaged(error))? {
                    ColumnReader::ByteArrayColumnReader(reader) => self.reader = Some(reader),
                    _ => return Err(self.damaged("the column is not of byte arrays in every row group")),
                }
                self.group += 1;
                continue;
            };
            let (rows, levels, values) = guarded(|| {
                let (mut levels, mut values) = (Vec::new(), Vec::new());
                let (rows, _, _) = reader.read_records(ROWS, Some(&mut levels), None, &mut values)?;
                Ok((rows, levels, values))
            })
            .map_err(|error| self.damaged(error))?;
            if rows == 0 {
                self.reader = None;
                continue;
            }
            let most = self.file.metadata().file_metadata().schema_descr().column(self.column).max_def_level();
            let mut values = values.into_iter();
            // Levels are absent where the column is required: every row then has its value.
            self.rows = (0..rows)
                .map(|i| if most == 0 || levels.get(i) == Some(&most) { values.next() } else { None })
                .collect();
            self.rows.reverse();
            return Ok(true);
        }
    }
}

impl Reader for ParquetReader {
    fn next_text(&mut self) -> Result<Option<(String, bool, u64)>> {
        loop {
            let Some(value) = self.rows.pop() else {
                if self.fill()? {
                    continue;
                }
                return Ok(None);
            };
            let row = self.row;
            self.row += 1;
            let progress = (u128::from(self.bytes) * u128::from(self.row) / u128::from(self.total_rows.max(1))) as u64;
            self.consumed.fetch_add(progress.saturating_sub(self.reported), Ordering::Relaxed);
            self.reported = self.reported.max(progress);
            let Some(value) = value else { continue };
            let text = std::str::from_utf8(value.data()).map_err(|error| {
                Error::data(
                    &self.path,
                    format!("the text of row {row} is not UTF-8, from its byte {}", error.valid_up_to()),
                )
            })?;
            if !text.is_empty() {
                return Ok(Some((text.to_string(), true, row)));
            }
        }
    }
}
