//! Where each line of a plan is, so that a task reads its own jobs and not thousands of others.
//!
//! `plan.index` beside `plan.jsonl` consists of lines of one length. The first has the plan's hash,
//! its size and its number of lines; the others have each line's place and a digest of it. A plan
//! that was written anew or edited has another size, or lines with other digests, and then it's
//! read as a whole.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::file_names::hex;
use crate::files::{self, write_file};

/// Bytes of a line of the index.
const WIDTH: usize = 64;
/// Digits of a line's digest.
const DIGITS: usize = 32;

/// A plan's file, whose lines are read one by one.
#[derive(Debug)]
pub struct IndexedLines {
    plan: File,
    index: File,
    /// The hash of the whole plan.
    pub hash: String,
    /// Bytes of the plan.
    size: u64,
    /// Its lines.
    pub lines: usize,
}

/// The index of the plan at `plan`.
fn path_of(plan: &Path) -> PathBuf {
    plan.with_extension("index")
}

/// Writes the index of the plan at `plan`, whose text and hash these are.
///
/// # Errors
/// If that fails.
pub fn write(plan: &Path, text: &str, hash: &str) -> io::Result<()> {
    let mut index = String::with_capacity(WIDTH * (1 + text.lines().count()));
    let mut add = |line: String| {
        // Numbers have at most 20 digits.
        let _ = writeln!(index, "{line:<width$}", width = WIDTH - 1);
    };
    add(format!("{hash} {} {}", text.len(), text.lines().count()));
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        add(format!("{offset} {} {}", line.len(), digest(line)));
        offset += line.len();
    }
    write_file(&path_of(plan), index.as_bytes())
}

impl IndexedLines {
    /// The plan at `plan`; `None` if it has no index, or one of another plan.
    pub fn open(plan: &Path) -> Option<Self> {
        let index = files::open(&path_of(plan)).ok()?;
        let plan = files::open(plan).ok()?;
        let [hash, size, lines] = fields(&index, 0)?;
        let size: u64 = size.parse().ok()?;
        let lines: usize = lines.parse().ok()?;
        let is_whole = index.metadata().ok()?.len() / WIDTH as u64 > lines as u64;
        let is_of_it = plan.metadata().ok()?.len() == size;
        (is_of_it && is_whole).then_some(Self {
            plan,
            index,
            hash,
            size,
            lines,
        })
    }

    /// The line with this number, from 0; `None` if there's none, or it isn't what it was when the
    /// index was written.
    pub fn line(&self, number: usize) -> Option<String> {
        if number >= self.lines {
            return None;
        }
        let [offset, length, expected] = fields(&self.index, number + 1)?;
        let (offset, length): (u64, u64) = (offset.parse().ok()?, length.parse().ok()?);
        offset.checked_add(length).filter(|end| *end <= self.size)?;
        let mut bytes = vec![0; length as usize];
        self.plan.read_exact_at(&mut bytes, offset).ok()?;
        let line = String::from_utf8(bytes).ok()?;
        (digest(&line) == expected).then_some(line)
    }
}

/// The three fields of a line of the index.
fn fields(index: &File, line: usize) -> Option<[String; 3]> {
    let mut bytes = [0; WIDTH];
    index
        .read_exact_at(&mut bytes, (line * WIDTH) as u64)
        .ok()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    let fields: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    fields.try_into().ok()
}

fn digest(line: &str) -> String {
    let mut digest = hex(&Sha256::digest(line.as_bytes()));
    digest.truncate(DIGITS);
    digest
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TEXT: &str = "{\"first\":1}\n{\"job\":0}\n{\"job\":1, \"ä\":2}\n";

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let plan = folder.path().join("plan.jsonl");
        fs::write(&plan, text).unwrap();
        write(&plan, text, "0123456789ab").unwrap();
        (folder, plan)
    }

    #[test]
    fn each_line_is_read_at_its_place() {
        let (_folder, plan) = written(TEXT);
        let lines = IndexedLines::open(&plan).unwrap();
        assert_eq!(lines.hash, "0123456789ab");
        let all: Vec<String> = (0..).map_while(|number| lines.line(number)).collect();
        assert_eq!(all.concat(), TEXT);
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn a_plan_that_is_not_the_index_s_own_has_no_lines() {
        let (_folder, plan) = written(TEXT);
        fs::write(&plan, format!("{TEXT}more\n")).unwrap();
        assert!(IndexedLines::open(&plan).is_none());
        // As many bytes, and another line.
        fs::write(&plan, TEXT.replace("\"job\":0", "\"job\":7")).unwrap();
        let lines = IndexedLines::open(&plan).unwrap();
        assert_eq!(lines.line(1), None);
        assert!(lines.line(2).is_some());
        fs::remove_file(path_of(&plan)).unwrap();
        assert!(IndexedLines::open(&plan).is_none());
    }
}
