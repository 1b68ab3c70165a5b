//! The safetensors file format, streamed: written with a SHA-256 on the way, read tensor by tensor.
//!
//! A file is an 8-byte little-endian length, a JSON header of that length (name to dtype, shape and byte range), and the
//! data. Files are read with plain reads, not mapped: a mapped file that another program truncates kills the process.
//! Nothing in a header is believed before it is checked: the ranges must tile the data exactly, each range must be as long
//! as its shape says, and nothing is allocated that the file's own length does not bear.

use crate::checkpoint::weight_type::WeightType;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The longest header that is read, as in the safetensors project.
const MAX_HEADER: u64 = 100_000_000;

/// A safetensors file being written, all tensors in one dtype: names and shapes first, then the values in that order.
pub struct Writer {
    path: PathBuf,
    weights: WeightType,
    file: BufWriter<File>,
    hash: Sha256,
    written: u64,
    total: u64,
    bytes: Vec<u8>,
}

impl Writer {
    /// Creates the file and writes the header; the metadata is {"format": "pt"}, which transformers asks for.
    ///
    /// # Errors
    /// `Io`.
    pub fn create<'a>(
        path: &Path,
        weights: WeightType,
        tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    ) -> Result<Writer> {
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!({"format": "pt"}));
        let mut end = 0u64;
        for (name, shape) in tensors {
            let start = end;
            end += (weights.size() * shape.iter().product::<usize>()) as u64;
            let entry = json!({"dtype": weights.safetensors_name(), "shape": shape, "data_offsets": [start, end]});
            header.insert(name.into(), entry);
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        // The data begin at a multiple of 8 bytes.
        header.resize(header.len().next_multiple_of(8), b' ');
        let file = File::create(path).map_err(Error::io("create", path))?;
        let mut writer = Writer {
            path: path.to_path_buf(),
            weights,
            file: BufWriter::with_capacity(1 << 20, file),
            hash: Sha256::new(),
            written: 0,
            total: 8 + header.len() as u64 + end,
            bytes: Vec::new(),
        };
        writer.put(&(header.len() as u64).to_le_bytes())?;
        writer.put(&header)?;
        Ok(writer)
    }

    /// Appends values of the tensors, in the order of the header.
    ///
    /// # Errors
    /// `Io`; `Usage` for a value that the dtype cannot hold.
    pub fn values(&mut self, values: &[f32]) -> Result<()> {
        // In pieces, so that the copy in bytes stays in cache.
        for piece in values.chunks(1 << 14) {
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.clear();
            self.weights.encode(piece, "the model", &mut bytes)?;
            let done = self.put(&bytes);
            self.bytes = bytes;
            done?;
        }
        Ok(())
    }

    /// Makes the file durable; gives its SHA-256 in hexadecimal and its length in bytes.
    ///
    /// # Errors
    /// `Io`; `Training` if the values do not add up to what the header promised.
    pub fn finish(mut self) -> Result<(String, u64)> {
        if self.written != self.total {
            return Err(Error::Training(format!(
                "{} would have {} bytes where its header promises {}",
                self.path.display(),
                self.written,
                self.total
            )));
        }
        self.file.flush().map_err(Error::io("write", &self.path))?;
        self.file.get_ref().sync_all().map_err(Error::io("write", &self.path))?;
        Ok((hex(&self.hash.finalize()), self.written))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))
    }
}

/// Bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One tensor of an open file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The dtype as the header spells it: "F32", "BF16", ...
    pub dtype: String,
    /// The shape.
    pub shape: Vec<usize>,
    /// The file's index in [`Weights`].
    file: usize,
    /// The first byte in the file.
    offset: u64,
    /// The length in bytes.
    length: u64,
}

/// The tensors of a model, in one safetensors file or several.
#[derive(Debug)]
pub struct Weights {
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, Entry>,
}

