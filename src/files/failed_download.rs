//! What lies in a file's place where a download left something else.

/// How a file begins that Git LFS has put in the place of another.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Says what `bytes`, a whole file, are instead of what was expected: for files of every kind.
pub fn failed_download(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("it's empty (0 bytes): copy or download it again");
    }
    if bytes.starts_with(LFS_POINTER) {
        return Some("it's a pointer of Git LFS in its place, `git lfs pull` fetches the file");
    }
    let web_page = bytes.trim_ascii_start().starts_with(b"<");
    web_page.then_some("it's a web page: download the file itself")
}
