//! Digests of files: large ones by several threads, each over a part of its own.

use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::hasher::READ_BYTES;
use super::{BlockHasher, Digest, Params, VerityHasher, digest_reader};
use crate::cancel::{Cancel, Cancelled, Ticker};

/// Smallest file worth threads: below it they cost more than the millisecond or two that they could save.
const MIN_PARALLEL_BYTES: u64 = 4 << 20;
/// Most that one thread hashes before the parts are joined: its digests then take 512 KiB with SHA-512.
const MAX_PART_BYTES: u64 = 32 << 20;
/// More threads than this wait for memory, not for the processor.
const MAX_THREADS: usize = 8;
/// Time between two looks at the canceller while waiting for the other threads.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Threads that a large file is worth here.
#[must_use]
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
}

/// Digest of a file from its current position to its end; the position afterwards is not specified.
///
/// Anything but a large regular file is read to its end by this thread alone. Of a regular file it is told how many
/// bytes of how many are done, the end always.
///
/// # Errors
/// What reading returns; [`io::ErrorKind::UnexpectedEof`] for a large file that shrinks meanwhile;
/// [`io::ErrorKind::Other`] holding [`Cancelled`], polled on the calling thread.
pub fn digest_file(
    params: &Params,
    file: &mut File,
    threads: usize,
    cancel: &dyn Cancel,
) -> io::Result<Digest> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return digest_reader(params, file, cancel);
    }
    let start = file.stream_position()?;
    let size = metadata.len().saturating_sub(start);
    if size < MIN_PARALLEL_BYTES {
        let digest = digest_reader(params, file, cancel)?;
        cancel.progress(size, size);
        return Ok(digest);
    }
    // One thread, too: where the end is known, no group of blocks is copied aside because it might be the last.
    digest_parallel(params, &Part { start, size }, file, threads.max(1), cancel)
}

/// A range of the file, in bytes.
#[derive(Debug, Clone, Copy)]
struct Part {
    start: u64,
    size: u64,
}

impl Part {
    /// The first `size` bytes, and the rest.
    fn split(self, size: u64) -> (Self, Self) {
        let size = size.min(self.size);
        let rest = Self { start: self.start.saturating_add(size), size: self.size.saturating_sub(size) };
        (Self { start: self.start, size }, rest)
    }
}

fn digest_parallel(
    params: &Params,
    whole: &Part,
    file: &File,
    threads: usize,
    cancel: &dyn Cancel,
) -> io::Result<Digest> {
    let blocks = BlockHasher::new(params.clone());
    let mut hasher = VerityHasher::with_blocks(blocks.clone());
    let mut rest = *whole;
    // One for all parts: a quick processor has done each before it is time to ask.
    let mut ticker = Ticker::new(cancel);
    while rest.size > 0 {
        let share =
            rest.size.div_ceil(threads as u64).next_multiple_of(READ_BYTES as u64).min(MAX_PART_BYTES);
        let mut parts = Vec::with_capacity(threads);
        while parts.len() < threads && rest.size > 0 {
            let (part, after) = rest.split(share);
            parts.push(part);
            rest = after;
        }
        let digests = hash_parts(&blocks, file, &parts, &mut ticker, cancel)?;
        for (part, digests) in parts.iter().zip(&digests) {
            hasher.push_data_digests(part.size, digests);
        }
        cancel.progress(whole.size.saturating_sub(rest.size), whole.size);
    }
    Ok(hasher.finish())
}

/// Hashes each part's blocks by a thread of its own, the first by this one; in the parts' order.
fn hash_parts(
    blocks: &BlockHasher,
    file: &File,
    parts: &[Part],
    ticker: &mut Ticker<'_>,
    cancel: &dyn Cancel,
) -> io::Result<Vec<Vec<u8>>> {
    let stop = AtomicBool::new(false);
    let mut results = thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for (index, part) in parts.iter().enumerate().skip(1) {
            let (sender, stop) = (sender.clone(), &stop);
            // Whatever happens, the threads end soon after `stop`, and the scope joins them.
            scope.spawn(move || {
                let result = hash_part(blocks, file, *part, || Ok(!stop.load(Ordering::Relaxed)));
                // Nobody listens any more once another part has failed.
                drop(sender.send(result.map(|digests| (index, digests))));
            });
        }
        drop(sender);
        let results = collect_parts(blocks, file, parts, &receiver, ticker, cancel);
        stop.store(true, Ordering::Relaxed);
        results
    })?;
    results.sort_unstable_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, digests)| digests).collect())
}

/// Hashes the first part and waits for the others, asking the canceller on this thread all the while.
fn collect_parts(
    blocks: &BlockHasher,
    file: &File,
    parts: &[Part],
    receiver: &Receiver<io::Result<(usize, Vec<u8>)>>,
    ticker: &mut Ticker<'_>,
    cancel: &dyn Cancel,
) -> io::Result<Vec<(usize, Vec<u8>)>> {
    let mut results = Vec::with_capacity(parts.len());
    for own in parts.iter().take(1) {
        results.push((0, hash_part(blocks, file, *own, || ticker.tick().map(|()| true))?));
    }
    while results.len() < parts.len() {
        match receiver.recv_timeout(POLL_INTERVAL) {
            Ok(result) => results.push(result?),
            Err(RecvTimeoutError::Timeout) => cancel.check().map_err(io::Error::other)?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("a hashing thread ended early"));
            }
        }
    }
    Ok(results)
}

/// The digests of a part's blocks; stops without an error, and without all digests, once `go_on` says so.
fn hash_part(
    blocks: &BlockHasher,
    file: &File,
    part: Part,
    mut go_on: impl FnMut() -> Result<bool, Cancelled>,
) -> io::Result<Vec<u8>> {
    let mut digests = Vec::new();
    let mut buffer = vec![0u8; READ_BYTES];
    let mut rest = part;
    while rest.size > 0 && go_on().map_err(io::Error::other)? {
        let (now, after) = rest.split(READ_BYTES as u64);
        let wanted = buffer.get_mut(..usize::try_from(now.size).unwrap_or(READ_BYTES)).unwrap_or_default();
        file.read_exact_at(wanted, now.start)?;
        blocks.hash_data(wanted, &mut digests);
        rest = after;
    }
    Ok(digests)
}
