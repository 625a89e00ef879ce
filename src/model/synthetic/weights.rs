//! Writes seeded random tensors as a safetensors file, a batch at a time.
//!
//! Every value depends only on the seed, the tensor's name and the value's index, so the bytes
//! don't depend on the number of threads, and a tensor's values don't depend on the tensors before
//! it. Half-precision values are the rounded `f32` ones.
//!
//! Format: <https://huggingface.co/docs/safetensors>, an 8-byte length, a JSON header padded with
//! spaces, then the data. Generator: SplitMix64 (Steele, Lea and Flood, 2014) as a counter.

use std::io::{self, Write};

use half::f16;
use rayon::prelude::*;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::shapes::{Distribution, Tensor};

const SEED: u64 = 0x9be5_eed0_0000_002a;

/// Bytes held in memory at a time.
const BATCH_BYTES: usize = 16 << 20;

/// Bytes that a thread fills at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// The plan of a file: its header, and the tensors in their order.
pub(super) struct FilePlan {
    tensors: Vec<Tensor>,
    dtype: Dtype,
    /// The length field and the padded JSON.
    header: Vec<u8>,
    data_bytes: u64,
}

impl FilePlan {
    pub fn new(tensors: Vec<Tensor>, dtype: Dtype) -> Self {
        let mut entries = Map::new();
        entries.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        let mut data_bytes = 0;
        for tensor in &tensors {
            let begin = data_bytes;
            data_bytes += tensor.len() * width(dtype) as u64;
            let entry = json!({
                "dtype": format!("{dtype:?}"),
                "shape": tensor.shape,
                "data_offsets": [begin, data_bytes],
            });
            entries.insert(tensor.name.clone(), entry);
        }
        let json = Value::Object(entries).to_string();
        let padded = json.len().next_multiple_of(8);
        let mut header = (padded as u64).to_le_bytes().to_vec();
        header.extend_from_slice(json.as_bytes());
        header.resize(8 + padded, b' ');
        Self {
            tensors,
            dtype,
            header,
            data_bytes,
        }
    }

    /// Size of the whole file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.header.len() as u64 + self.data_bytes
    }

    /// Makes a sparse file with a hole in place of the values: it has the full size but takes
    /// almost no disk space.
    pub fn write_hollow(&self, file: &mut std::fs::File) -> io::Result<()> {
        file.write_all(&self.header)?;
        file.set_len(self.file_bytes())
    }

    /// Writes the file with plain writes: a full disk is then an error, whereas a memory map would
    /// end the process. `progress` receives the bytes written and the file's total.
    pub fn write(&self, file: &mut impl Write, progress: &dyn Fn(u64, u64)) -> io::Result<()> {
        file.write_all(&self.header)?;
        let mut written = self.header.len() as u64;
        progress(written, self.file_bytes());

        let mut batch = vec![0; BATCH_BYTES];
        for tensor in &self.tensors {
            let stream = Stream::new(tensor, self.dtype);
            let mut first = 0;
            while first < tensor.len() {
                let left_bytes = (tensor.len() - first) * width(self.dtype) as u64;
                let bytes =
                    usize::try_from(left_bytes).map_or(BATCH_BYTES, |left| left.min(BATCH_BYTES));
                stream.fill(&mut batch[..bytes], first);
                file.write_all(&batch[..bytes])?;
                first += (bytes / width(self.dtype)) as u64;
                written += bytes as u64;
                progress(written, self.file_bytes());
            }
        }
        file.flush()
    }
}

/// The values of one tensor.
struct Stream {
    key: u64,
    mean: f32,
    /// Values are uniform in `mean ± spread`.
    spread: f32,
    dtype: Dtype,
}

impl Stream {
    fn new(tensor: &Tensor, dtype: Dtype) -> Self {
        let (mean, spread) = match tensor.values {
            // The standard deviation of a uniform distribution is spread / √3.
            Distribution::Matrix => (0.0, 0.02 * 3_f32.sqrt()),
            Distribution::Norm => (1.0, 0.05),
            Distribution::Bias => (0.0, 0.02),
            Distribution::Constant(value) => (value, 0.0),
        };
        Self {
            key: mix(SEED ^ fnv1a(&tensor.name)),
            mean,
            spread,
            dtype,
        }
    }

    /// Fills `bytes` with the values from index `first` on.
    fn fill(&self, bytes: &mut [u8], first: u64) {
        let chunk_values = (CHUNK_BYTES / width(self.dtype)) as u64;
        bytes
            .par_chunks_mut(CHUNK_BYTES)
            .enumerate()
            .for_each(|(chunk, bytes)| {
                let first = first + chunk as u64 * chunk_values;
                match self.dtype {
                    Dtype::F16 => self.fill_chunk(bytes, first, |x| f16::from_f32(x).to_le_bytes()),
                    Dtype::BF16 => {
                        self.fill_chunk(bytes, first, |x| bfloat16_bits(x).to_le_bytes())
                    }
                    _ => self.fill_chunk(bytes, first, f32::to_le_bytes),
                }
            });
    }

    fn fill_chunk<const N: usize>(
        &self,
        bytes: &mut [u8],
        first: u64,
        encode: impl Fn(f32) -> [u8; N],
    ) {
        let (values, _) = bytes.as_chunks_mut::<N>();
        for (index, value) in (first..).zip(values) {
            *value = encode(self.value(index));
        }
    }

