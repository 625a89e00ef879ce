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

/// How many bytes may come of one that's packed, beside [`ALWAYS`]. Results make about seven of one;
/// deflate could make a thousand.
const MOST_OF_ONE: u64 = 20;
/// Bytes that may come of any page.
const ALWAYS: u64 = 8 << 20;

/// What [`pack`] packed.
pub(super) fn unpack(packed: &str) -> io::Result<Vec<u8>> {
    let deflated = BASE64_STANDARD.decode(packed).map_err(io::Error::other)?;
    let most = ALWAYS + MOST_OF_ONE * deflated.len() as u64;
    let mut bytes = Vec::new();
    let unpacked = ZlibDecoder::new(deflated.as_slice());
    unpacked.take(most + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(io::Error::other(
            "they would unpack to far more than any results have",
        )),
        false => Ok(bytes),
    }
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
        let endless = pack(&vec![b' '; 200 << 20]).unwrap();
        assert!(
            unpack(&endless)
                .unwrap_err()
                .to_string()
                .contains("far more")
        );
        assert!(unpack(&packed[..packed.len() / 8 * 4]).is_err());
    }
}
