//! Every kind of input, and every kind of bad input.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::{says, write};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use taper::Result;
use taper::data::{Documents, TextOptions};

fn read_with(inputs: &[&str], options: &TextOptions) -> Result<Vec<String>> {
    let inputs: Vec<String> = inputs.iter().map(|input| input.to_string()).collect();
    let mut documents: Vec<String> = Vec::new();
    for piece in Documents::open(&inputs, options)? {
        let piece = piece?;
        assert!(!piece.text.is_empty());
        if piece.starts_document {
            documents.push(String::new());
        }
        documents.last_mut().unwrap().push_str(&piece.text);
    }
    Ok(documents)
}

fn read(inputs: &[&str]) -> Result<Vec<String>> {
    read_with(inputs, &TextOptions::default())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A table of an id and an optional text, in row groups of two rows.
fn table(rows: &[Option<&str>], column: &str) -> Vec<u8> {
    let schema = format!("message m {{ REQUIRED INT64 id; OPTIONAL BYTE_ARRAY {column} (UTF8); }}");
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let mut file =
        SerializedFileWriter::new(Vec::new(), schema, Arc::new(WriterProperties::builder().build())).unwrap();
    for rows in rows.chunks(2) {
        let mut group = file.next_row_group().unwrap();
        let mut ids = group.next_column().unwrap().unwrap();
        let numbers: Vec<i64> = (0..rows.len() as i64).collect();
        ids.typed::<parquet::data_type::Int64Type>().write_batch(&numbers, None, None).unwrap();
        ids.close().unwrap();
        let mut texts = group.next_column().unwrap().unwrap();
        let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.is_some())).collect();
        let values: Vec<ByteArray> = rows.iter().flatten().map(|&text| ByteArray::from(text)).collect();
        texts.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        texts.close().unwrap();
        group.close().unwrap();
    }
    file.into_inner().unwrap()
}

fn at(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

#[test]
fn plain_files_are_one_document_each_in_the_order_given() {
    let folder = tempfile::tempdir().unwrap();
    let b = write(folder.path().join("b.txt"), "b\n<|endoftext|>\nstill b\n");
    let a = write(folder.path().join("a.strange"), "\u{feff}a, unknown extension, after a mark");
    let empty = write(folder.path().join("empty.txt"), "");
    let mark = write(folder.path().join("mark.txt"), "\u{feff}");
    let gz = write(folder.path().join("c.txt.gz"), [gzip(b"first member, "), gzip(b"second")].concat());
    let zst = write(folder.path().join("d.md.zst"), zstd::encode_all(&b"packed"[..], 1).unwrap());
    assert_eq!(
        read(&[&b, &empty, &mark, &a, &gz, &zst]).unwrap(),
        ["b\n<|endoftext|>\nstill b\n", "a, unknown extension, after a mark", "first member, second", "packed"]
    );
}

#[test]
fn folders_are_read_by_path_and_known_extension() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["z.txt", "a/2.md", "a/10.txt", "a.txt", ".hidden/x.txt", "code.rs", "b.jsonl"] {
        let text = if name == "b.jsonl" { "{\"text\":\"line\"}".to_string() } else { name.to_string() };
        write(folder.path().join(name), text);
    }
    let root = folder.path().display().to_string();
    assert_eq!(read(&[&root]).unwrap(), ["a/10.txt", "a/2.md", "a.txt", "line", "z.txt"]);
    assert_eq!(read(&[&format!("{root}/*.txt")]).unwrap(), ["a.txt", "z.txt"]);
    assert_eq!(read(&[&format!("{root}/a/?.*")]).unwrap(), ["a/2.md"]);
    assert_eq!(read(&[&format!("{root}/**/*.rs")]).unwrap(), ["code.rs"]);
    assert_eq!(read(&[&format!("{root}/**/[0-9]*.{{txt,md}}")]).unwrap(), ["a/10.txt", "a/2.md"]);
    // A name that looks like a pattern and exists is that file.
    let odd = write(folder.path().join("odd[1].txt"), "odd");
    assert_eq!(read(&[&odd]).unwrap(), ["odd"]);
}

