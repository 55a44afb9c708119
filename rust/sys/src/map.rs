//! A file as memory, read before it is touched: a bad sector, or a file that was cut off, is an error and no signal.
//!
//! A map of the file itself raises `SIGBUS` where a page of it cannot be read or is no longer there, which ends the
//! process without a word; and no look beforehand helps, since a clean page may be evicted, and a file be cut off,
//! between the look and the touch. So the memory is our own, whatever the size, and filled by `pread` piece by piece,
//! as it is needed. Who goes through all of a large file lets go now and then ([`Pages::forget`]).

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{MmapOptions, MmapRaw};

/// What is read at once.
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
    file: Arc<File>,
    /// By piece: it was read.
    present: Box<[AtomicBool]>,
    /// Those that were, in that order; held by who reads one.
    filled: Mutex<Vec<usize>>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pages").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Addresses for so many bytes; memory comes with the first touch of each page.
fn reserve(len: usize) -> io::Result<MmapRaw> {
    // A map has at least a page. Not reserved in swap: a kernel that guards against overcommitment counts it all the
    // same, others would refuse an image larger than the machine's memory, of which a few pages are wanted.
    MmapOptions::new().len(len.max(1)).no_reserve_swap().map_anon().map(MmapRaw::from)
}

impl Pages {
    /// Some microseconds, whatever the size; reads nothing.
    ///
    /// # Errors
    /// What `mmap` or `dup` returns; `EINVAL` for something that is no regular file.
    pub fn open(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let len =
            usize::try_from(metadata.len()).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        Self::of(Arc::new(file.try_clone()?), len)
    }

    fn of(file: Arc<File>, len: usize) -> io::Result<Self> {
        let present = (0..len.div_ceil(PIECE_BYTES)).map(|_| AtomicBool::new(false)).collect();
        Ok(Self { memory: reserve(len)?, len, file, present, filled: Mutex::default() })
    }

    /// The same file, of which nothing has been read; the descriptor is shared.
    ///
    /// # Errors
    /// What `mmap` returns.
    pub fn afresh(&self) -> io::Result<Self> {
        Self::of(Arc::clone(&self.file), self.len)
    }

    /// Bytes that have been read and are kept, to the piece.
    pub fn kept_bytes(&mut self) -> usize {
        self.filled.get_mut().unwrap_or_else(PoisonError::into_inner).len().saturating_mul(PIECE_BYTES)
    }

    /// Lets go what was read; it is read again where it is asked for again.
    ///
    /// # Errors
    /// What `mmap` returns; nothing has changed then.
    pub fn forget(&mut self) -> io::Result<()> {
        self.memory = reserve(self.len)?;
        for piece in self.filled.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Some(flag) = self.present.get_mut(piece) {
                *flag.get_mut() = false;
            }
        }
        Ok(())
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
        // SAFETY: `start..end` lies within the memory, which is as good as `self`: `forget` takes that exclusively.
        // Every piece of it is present: it was written once, before its flag was set, and is not written again as
        // long as the flag is.
        Some(Ok(unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(start), len) }))
    }

    fn fill(&self, piece: usize, flag: &AtomicBool) -> Result<(), Unreadable> {
        let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
        if flag.load(Ordering::Acquire) {
            return Ok(());
        }
        let start = piece.saturating_mul(PIECE_BYTES);
        let len = PIECE_BYTES.min(self.len().saturating_sub(start));
        // SAFETY: the piece lies within the memory. Nobody else has a reference to it: `get` gives one out only
        // after the flag is set, which only the holder of `filled` does, once.
        let target = unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().add(start), len) };
        self.read(start, target)?;
        filled.push(piece);
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
    fn what_is_read_is_what_the_file_has() {
        let bytes: Vec<u8> = (0..300_001u32).map(|number| (number % 251) as u8).collect();
        let mut pages = Pages::open(&temporary(&bytes)).unwrap();
        for _ in 0..2 {
            for (start, len) in [(0, 0), (0, 1), (65_535, 2), (100, 200_000), (300_000, 1), (0, 300_001)] {
                assert_eq!(pages.get(start, len).unwrap().unwrap(), &bytes[start..start + len]);
            }
            assert!(pages.get(300_001, 1).is_none() && pages.get(usize::MAX, 1).is_none());
            assert_eq!(pages.get(300_001, 0).unwrap().unwrap(), b"");
            assert_eq!(pages.kept_bytes(), 5 * PIECE_BYTES);
            pages.forget().unwrap();
            assert_eq!(pages.kept_bytes(), 0);
        }
    }

    #[test]
    fn what_was_cut_off_is_an_error_with_its_offset_and_what_was_read_stays() {
        let file = temporary(&vec![7; 300_000]);
        let mut pages = Pages::open(&file).unwrap();
        assert_eq!(pages.get(0, 150_000).unwrap().unwrap(), vec![7; 150_000]);
        file.set_len(0).unwrap();
        assert_eq!(pages.get(0, 196_608).unwrap().unwrap(), vec![7; 196_608]);
        let error = pages.get(0, 300_000).unwrap().unwrap_err();
        assert_eq!((error.offset, error.source.kind()), (196_608, io::ErrorKind::UnexpectedEof));
        pages.forget().unwrap();
        let error = pages.get(100, 1).unwrap().unwrap_err();
        assert_eq!((error.offset, error.source.kind()), (0, io::ErrorKind::UnexpectedEof));
        assert_eq!(pages.afresh().unwrap().kept_bytes(), 0);
    }

    #[test]
    fn a_file_larger_than_any_memory_opens() {
        let file = temporary(&[]);
        file.set_len(1 << 40).unwrap();
        let mut pages = Pages::open(&file).unwrap();
        assert_eq!(pages.get((1 << 40) - 1, 1).unwrap().unwrap(), [0]);
        assert_eq!(pages.kept_bytes(), PIECE_BYTES);
    }
}
