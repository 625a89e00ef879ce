//! Damage of a protobuf message, field by field, so that all lengths around it stay right.

use rand::RngExt;
use rand::rngs::ChaCha12Rng;

use super::bytes;

/// A field: its number, its kind, and its content without a length.
#[derive(Clone)]
struct Field {
    number: u64,
    kind: u64,
    content: Vec<u8>,
}

const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const LENGTH: u64 = 2;
const FOUR_BYTES: u64 = 5;

/// How deep messages are looked into.
const DEPTH: usize = 12;

/// The message `whole`, damaged; `depth` is how many messages it's in.
pub fn damaged(whole: &[u8], rng: &mut ChaCha12Rng, depth: usize) -> Vec<u8> {
    let fields = match depth < DEPTH {
        true => fields(whole),
        false => None,
    };
    let Some(mut fields) = fields.filter(|fields| !fields.is_empty()) else {
        let mut content = whole.to_vec();
        bytes::damage(&mut content, whole, rng);
        return content;
    };
    let at = rng.random_range(0..fields.len());
    let field = &mut fields[at];
    match rng.random_range(0..10) {
        0 => drop(fields.remove(at)),
        1 => {
            let copies = [1, 1, 20, 2_000][rng.random_range(0..4)];
            let copies = copies.min((1 << 18) / (field.content.len() + 2));
            let one = field.clone();
            fields.extend(std::iter::repeat_n(one, copies));
        }
        2 => fields.swap(at, 0),
        3 => field.number = rng.random_range(1..20),
        4 => field.content.clear(),
        _ => match field.kind {
            LENGTH => field.content = damaged(&field.content, rng, depth + 1),
            VARINT => field.content = varint(bytes::telling(rng)),
            _ => {
                let number = bytes::telling(rng).to_le_bytes();
                let length = field.content.len();
                field.content.copy_from_slice(&number[..length]);
            }
        },
    }
    let written = fields.iter().flat_map(|field| {
        let mut all = varint(field.number << 3 | field.kind);
        if field.kind == LENGTH {
            all.extend(varint(field.content.len() as u64));
        }
        all.extend(&field.content);
        all
    });
    written.collect()
}

/// The fields of a message; `None` if it isn't one.
fn fields(mut rest: &[u8]) -> Option<Vec<Field>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (key, length) = read_varint(rest)?;
        rest = &rest[length..];
        let kind = key & 7;
        let length = match kind {
            VARINT => read_varint(rest)?.1,
            EIGHT_BYTES => 8,
            FOUR_BYTES => 4,
            LENGTH => {
                let (length, own) = read_varint(rest)?;
                rest = &rest[own..];
                usize::try_from(length).ok()?
            }
            _ => return None,
        };
        found.push(Field {
            number: key >> 3,
            kind,
            content: rest.get(..length)?.to_vec(),
        });
        rest = &rest[length..];
    }
    Some(found)
}

/// A number, and the bytes that it takes.
fn read_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f).checked_shl(7 * index as u32)?;
        if byte & 0x80 == 0 {
            return Some((number, index + 1));
        }
    }
    None
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
