//! Collects writes to a file into whole pages of 2 MiB.
//!
//! File systems with large folios (ext4, XFS, btrfs) keep a range that's written at once in one
//! large page, and map it as one. Reading such a file through a map, as often as once per token,
//! then needs few page-table entries: [the kernel's
//! documentation](https://docs.kernel.org/admin-guide/mm/transhuge.html).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

/// Bytes of a page: a large page of x86-64, and of aarch64 with small pages of 4 KiB.
pub const PAGE: usize = 2 << 20;

/// Most pages that may wait for the rest of their bytes. Beyond that, bytes are written as they
/// come, which bounds the memory.
const WAITING: usize = 16;

/// The pages of a file of which only some bytes have been received.
#[derive(Debug, Default)]
pub struct PageWriter {
    waiting: Mutex<BTreeMap<u64, Page>>,
}

/// A page and the ranges of its bytes that have been received.
#[derive(Debug)]
struct Page {
    bytes: Vec<u8>,
    known: Vec<Range<usize>>,
}

impl Page {
    fn is_complete(&self) -> bool {
        self.known.iter().map(ExactSizeIterator::len).sum::<usize>() >= self.bytes.len()
    }

    /// Writes the received bytes of the page, which begins at `start` in the file.
    fn write(mut self, file: &File, start: u64) -> io::Result<()> {
        self.known.sort_by_key(|range| range.start);
        let mut joined: Vec<Range<usize>> = Vec::new();
        for range in self.known {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        joined.into_iter().try_for_each(|range| {
            file.write_all_at(&self.bytes[range.clone()], start + range.start as u64)
        })
    }
}

impl PageWriter {
    /// Writes `bytes` to `file` from `offset` on. The file has its final `length`. Whole pages are
    /// written now, the others once the rest of their bytes has come.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn write(&self, file: &File, length: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let start = at - at % PAGE as u64;
            let within = (at - start) as usize;
            let page_bytes = (length - start).min(PAGE as u64) as usize;
            if within == 0 && rest.len() >= page_bytes {
                // All whole pages at once.
                let whole = match at + rest.len() as u64 == length {
                    true => rest.len(),
                    false => rest.len() - rest.len() % PAGE,
                };
                file.write_all_at(&rest[..whole], at)?;
                at += whole as u64;
                rest = &rest[whole..];
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(page_bytes - within));
            self.gather(file, start, page_bytes, within, now)?;
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Adds `bytes` to the page of `page_bytes` bytes that begins at `start`, from `within` on;
    /// writes the page if it's complete.
    fn gather(
        &self,
        file: &File,
        start: u64,
        page_bytes: usize,
        within: usize,
        bytes: &[u8],
    ) -> io::Result<()> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.contains_key(&start) && waiting.len() == WAITING {
            drop(waiting);
            return file.write_all_at(bytes, start + within as u64);
        }
        let page = waiting.entry(start).or_insert_with(|| Page {
            bytes: vec![0; page_bytes],
            known: Vec::new(),
        });
        let range = within..within + bytes.len();
        page.bytes[range.clone()].copy_from_slice(bytes);
        page.known.push(range);
        if !page.is_complete() {
            return Ok(());
        }
        let page = waiting.remove(&start);
        drop(waiting);
        page.map_or(Ok(()), |page| page.write(file, start))
    }

    /// Writes all bytes that are still waiting.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn finish(&self, file: &File) -> io::Result<()> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *waiting)
            .into_iter()
            .try_for_each(|(start, page)| page.write(file, start))
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::ChaCha12Rng;
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng};
    use rayon::prelude::*;

    use super::*;

    /// Writes a file of `length` bytes in `pieces`, from several threads, and returns its bytes.
    fn written(length: usize, pieces: &[Range<usize>], content: &[u8]) -> Vec<u8> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length as u64).unwrap();
        let pages = PageWriter::default();
        pieces.par_iter().for_each(|piece| {
            let bytes = &content[piece.clone()];
            pages
                .write(&file, length as u64, piece.start as u64, bytes)
                .unwrap();
        });
        assert!(pages.waiting.lock().unwrap().len() <= WAITING);
        pages.finish(&file).unwrap();
        let mut found = vec![0; length];
        file.read_exact_at(&mut found, 0).unwrap();
        found
    }

    fn cut(length: usize, longest: usize, random: &mut ChaCha12Rng) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        let mut start = 0;
        while start < length {
            let end = length.min(start + random.random_range(1..=longest));
            pieces.push(start..end);
            start = end;
        }
        pieces
    }

    #[test]
    fn pieces_may_be_written_in_any_order() {
        let mut random = ChaCha12Rng::seed_from_u64(1);
        for length in [1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 40 * PAGE + 12_345] {
            let content: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            for longest in [PAGE / 2, 5 * PAGE] {
                let mut pieces = cut(length, longest, &mut random);
                assert_eq!(written(length, &pieces, &content), content);
                pieces.shuffle(&mut random);
                assert_eq!(written(length, &pieces, &content), content);
            }
        }
    }

    #[test]
    fn unwritten_bytes_keep_their_value() {
        let length = 2 * PAGE;
        let content = vec![7; length];
        let found = written(length, &[10..20, 20..30, PAGE - 5..PAGE + 5], &content);
        let mut expected = vec![0; length];
        for range in [10..30, PAGE - 5..PAGE + 5] {
            expected[range].fill(7);
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let readable = File::open(file.path()).unwrap();
        let pages = PageWriter::default();
        let whole = vec![1; PAGE];
        assert!(pages.write(&readable, PAGE as u64, 0, &whole).is_err());
        pages.write(&readable, PAGE as u64, 5, &[1]).unwrap();
        assert!(pages.finish(&readable).is_err());
    }
}