#[test]
fn json_lines_are_one_document_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "\u{feff}{\"id\": 1, \"text\": \"one\\nline \\u00e9\"}\n\n{\"text\": \"\", \"x\": [1, {\"text\": 2}]}\r\n{\"text\": null}\n{\"text\":\"last\"}";
    let plain = write(folder.path().join("a.jsonl"), lines);
    let gz = write(folder.path().join("a.jsonl.gz"), gzip(lines.as_bytes()));
    let zst = write(folder.path().join("a.jsonl.zst"), zstd::encode_all(lines.as_bytes(), 1).unwrap());
    for path in [&plain, &gz, &zst] {
        assert_eq!(read(&[path]).unwrap(), ["one\nline é", "last"]);
    }
    let options = TextOptions { text_column: "body".into(), ..TextOptions::default() };
    let body = write(folder.path().join("b.jsonl"), "{\"text\":1,\"body\":\"the body\"}");
    assert_eq!(read_with(&[&body], &options).unwrap(), ["the body"]);
    says(read_with(&[&plain], &options), &["a.jsonl:1:1", "no field \"body\"", "id, text", "--text-column"]);
}

#[test]
fn parquet_is_one_document_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [Some("first"), None, Some("é three"), Some(""), Some("five")];
    let path = write(folder.path().join("a.parquet"), table(&rows, "text"));
    assert_eq!(read(&[&path]).unwrap(), ["first", "é three", "five"]);
    let path = write(folder.path().join("b.parquet"), table(&rows, "content"));
    says(read(&[&path]), &["b.parquet", "no column \"text\"", "id, content"]);
    let options = TextOptions { text_column: "content".into(), ..TextOptions::default() };
    assert_eq!(read_with(&[&path], &options).unwrap().len(), 3);
    let options = TextOptions { text_column: "id".into(), ..TextOptions::default() };
    says(read_with(&[&path], &options), &["INT64", "not one text a row"]);
}

#[test]
fn damaged_parquet_is_refused_and_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let whole = table(&[Some("first text"), None, Some("third"), Some("fourth")], "text");
    let path = folder.path().join("a.parquet");
    for len in 0..whole.len() {
        let cut = write(&path, &whole[..len]);
        says(read(&[&cut]), &["a.parquet"]);
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        // Some flips change a letter of the text, which is not damage that a reader can see.
        let _ = read(&[&write(&path, bytes)]);
    }
}

#[test]
fn long_lines_and_rows_come_in_pieces_of_one_document() {
    let folder = tempfile::tempdir().unwrap();
    let long = "word ".repeat(1000);
    let lines = format!("{{\"text\":\"{long}\"}}\n{{\"text\":\"short\"}}\n");
    let path = write(folder.path().join("a.jsonl"), lines);
    let options = TextOptions { piece_bytes: 64, ..TextOptions::default() };
    assert_eq!(read_with(&[&path], &options).unwrap(), [long.as_str(), "short"]);
    let mut documents = Documents::open(&[path], &options).unwrap();
    let all: Vec<_> =
        Documents::open(&[documents.sources()[0].path.display().to_string()], &options).unwrap().collect();
    assert!(all.len() > 50);
    // Continuing from any piece gives the rest.
    for from in [0, 1, 30, all.len() - 1, all.len()] {
        documents.skip_to(0, from as u64).unwrap();
        let rest: Vec<_> = documents.by_ref().map(|piece| piece.unwrap()).collect();
        assert!(rest.iter().eq(all[from..].iter().map(|piece| piece.as_ref().unwrap())));
    }
}

#[test]
fn progress_counts_the_bytes_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(folder.path().join("a.txt.gz"), gzip(&b"text ".repeat(100_000)));
    let b = write(folder.path().join("b.parquet"), table(&[Some("x"); 9], "text"));
    let mut documents = Documents::open(&[a, b], &TextOptions::default()).unwrap();
    assert_eq!(documents.consumed_bytes(), 0);
    assert!(documents.by_ref().all(|piece| piece.is_ok()));
    assert_eq!(documents.consumed_bytes(), documents.total_bytes());
}

