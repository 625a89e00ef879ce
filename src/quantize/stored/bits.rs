//! Codes of a few bits, packed in words and bytes.

/// The word at index `at` of little-endian `bytes`.
pub fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = &bytes[4 * at..4 * at + 4];
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Code number `index` of a dense stream of `bits` each, the first in the lowest bits. `word` gives
/// the stream's words. A code may lie in two words.
pub fn code_in(word: impl Fn(usize) -> u32, index: usize, bits: usize) -> u8 {
    let first = index * bits;
    let (at, shift) = (first / 32, first % 32);
    let mut found = word(at) >> shift;
    if shift + bits > 32 {
        found |= word(at + 1) << (32 - shift);
    }
    (found & ((1_u32 << bits) - 1)) as u8
}

/// Appends `codes` of 2, 4 or 8 bits, the first in a byte's lowest bits. The last byte is filled
/// with zeros.
pub fn pack(codes: &[u8], bits: usize, out: &mut Vec<u8>) {
    let in_a_byte = 8 / bits;
    for group in codes.chunks(in_a_byte) {
        let mut byte = 0_u8;
        for (place, &code) in group.iter().enumerate() {
            byte |= code << (place * bits);
        }
        out.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_of_three_bits_may_lie_in_two_words() {
        // Code 10 begins at bit 30.
        let words = [0b01 << 30, 0b1];
        assert_eq!(code_in(|at| words[at], 10, 3), 0b101);
        assert_eq!(code_in(|at| words[at], 9, 3), 0);
    }

    #[test]
    fn codes_are_packed_from_the_lowest_bits_on() {
        let packed = |codes: &[u8], bits| {
            let mut out = Vec::new();
            pack(codes, bits, &mut out);
            out
        };
        assert_eq!(packed(&[1, 2, 3], 4), [0x21, 0x03]);
        assert_eq!(packed(&[1, 2, 3, 0, 1], 2), [0b0011_1001, 1]);
        assert_eq!(packed(&[200], 8), [200]);
    }
}
