//! A PNG file from pixels: the one flavour that charts need (8-bit RGB), with nothing in it that changes between runs.

use std::io::Write;

/// Averages each 2 x 2 pixels of an RGB picture into one. `width` and the height must be even.
pub fn halve(pixels: &[u8], width: usize) -> Vec<u8> {
    let row = 3 * width;
    let mut half = Vec::with_capacity(pixels.len() / 4);
    for two_rows in pixels.chunks_exact(2 * row) {
        let (upper, lower) = two_rows.split_at(row);
        for (a, b) in upper.chunks_exact(6).zip(lower.chunks_exact(6)) {
            half.extend((0..3).map(|c| {
                let sum = u16::from(a[c]) + u16::from(a[c + 3]) + u16::from(b[c]) + u16::from(b[c + 3]);
                ((sum + 2) / 4) as u8
            }));
        }
    }
    half
}

/// The bytes of a PNG file of `width * height` RGB pixels.
pub fn encode(pixels: &[u8], width: u32, height: u32) -> Vec<u8> {
    let mut rows = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    for row in pixels.chunks_exact(3 * width as usize) {
        // Filter 0, none: charts are flat colour, which compresses best as it is. Writing to a Vec cannot fail.
        let _ = rows.write_all(&[0]).and_then(|()| rows.write_all(row));
    }
    let data = rows.finish().unwrap_or_default();
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([8, 2, 0, 0, 0]); // bits, RGB, deflate, filter method, no interlace

    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, content) in [(b"IHDR", &header), (b"IDAT", &data), (b"IEND", &Vec::new())] {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(content);
        file.extend((content.len() as u32).to_be_bytes());
        file.extend(kind);
        file.extend(content);
        file.extend(crc.sum().to_be_bytes());
    }
    file
}
