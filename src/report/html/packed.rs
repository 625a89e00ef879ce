//! JSON in a form that can stand in a page: deflated, and in base64.
//!
//! Deflate makes sixty results a quarter of their size, so that a page of them can be sent to a
//! colleague, and browsers unpack it with what they have (`DecompressionStream`). Base64 has no
//! character that means anything in HTML.

use std::io::{self, Read, Write};

use base64::prelude::{BASE64_STANDARD, Engine};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

/// `bytes`, packed.
pub(super) fn pack(bytes: &[u8]) -> io::Result<String> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(BASE64_STANDARD.encode(encoder.finish()?))
}

/// What [`pack`] packed.
pub(super) fn unpack(packed: &str) -> io::Result<Vec<u8>> {
    let deflated = BASE64_STANDARD.decode(packed).map_err(io::Error::other)?;
    let mut bytes = Vec::new();
    ZlibDecoder::new(deflated.as_slice()).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_unpacked() {
        let text = "</script>".repeat(1000);
        let packed = pack(text.as_bytes()).unwrap();
        assert!(packed.len() < text.len() / 10 && !packed.contains('<'));
        assert_eq!(unpack(&packed).unwrap(), text.as_bytes());
        assert!(unpack("no base64!").is_err());
        assert!(unpack(&packed[..packed.len() / 8 * 4]).is_err());
    }
}
