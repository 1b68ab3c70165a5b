//! The GGUF container, version 3, written as a stream.
//!
//! Magic and version, two counts, the metadata (key, type, value), the tensors' names, shapes, types and offsets, then the
//! data. Strings carry a 64-bit length; shapes stand innermost dimension first; data begin at multiples of 32 bytes.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Tensor data begin at multiples of this, which is the format's default.
const ALIGNMENT: u64 = 32;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::checkpoint) enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
}

impl Meta {
    fn put(&self, out: &mut Vec<u8>) {
        // The numbers of the types: 4 u32, 5 i32, 6 f32, 7 bool, 8 string, 9 array (element type, then count).
        match self {
            Meta::U32(value) => put_typed(out, 4, &value.to_le_bytes()),
            Meta::F32(value) => put_typed(out, 6, &value.to_le_bytes()),
            Meta::Bool(value) => put_typed(out, 7, &[u8::from(*value)]),
            Meta::Text(text) => {
                put_typed(out, 8, &[]);
                put_text(out, text);
            }
            Meta::Texts(texts) => {
                put_typed(out, 9, &8u32.to_le_bytes());
                out.extend((texts.len() as u64).to_le_bytes());
                texts.iter().for_each(|text| put_text(out, text));
            }
            Meta::I32s(values) => {
                put_typed(out, 9, &5u32.to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
        }
    }
}

fn put_typed(out: &mut Vec<u8>, kind: u32, value: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend(value);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A tensor as the file announces it.
#[derive(Clone, Debug)]
pub(super) struct Info {
    pub name: String,
    /// Rows first, as everywhere in taper.
    pub shape: Vec<usize>,
    /// ggml's number of the type.
    pub kind: u32,
    /// Length of the data.
    pub bytes: u64,
}

/// A file being written: everything but the data at once, then the data of each tensor in order.
pub(super) struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
}

impl Writer {
    pub fn create(path: &Path, metadata: &[(String, Meta)], tensors: &[Info]) -> Result<Writer> {
        let mut head = b"GGUF".to_vec();
        head.extend(3u32.to_le_bytes());
        head.extend((tensors.len() as u64).to_le_bytes());
        head.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_text(&mut head, key);
            value.put(&mut head);
        }
        let mut offset = 0u64;
        for tensor in tensors {
            put_text(&mut head, &tensor.name);
            head.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|&n| head.extend((n as u64).to_le_bytes()));
            head.extend(tensor.kind.to_le_bytes());
            head.extend(offset.to_le_bytes());
            offset += tensor.bytes.next_multiple_of(ALIGNMENT);
        }
        let file = File::create(path).map_err(Error::io("create", path))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        let mut writer = Writer { path: path.to_path_buf(), file, written: 0 };
        writer.data(&head)?;
        Ok(writer)
    }

    /// Appends the data of the next tensor, and zeros up to the place of the one after it.
    pub fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        let padding = self.written.next_multiple_of(ALIGNMENT) - self.written;
        self.written += padding;
        let zeros = [0; ALIGNMENT as usize];
        self.file
            .write_all(bytes)
            .and_then(|()| self.file.write_all(&zeros[..padding as usize]))
            .map_err(Error::io("write", &self.path))
    }

    /// Makes the file durable; gives its length.
    pub fn finish(mut self) -> Result<u64> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).map_err(Error::io("write", &self.path))?;
        Ok(self.written)
    }
}
