//! The table of matrix products: which algorithm of the library makes the product of a shape, chosen by measurement.
//!
//! Without a table the library's first heuristic decides, which is the same every time. A table is made by `taper bench
//! tune`, and belongs to the run that uses it: other algorithms sum in another order.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Measured choices, valid for one hardware kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductTable {
    /// The hardware kind (GPU model and library versions) that it was measured on.
    pub hardware: String,
    /// Whether GELU and its gradient are computed inside the products before them.
    pub gelu_epilogue: bool,
    /// For each shape, in words of the driver, its algorithm: opaque bytes of the library, in hexadecimal.
    pub algorithms: BTreeMap<String, String>,
}

impl ProductTable {
    /// Reads a table.
    ///
    /// # Errors
    /// If the file cannot be read or is no table.
    pub fn read(path: &Path) -> Result<ProductTable> {
        ProductTable::from_text(&std::fs::read_to_string(path).map_err(Error::io("read", path))?, path)
    }

    /// Reads a table from its text; `path` is what messages call it.
    ///
    /// # Errors
    /// If it is no table.
    pub fn from_text(text: &str, path: &Path) -> Result<ProductTable> {
        let table: ProductTable = serde_json::from_str(text).map_err(|error| {
            Error::data(path, format!("is no table of matrix products: {error}; `taper bench tune` writes one"))
        })?;
        match table.algorithms.iter().find(|(_, algorithm)| bytes(algorithm).is_none()) {
            Some((shape, _)) => Err(Error::data(
                path,
                format!(
                    "the algorithm of {shape:?} is not written in hexadecimal; make the table again by `taper bench tune`"
                ),
            )),
            None => Ok(table),
        }
    }

    /// The table as text for a file.
    pub fn to_text(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("strings and numbers have a JSON form");
        text + "\n"
    }

    /// The bytes of a shape's algorithm.
    pub fn algorithm(&self, shape: &str) -> Option<Vec<u8>> {
        self.algorithms.get(shape).and_then(|text| bytes(text))
    }
}

/// Bytes as hexadecimal digits, two for each.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_it_was_written_and_a_damaged_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.json");
        let every: Vec<u8> = (0..=255).collect();
        let algorithms = BTreeMap::from([("8 x 8".to_string(), hexadecimal(&every))]);
        let table = ProductTable { hardware: "gpu X".into(), gelu_epilogue: true, algorithms };
        std::fs::write(&path, table.to_text()).unwrap();
        assert_eq!(ProductTable::read(&path).unwrap(), table);
        assert_eq!(table.algorithm("8 x 8"), Some(every));
        assert_eq!(table.algorithm("8 x 9"), None);
        for (from, to) in [("\"00", "\"0g"), ("\"00", "\"0"), ("\"00", "\"é"), ("{", "")] {
            std::fs::write(&path, table.to_text().replacen(from, to, 1)).unwrap();
            assert!(ProductTable::read(&path).unwrap_err().to_string().contains("bench tune"), "{from} to {to}");
        }
    }
}