impl Weights {
    /// Opens `model.safetensors` in a folder, or the files that `model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// `Io` where a file is missing or unreadable, `Data` where one is corrupt or of another format.
    pub fn open_folder(folder: &Path) -> Result<Weights> {
        let (single, index) = (folder.join("model.safetensors"), folder.join("model.safetensors.index.json"));
        if single.exists() {
            return Weights::open(&[single]);
        }
        if index.exists() {
            return open_index(folder, &index);
        }
        if folder.join("pytorch_model.bin").exists() || folder.join("pytorch_model.bin.index.json").exists() {
            return Err(Error::data(
                folder,
                "holds its weights as pytorch_model.bin, a pickle, which can run any program when it is read; convert it \
                 first: load it in transformers and save it with save_pretrained (safetensors is the default)",
            ));
        }
        Err(Error::data(
            folder,
            "holds no model.safetensors (nor an index of several), so there are no weights to read",
        ))
    }

    /// Opens the given files; no name may stand in two of them.
    ///
    /// # Errors
    /// As [`Weights::open_folder`].
    pub fn open(paths: &[PathBuf]) -> Result<Weights> {
        let mut weights = Weights { files: Vec::new(), tensors: BTreeMap::new() };
        for path in paths {
            let mut file = File::open(path).map_err(Error::io("read", path))?;
            for (name, mut entry) in read_header(path, &mut file)? {
                entry.file = weights.files.len();
                if weights.tensors.contains_key(&name) {
                    return Err(Error::data(path, format!("holds tensor {name}, which another file holds as well")));
                }
                weights.tensors.insert(name, entry);
            }
            weights.files.push((path.clone(), file));
        }
        Ok(weights)
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, Entry> {
        &self.tensors
    }

    /// The file that holds a tensor.
    pub fn path_of(&self, entry: &Entry) -> &Path {
        &self.files[entry.file].0
    }

    /// The values of a tensor in float32, converted from F64, F16 or BF16 where they are that.
    ///
    /// # Errors
    /// `Io`; `Data` for a dtype that holds no real numbers.
    pub fn read_f32(&self, name: &str, entry: &Entry) -> Result<Vec<f32>> {
        let (path, file) = &self.files[entry.file];
        let mut bytes = vec![0; entry.length as usize];
        let mut file = file;
        file.seek(SeekFrom::Start(entry.offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(Error::io("read", path))?;
        match entry.dtype.as_str() {
            "F32" => Ok(convert(&bytes, f32::from_le_bytes)),
            "F64" => Ok(convert(&bytes, |b| f64::from_le_bytes(b) as f32)),
            "F16" => Ok(convert(&bytes, |b| half::f16::from_le_bytes(b).to_f32())),
            "BF16" => Ok(convert(&bytes, |b| half::bf16::from_le_bytes(b).to_f32())),
            other => Err(Error::data(
                path,
                format!("tensor {name} is of dtype {other}; taper reads weights in F32, F16, BF16 or F64"),
            )),
        }
    }
}

fn convert<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<N>();
    values.iter().map(|value| read(*value)).collect()
}

fn open_index(folder: &Path, index: &Path) -> Result<Weights> {
    let bytes = std::fs::read(index).map_err(Error::io("read", index))?;
    let parsed: Value =
        serde_json::from_slice(&bytes).map_err(|error| Error::data(index, format!("is not valid JSON: {error}")))?;
    let Some(map) = parsed.get("weight_map").and_then(Value::as_object) else {
        return Err(Error::data(index, "has no \"weight_map\" that says which file holds which tensor"));
    };
    let mut files: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in map {
        let plain = file.as_str().filter(|name| {
            let path = Path::new(name);
            path.file_name() == Some(path.as_os_str()) && !name.contains('\\')
        });
        let Some(name) = plain else {
            return Err(Error::data(
                index,
                format!("gives {file} as the file of tensor {tensor}, which is no file name"),
            ));
        };
        files.entry(name.to_string()).or_default().push(tensor);
    }
    let paths: Vec<PathBuf> = files.keys().map(|name| folder.join(name)).collect();
    let weights = Weights::open(&paths)?;
    for (at, (name, tensors)) in files.iter().enumerate() {
        for tensor in tensors {
            if weights.tensors.get(*tensor).is_none_or(|entry| entry.file != at) {
                return Err(Error::data(index, format!("says that {name} holds tensor {tensor}, and it does not")));
            }
        }
    }
    Ok(weights)
}

/// Reads and checks the header of a file.
fn read_header(path: &Path, file: &mut File) -> Result<Vec<(String, Entry)>> {
    let wrong = |message: String| Error::data(path, message);
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    let mut length = [0; 8];
    if size < 8 {
        return Err(wrong(format!("has {size} bytes, too few for a safetensors file")));
    }
    file.read_exact(&mut length).map_err(Error::io("read", path))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length > size - 8 {
        return Err(wrong(format!(
            "begins with a header length of {length}, and the file has {size} bytes: it is truncated or no safetensors file"
        )));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(Error::io("read", path))?;
    let header: Map<String, Value> = serde_json::from_slice(&header)
        .map_err(|error| wrong(format!("has a header that is not a JSON object: {error}")))?;
    let data = size - 8 - length;
    let mut entries = Vec::new();
    for (name, value) in header {
        if name == "__metadata__" {
            continue;
        }
        let mut entry = parse_entry(&value).map_err(|message| wrong(format!("tensor {name}: {message}")))?;
        if entry.offset + entry.length > data {
            return Err(wrong(format!(
                "tensor {name} ends at byte {} of the data, of which there are {data}: the file is truncated",
                entry.offset + entry.length
            )));
        }
        entry.offset += 8 + length;
        entries.push((name, entry));
    }
    // The ranges must tile the data: a gap or an overlap means that header and data are not of one piece.
    let mut ranges: Vec<(u64, u64, &str)> = entries.iter().map(|(n, e)| (e.offset, e.length, n.as_str())).collect();
    ranges.sort_unstable();
    let mut end = 8 + length;
    for (offset, length, name) in ranges {
        if offset != end {
            return Err(wrong(format!(
                "tensor {name} begins at byte {offset} of the file, and the one before it ends at {end}"
            )));
        }
        end += length;
    }
    if end != size {
        return Err(wrong(format!("has {} bytes that belong to no tensor at its end", size - end)));
    }
    Ok(entries)
}

/// An entry with its offset relative to the data, or what is wrong with it.
fn parse_entry(value: &Value) -> std::result::Result<Entry, String> {
    let dtype = value.get("dtype").and_then(Value::as_str).ok_or("has no dtype")?;
    let bytes_each: u64 = match dtype {
        "F64" | "I64" | "U64" | "C64" => 8,
        "F32" | "I32" | "U32" => 4,
        "F16" | "BF16" | "I16" | "U16" => 2,
        "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 1,
        other => return Err(format!("is of the unknown dtype \"{other}\"")),
    };
    let numbers = |key: &str| -> std::result::Result<Vec<u64>, String> {
        let list = value.get(key).and_then(Value::as_array).ok_or(format!("has no {key}"))?;
        list.iter().map(|n| n.as_u64().ok_or(format!("has {n} in its {key}"))).collect()
    };
    let (shape, offsets) = (numbers("shape")?, numbers("data_offsets")?);
    let &[start, end] = offsets.as_slice() else { return Err("has data_offsets that are not two numbers".into()) };
    let length = end.checked_sub(start).ok_or(format!("has the byte range {start} to {end}"))?;
    let expected = shape.iter().try_fold(bytes_each, |product, &n| product.checked_mul(n));
    if expected != Some(length) {
        return Err(format!("has shape {shape:?} of {dtype} and {length} bytes, which do not agree"));
    }
    let shape = shape.into_iter().map(|n| usize::try_from(n).map_err(|_| "is too large")).collect::<Result<_, _>>()?;
    Ok(Entry { dtype: dtype.into(), shape, file: 0, offset: start, length })
}
