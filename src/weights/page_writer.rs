//! Gathers what's written to a file into whole pages of it, of 2 MiB each.
//!
//! A file system with large folios (ext4, XFS, btrfs) keeps a page that's written at once in one large page, and maps it
//! as such. What's read through the map later, as often as once a token, then needs few entries of the page table:
//! [the kernel's documentation](https://docs.kernel.org/admin-guide/mm/transhuge.html).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

/// Bytes of a page: a large page of x86-64, and of aarch64 with small pages of 4 KiB.
pub const PAGE: usize = 2 << 20;

/// Pages that wait for the rest of their bytes. Of more, what comes is written as it comes, which bounds the memory.
const WAITING: usize = 16;

/// The pages of a file that are known in page.
#[derive(Debug, Default)]
pub struct PageWriter {
    waiting: Mutex<BTreeMap<u64, Page>>,
}

/// A page with the bytes that are known.
#[derive(Debug)]
struct Page {
    bytes: Vec<u8>,
    known: Vec<Range<usize>>,
}

impl Page {
    fn is_complete(&self) -> bool {
        self.known.iter().map(ExactSizeIterator::len).sum::<usize>() >= self.bytes.len()
    }

    /// Writes what's known of the page, which begins at `start`.
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
    /// Writes `bytes` to `file`, which has its final length of `length`, from `offset` on: whole pages now, the others when
    /// the rest of them is there.
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

    /// Adds `bytes` to the part of `page_bytes` bytes that begins at `start`, `within` it; writes it if that completes it.
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

    /// Writes what's still waiting.
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
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng};
    use rayon::prelude::*;

    use super::*;

    /// A file of `length` bytes, written in `pieces` by several threads.
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

    fn cut(length: usize, longest: usize, random: &mut StdRng) -> Vec<Range<usize>> {
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
    fn what_is_written_in_any_order_is_there() {
        let mut random = StdRng::seed_from_u64(1);
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
    fn what_is_never_written_stays_as_it_was() {
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
