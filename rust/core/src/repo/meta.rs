//! `meta.json`: which hash, which image format.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::error::RepoError;
use super::object::{Temporary, link_new};
use crate::verity::Algorithm;

const NAME: &str = "meta.json";
/// Larger than any that is written, small enough to read whole.
const MAX_BYTES: u64 = 1 << 16;
/// `REPO_FORMAT_VERSION` of composefs-rs.
const FORMAT_VERSION: u64 = 1;

/// As composefs-rs names it: hash, and log2 of the block size.
const fn name_of(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Sha256 => "fsverity-sha256-12",
        Algorithm::Sha512 => "fsverity-sha512-12",
    }
}

/// The bytes that composefs-rs 0.9 writes for a repository of V1 images.
fn render(algorithm: Algorithm) -> String {
    let name = name_of(algorithm);
    let lines = [
        "{".to_owned(),
        format!("  \"version\": {FORMAT_VERSION},"),
        format!("  \"algorithm\": \"{name}\","),
        "  \"features\": {".to_owned(),
        "    \"compatible\": [],".to_owned(),
        "    \"read-only-compatible\": [".to_owned(),
        "      \"v1_erofs\"".to_owned(),
        "    ],".to_owned(),
        "    \"incompatible\": []".to_owned(),
        "  },".to_owned(),
        "  \"erofs_formats\": {".to_owned(),
        "    \"default\": 1".to_owned(),
        "  }".to_owned(),
        "}".to_owned(),
    ];
    lines.join("\n") + "\n"
}

/// Writes `meta.json`, or checks the one that is there.
pub(super) fn ensure(root: BorrowedFd<'_>, algorithm: Algorithm) -> Result<(), RepoError> {
    match openat(root, NAME, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(found) => check(File::from(found), algorithm),
        Err(Errno::NOENT) => write(root, algorithm),
        Err(errno) => Err(RepoError::io("open", NAME)(errno)),
    }
}

fn write(root: BorrowedFd<'_>, algorithm: Algorithm) -> Result<(), RepoError> {
    let mut temporary = Temporary::create(root)?;
    temporary.write(render(algorithm).as_bytes())?;
    let file = temporary.seal(algorithm)?;
    match link_new(&file, root, NAME) {
        // Another writer was faster; its word counts.
        Err(Errno::EXIST) => ensure(root, algorithm),
        Err(errno) => Err(RepoError::io("create", NAME)(errno)),
        Ok(()) => Ok(()),
    }
}

fn check(file: File, algorithm: Algorithm) -> Result<(), RepoError> {
    let wrong = |what| RepoError::Meta { what };
    let mut text = Vec::new();
    let read = file.take(MAX_BYTES).read_to_end(&mut text);
    read.map_err(|_| wrong("it cannot be read"))?;
    let found: serde_json::Value = serde_json::from_slice(&text).map_err(|_| wrong("it is not JSON"))?;
    if found.get("version").and_then(serde_json::Value::as_u64) != Some(FORMAT_VERSION) {
        return Err(wrong("an unknown version of the repository format"));
    }
    if found.get("algorithm").and_then(serde_json::Value::as_str) != Some(name_of(algorithm)) {
        return Err(wrong("the repository has another hash algorithm"));
    }
    let features = found.get("features");
    let listed = |key| features.and_then(|all| all.get(key)).and_then(serde_json::Value::as_array);
    let unknown = listed("incompatible").is_some_and(|all| !all.is_empty())
        || listed("read-only-compatible").is_some_and(|all| all.iter().any(|name| name != "v1_erofs"));
    if unknown { Err(wrong("it asks for features that are not known here")) } else { Ok(()) }
}

#[cfg(test)]
pub(super) fn rendered(algorithm: Algorithm) -> String {
    render(algorithm)
}
