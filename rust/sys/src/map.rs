//! Memory maps of files.

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapOptions};

/// Maps a whole file for reading.
///
/// The map shows what others write to the file, and a page beyond the end of a file that others truncated raises
/// `SIGBUS`, which ends the process. Map only files that nobody else writes: sealed by fs-verity, or root's own.
///
/// # Errors
/// What `mmap` returns; `EINVAL` for something that is no regular file.
pub fn read_only(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is private and read-only, so nothing in this process changes it through a `&mut`. Another
    // process may change the file; what this does to us is the documented risk above: readers take every byte as
    // untrusted and copy integers out of the map one by one, none relies on reading the same value twice.
    unsafe { MmapOptions::new().map(file) }
}