    fn value(&self, index: u64) -> f32 {
        let bits = mix(self
            .key
            .wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        // An f32 holds 24 bits; the half step makes the range symmetric.
        let unit = ((bits >> 40) as f32 + 0.5) / (1 << 23) as f32 - 1.0;
        self.mean + self.spread * unit
    }
}

/// The nearest bfloat16 of a finite value, ties to even.
///
/// `half::bf16::from_f32` branches on the bit that's rounded off. With random values that branch is
/// mispredicted half of the time, and filling takes three times as long.
fn bfloat16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// SplitMix64's output function.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// FNV-1a: unlike the standard library's hashes, it's the same on every machine and in every
/// release.
pub(super) fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Bytes per value, for the three types that [`super::torch_dtype`] accepts.
fn width(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F16 | Dtype::BF16 => 2,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;
    use std::cell::RefCell;

    fn tensor(name: &str, shape: &[u64], values: Distribution) -> Tensor {
        Tensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            values,
        }
    }

    fn tensors() -> Vec<Tensor> {
        vec![
            tensor("a.weight", &[1_500, 301], Distribution::Matrix),
            tensor("a.bias", &[301], Distribution::Bias),
            tensor("norm.weight", &[4_096], Distribution::Norm),
            tensor("b.weight", &[3, 5], Distribution::Matrix),
        ]
    }

    fn written(dtype: Dtype, threads: usize) -> Vec<u8> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let plan = FilePlan::new(tensors(), dtype);
        pool.install(|| {
            let mut bytes = Vec::new();
            plan.write(&mut bytes, &|_, _| ()).unwrap();
            assert_eq!(bytes.len() as u64, plan.file_bytes());
            bytes
        })
    }

    fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
        let (values, _) = file.tensor(name).unwrap().data().as_chunks::<4>();
        values
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect()
    }

    #[test]
    fn the_safetensors_crate_reads_what_was_written() {
        let bytes = written(Dtype::BF16, 2);
        let (header_len, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header_len % 8, 0);
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = file.tensor("a.weight").unwrap();
        assert_eq!(tensor.dtype(), Dtype::BF16);
        assert_eq!(tensor.shape(), [1_500, 301]);
        assert_eq!(file.names().len(), 4);
    }

    #[test]
    fn the_bytes_do_not_depend_on_the_number_of_threads() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            assert_eq!(written(dtype, 1), written(dtype, 3));
        }
    }

    #[test]
    fn a_batch_starts_with_the_value_that_follows_the_batch_before() {
        let stream = Stream::new(&tensors()[0], Dtype::F32);
        let mut whole = vec![0; 3 * CHUNK_BYTES];
        stream.fill(&mut whole, 0);
        let mut rest = vec![0; 2 * CHUNK_BYTES];
        stream.fill(&mut rest, (CHUNK_BYTES / 4) as u64);
        assert_eq!(whole[CHUNK_BYTES..], rest);
    }

    #[test]
    fn values_have_the_mean_and_spread_of_their_kind() {
        let bytes = written(Dtype::F32, 2);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let moments = |name| {
            let values = floats(&file, name);
            let count = values.len() as f64;
            let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
            let squares = values
                .iter()
                .map(|x| (f64::from(*x) - mean).powi(2))
                .sum::<f64>();
            (mean, (squares / count).sqrt(), values)
        };
        let (mean, deviation, _) = moments("a.weight");
        assert!(
            mean.abs() < 2e-4 && (deviation - 0.02).abs() < 2e-4,
            "{mean} {deviation}"
        );
        let (mean, _, values) = moments("norm.weight");
        assert!((mean - 1.0).abs() < 5e-3, "{mean}");
        assert!(values.iter().all(|x| (0.95..=1.05).contains(x)));
        let (_, deviation, values) = moments("a.bias");
        assert!(deviation > 5e-3 && values.iter().all(|x| x.abs() <= 0.02));
    }

    #[test]
    fn tensors_of_one_shape_and_different_names_differ() {
        let stream = |name: &str| {
            let stream = Stream::new(&tensor(name, &[8], Distribution::Bias), Dtype::F32);
            (0..8).map(|index| stream.value(index)).collect::<Vec<_>>()
        };
        assert_ne!(stream("layers.0.bias"), stream("layers.1.bias"));
        assert_eq!(stream("layers.0.bias"), stream("layers.0.bias"));
    }

    #[test]
    fn half_precision_is_the_rounded_single_precision() {
        let (single, half) = (written(Dtype::F32, 1), written(Dtype::F16, 1));
        let single = SafeTensors::deserialize(&single).unwrap();
        let half = SafeTensors::deserialize(&half).unwrap();
        let expected: Vec<u8> = floats(&single, "b.weight")
            .iter()
            .flat_map(|x| f16::from_f32(*x).to_le_bytes())
            .collect();
        assert_eq!(half.tensor("b.weight").unwrap().data(), expected);
    }

    #[test]
    fn bfloat16_is_rounded_to_the_nearest_and_ties_to_even() {
        let stream = Stream::new(&tensors()[0], Dtype::F32);
        let ties = [0x3f80_8000, 0x3f81_8000, 0xbf80_8000, 0x3f80_8001].map(f32::from_bits);
        for value in (0..10_000).map(|index| stream.value(index)).chain(ties) {
            let expected = half::bf16::from_f32(value).to_bits();
            assert_eq!(bfloat16_bits(value), expected, "{value}");
        }
    }

    #[test]
    fn progress_grows_and_ends_at_the_size_of_the_file() {
        let plan = FilePlan::new(tensors(), Dtype::F32);
        let calls = RefCell::new(Vec::new());
        let progress = |done, total| calls.borrow_mut().push((done, total));
        plan.write(&mut Vec::new(), &progress).unwrap();
        let calls = calls.into_inner();
        assert!(calls.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(calls.last(), Some(&(plan.file_bytes(), plan.file_bytes())));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error() {
        let mut full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let error = FilePlan::new(tensors(), Dtype::F32)
            .write(&mut full, &|_, _| ())
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