#[test]
fn bad_inputs_are_named_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    says(read(&[]), &["no text was given"]);
    says(read(&[&at(folder, "none.txt")]), &["none.txt", "no such file"]);
    says(read(&[&at(folder, "*.txt")]), &["no file matches", "*.txt"]);
    says(read(&[&at(folder, "no/such/*.txt")]), &["no file matches"]);
    says(read(&[&at(folder, "a[.txt")]), &["is not a glob"]);
    write(folder.join("code/a.rs"), "fn main() {}");
    says(read(&[&at(folder, "code")]), &["holds no text", "1 files", ".jsonl"]);

    // 300,000 good bytes, so that the bad one is found in a later read.
    let mut bytes = b"good ".repeat(60_000);
    bytes.extend_from_slice(b"\xff rest");
    says(read(&[&write(folder.join("latin.txt"), bytes)]), &["latin.txt", "not UTF-8", "byte 300000", "0xff"]);
    says(read(&[&write(folder.join("torn.txt"), b"caf\xc3")]), &["not UTF-8", "byte 3"]);

    let line = |name: &str, text: &str| write(folder.join(name), text);
    says(read(&[&line("a.jsonl", "{\"text\":\"ok\"}\n{\"text\": oops}")]), &["a.jsonl:2:10", "not a line of JSON"]);
    says(read(&[&line("b.jsonl", "{\"text\": \"torn")]), &["b.jsonl:1:"]);
    says(read(&[&line("c.jsonl", "[1]")]), &["c.jsonl:1:", "JSON object"]);
    says(read(&[&line("d.jsonl", "{\"text\": 5}")]), &["d.jsonl:1:", "string"]);
    says(read(&[&line("e.jsonl", "{\"text\": \"a\"} {\"text\": \"b\"}")]), &["e.jsonl:1:", "trailing"]);
    says(read(&[&line("f.jsonl", "{}")]), &["f.jsonl:1:1", "there are: none"]);
    says(read(&[&write(folder.join("g.jsonl"), b"{\"text\": \"\xff\"}")]), &["g.jsonl:1:"]);

    let whole = gzip(&b"some text ".repeat(1000));
    says(read(&[&write(folder.join("t.txt.gz"), &whole[..whole.len() / 2])]), &["t.txt.gz", "truncated"]);
    says(read(&[&write(folder.join("u.txt.gz"), "not gzip at all")]), &["u.txt.gz", "cannot be unpacked"]);
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    says(read(&[&write(folder.join("v.txt.gz"), flipped)]), &["v.txt.gz"]);
    let packed = zstd::encode_all(&b"some text ".repeat(1000)[..], 1).unwrap();
    says(read(&[&write(folder.join("w.txt.zst"), &packed[..packed.len() - 3])]), &["w.txt.zst", "truncated"]);
    says(read(&[&write(folder.join("x.txt.zst"), "not zstd")]), &["x.txt.zst", "cannot be unpacked"]);
    says(read(&[&write(folder.join("y.parquet.gz"), whole)]), &["y.parquet.gz", "unpack it first"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes are text, or refused at the byte that std names; through JSON lines they are documents, or refused.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), ascii in "[{}\":,a-z\\\\ \n0-9]{0,80}") {
        let folder = tempfile::tempdir().unwrap();
        let plain = write(folder.path().join("a.txt"), &bytes);
        match std::str::from_utf8(&bytes) {
            Ok(text) => prop_assert_eq!(read(&[&plain]).unwrap().concat(), text.strip_prefix('\u{feff}').unwrap_or(text)),
            Err(error) => says(read(&[&plain]), &[&format!("byte {} ", error.valid_up_to())]),
        }
        for lines in [&bytes[..], ascii.as_bytes(), format!("{{\"text\":{ascii}}}").as_bytes()] {
            let _ = read(&[&write(folder.path().join("a.jsonl"), lines)]);
            for packed in ["a.txt.gz", "a.txt.zst", "a.parquet"] {
                if !lines.is_empty() {
                    let _ = read(&[&write(folder.path().join(packed), lines)]);
                }
            }
        }
    }
}
