//! A file as memory, read before it is touched: a bad sector, or a file that was cut off, is an error and no signal.
//!
//! Touching a page of a map that cannot be read raises `SIGBUS`, which ends the process without a word. So nothing
//! here is touched before the kernel said that it is there: small files are read into memory of our own piece by
//! piece, as they are needed; pieces of large ones, which would take too much memory, are made present in a map of
//! the file (`MADV_POPULATE_READ`, Linux 5.14) or, before that, read once.
//!
//! What is left: somebody cuts off a large file after a piece of it was made present. Images of that size (some
//! 250,000 files) are root's, and nobody writes to them.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};

/// Files up to this size are read into memory, as far as they are needed.
const COPIED_BYTES: u64 = 64 << 20;
/// What is read or made present at once.
const PIECE_BYTES: usize = 64 << 10;

/// A piece of the file that cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    /// Where it starts, in bytes from the start of the file.
    pub offset: u64,
    /// Why; `UnexpectedEof` where the file has become shorter.
    pub source: io::Error,
    /// The path that the kernel knows the file by.
    pub path: Vec<u8>,
}

/// The bytes of a file as it was long when it was opened; `Sync`, and the same to all who ask.
pub struct Pages {
    memory: MmapRaw,
    len: usize,
    file: File,
    /// The memory is our own and must be filled; else it shows the file.
    is_copy: bool,
    /// By piece: it can be touched.
    present: Box<[AtomicBool]>,
    /// Held by who makes a piece present.
    filling: Mutex<()>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pages").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Pages {
    /// Some microseconds, whatever the size; reads nothing.
    ///
    /// # Errors
    /// What `mmap` or `dup` returns; `EINVAL` for something that is no regular file.
    pub fn open(file: &File) -> io::Result<Self> {
        Self::open_as(file, file.metadata()?.len() <= COPIED_BYTES)
    }

    fn open_as(file: &File, is_copy: bool) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let len =
            usize::try_from(metadata.len()).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        // A map has at least a page; what is beyond the file's end is never touched.
        let memory = if is_copy {
            MmapRaw::from(MmapMut::map_anon(len.max(1))?)
        } else {
            MmapOptions::new().len(len.max(1)).map_raw_read_only(file)?
        };
        let present = (0..len.div_ceil(PIECE_BYTES)).map(|_| AtomicBool::new(false)).collect();
        Ok(Self { memory, len, file: file.try_clone()?, is_copy, present, filling: Mutex::new(()) })
    }

    /// Length of the file when it was opened, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it had none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` bytes from `start` on; `None` where the file was not that long when it was opened.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn get(&self, start: usize, len: usize) -> Option<Result<&[u8], Unreadable>> {
        let end = start.checked_add(len).filter(|end| *end <= self.len())?;
        for piece in start / PIECE_BYTES..end.div_ceil(PIECE_BYTES) {
            let flag = self.present.get(piece)?;
            if !flag.load(Ordering::Acquire)
                && let Err(error) = self.fill(piece, flag)
            {
                return Some(Err(error));
            }
        }
        // SAFETY: `start..end` lies within the memory, which lives as long as `self`. Every piece of it is present:
        // in a copy it was written once, before its flag was set, and is never written again; a map of a file may
        // change with the file, what readers of untrusted bytes allow for: they copy integers out one by one, and
        // none relies on reading the same value twice.
        Some(Ok(unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(start), len) }))
    }

    fn fill(&self, piece: usize, flag: &AtomicBool) -> Result<(), Unreadable> {
        let _held = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        if flag.load(Ordering::Acquire) {
            return Ok(());
        }
        let start = piece.saturating_mul(PIECE_BYTES);
        let len = PIECE_BYTES.min(self.len().saturating_sub(start));
        if self.is_copy {
            // SAFETY: the piece lies within our own memory. Nobody else has a reference to it: `get` gives one out
            // only after the flag is set, which only the holder of `filling` does, once.
            let target = unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().add(start), len) };
            self.read(start, target)?;
        } else if self.memory.advise_range(Advice::PopulateRead, start, len).is_err() {
            // An old kernel, or a piece that is not there: reading it tells which, and brings it into the cache.
            self.read(start, &mut vec![0; len])?;
        }
        flag.store(true, Ordering::Release);
        Ok(())
    }

    fn path(&self) -> Vec<u8> {
        let place = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        std::fs::read_link(&place).map_or(place.into_bytes(), |path| path.into_os_string().into_vec())
    }

    /// Names the first block that cannot be read: a piece is many.
    fn read(&self, start: usize, target: &mut [u8]) -> Result<(), Unreadable> {
        const BLOCK_BYTES: usize = 4096;
        if self.file.read_exact_at(target, start as u64).is_ok() {
            return Ok(());
        }
        let mut at = start as u64;
        for block in target.chunks_mut(BLOCK_BYTES) {
            let read = self.file.read_exact_at(block, at);
            read.map_err(|source| Unreadable { offset: at, source, path: self.path() })?;
            at = at.saturating_add(block.len() as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn temporary(bytes: &[u8]) -> File {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(std::env::temp_dir().join(format!("pages-{}-{:p}", std::process::id(), bytes)))
            .unwrap();
        (&file).write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_copy_and_a_map_show_the_same_bytes() {
        let bytes: Vec<u8> = (0..300_001u32).map(|number| (number % 251) as u8).collect();
        let file = temporary(&bytes);
        for is_copy in [true, false] {
            let pages = Pages::open_as(&file, is_copy).unwrap();
            for (start, len) in [(0, 0), (0, 1), (65_535, 2), (100, 200_000), (300_000, 1), (0, 300_001)] {
                assert_eq!(pages.get(start, len).unwrap().unwrap(), &bytes[start..start + len]);
            }
            assert!(pages.get(300_001, 1).is_none() && pages.get(usize::MAX, 1).is_none());
            assert_eq!(pages.get(300_001, 0).unwrap().unwrap(), b"");
        }
    }

    #[test]
    fn what_was_cut_off_is_an_error_with_its_offset() {
        for is_copy in [true, false] {
            let file = temporary(&vec![7; 300_000]);
            let pages = Pages::open_as(&file, is_copy).unwrap();
            file.set_len(200_000).unwrap();
            assert_eq!(pages.get(0, 100_000).unwrap().unwrap(), vec![7; 100_000]);
            let error = pages.get(0, 300_000).unwrap().unwrap_err();
            assert_eq!((error.offset, error.source.kind()), (196_608, io::ErrorKind::UnexpectedEof));
        }
    }
}
