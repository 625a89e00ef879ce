//! Recognizes what a failed download left in place of a file.

/// The first bytes of a Git LFS pointer file.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// What `bytes`, a whole file, are instead of its content, and what to do: an empty file, a Git LFS
/// pointer or a web page. `None` if they are none of these.
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
