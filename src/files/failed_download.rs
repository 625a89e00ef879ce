//! Recognizes what a failed download left in place of a file.

/// The first bytes of a Git LFS pointer file.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// If `bytes`, a whole file, are empty, a Git LFS pointer or a web page: says so, and what to do.
pub fn failed_download(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("it's empty (0 bytes): copy or download it again");
    }
    if bytes.starts_with(LFS_POINTER) {
        return Some("it's a Git LFS pointer: `git lfs pull` downloads the file itself");
    }
    let web_page = bytes.trim_ascii_start().starts_with(b"<");
    web_page.then_some("it's a web page: download the file itself")
}
