//! Digests of files: large ones by several threads, each taking the next part that nobody has.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use super::hasher::READ_BYTES;
use super::{BlockHasher, Digest, Params, VerityHasher, digest_reader};
use crate::cancel::{Cancel, Cancelled, Ticker};

/// Smallest file worth threads: below it they cost more than the millisecond or two that they could save.
const MIN_PARALLEL_BYTES: u64 = 4 << 20;
/// What a thread takes at a time: a fraction of a millisecond, so that all end together.
const PART_BYTES: u64 = 1 << 20;
/// How many parts may be hashed while an earlier one is not: their digests then take 4 MiB with SHA-512.
const MAX_AHEAD_PARTS: u64 = 256;
/// More threads than this wait for memory, not for the processor.
const MAX_THREADS: usize = 8;
/// Time between two looks at the canceller, or at how far the others are, while waiting for them.
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
    digest_parallel(params, file, start, size, threads.max(1), cancel)
}

/// The parts of a file, handed out in order.
struct Parts<'a> {
    blocks: &'a BlockHasher,
    file: &'a File,
    start: u64,
    size: u64,
    next: AtomicU64,
    /// All before this one are joined.
    joined: AtomicU64,
    stop: AtomicBool,
}

impl Parts<'_> {
    fn count(&self) -> u64 {
        self.size.div_ceil(PART_BYTES)
    }

    /// The number of a part that nobody has taken.
    fn take(&self) -> Option<u64> {
        let part = self.next.fetch_add(1, Ordering::Relaxed);
        (part < self.count()).then_some(part)
    }

    /// Whether so many are hashed that wait for an earlier one that this one has to wait, too.
    fn is_ahead(&self, part: u64) -> bool {
        part >= self.joined.load(Ordering::Relaxed).saturating_add(MAX_AHEAD_PARTS)
    }

    fn len(&self, part: u64) -> u64 {
        self.size.saturating_sub(part.saturating_mul(PART_BYTES)).min(PART_BYTES)
    }

    /// The digests of a part's blocks.
    fn hash(&self, part: u64, buffer: &mut [u8]) -> io::Result<Vec<u8>> {
        let mut digests = Vec::new();
        let (mut done, len) = (0u64, self.len(part));
        while done < len {
            let now = usize::try_from(len.saturating_sub(done)).unwrap_or(READ_BYTES).min(READ_BYTES);
            let wanted = buffer.get_mut(..now).unwrap_or_default();
            let at = self.start.saturating_add(part.saturating_mul(PART_BYTES)).saturating_add(done);
            self.file.read_exact_at(wanted, at)?;
            self.blocks.hash_data(wanted, &mut digests);
            done = done.saturating_add(now as u64);
        }
        Ok(digests)
    }

    /// What a thread does that nobody can cancel: it ends soon after `stop` is set.
    fn work(&self, sender: &Sender<io::Result<(u64, Vec<u8>)>>) {
        let mut buffer = vec![0u8; READ_BYTES];
        while let Some(part) = self.take() {
            while self.is_ahead(part) && !self.stop.load(Ordering::Relaxed) {
                thread::sleep(POLL_INTERVAL);
            }
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let result = self.hash(part, &mut buffer).map(|digests| (part, digests));
            let is_last = result.is_err();
            // Nobody listens any more once another part has failed.
            if sender.send(result).is_err() || is_last {
                return;
            }
        }
    }
}

/// Joins the parts' digests in the file's order, whatever order they come in.
struct Joining<'a> {
    parts: &'a Parts<'a>,
    hasher: VerityHasher,
    early: BTreeMap<u64, Vec<u8>>,
    next: u64,
}

impl Joining<'_> {
    fn put(&mut self, part: u64, digests: Vec<u8>) {
        self.early.insert(part, digests);
        while let Some(digests) = self.early.remove(&self.next) {
            self.hasher.push_data_digests(self.parts.len(self.next), &digests);
            self.next = self.next.saturating_add(1);
        }
        self.parts.joined.store(self.next, Ordering::Relaxed);
    }

    fn done_bytes(&self) -> u64 {
        self.next.saturating_mul(PART_BYTES).min(self.parts.size)
    }

    /// Waits for a part of another thread, asking the canceller all the while.
    fn wait(
        &mut self,
        receiver: &Receiver<io::Result<(u64, Vec<u8>)>>,
        cancel: &dyn Cancel,
    ) -> io::Result<()> {
        match receiver.recv_timeout(POLL_INTERVAL) {
            Ok(result) => result.map(|(part, digests)| self.put(part, digests)),
            Err(RecvTimeoutError::Timeout) => cancel.check().map_err(io::Error::other),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("a hashing thread ended early")),
        }
    }
}

fn digest_parallel(
    params: &Params,
    file: &File,
    start: u64,
    size: u64,
    threads: usize,
    cancel: &dyn Cancel,
) -> io::Result<Digest> {
    let blocks = BlockHasher::new(params.clone());
    let (next, joined, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let parts = Parts { blocks: &blocks, file, start, size, next, joined, stop };
    let (parts, mut ticker) = (&parts, Ticker::counting(cancel, size));
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 1..threads {
            let sender = sender.clone();
            scope.spawn(move || parts.work(&sender));
        }
        drop(sender);
        let hasher = VerityHasher::with_blocks(blocks.clone());
        let joining = Joining { parts, hasher, early: BTreeMap::new(), next: 0 };
        let result = hash_and_join(joining, &receiver, &mut ticker, cancel);
        // Whatever has happened, the threads end soon after, and the scope joins them.
        parts.stop.store(true, Ordering::Relaxed);
        result
    })
    .and_then(|digest| ticker.finish().map(|()| digest).map_err(io::Error::other))
}

/// This thread hashes as the others do, takes what they have, and asks the canceller: only it may be able to see one.
fn hash_and_join(
    mut joining: Joining<'_>,
    receiver: &Receiver<io::Result<(u64, Vec<u8>)>>,
    ticker: &mut Ticker<'_>,
    cancel: &dyn Cancel,
) -> io::Result<Digest> {
    let parts = joining.parts;
    let mut buffer = vec![0u8; READ_BYTES];
    while let Some(part) = parts.take() {
        while parts.is_ahead(part) {
            joining.wait(receiver, cancel)?;
        }
        let digests = parts.hash(part, &mut buffer)?;
        joining.put(part, digests);
        while let Ok(result) = receiver.try_recv() {
            result.map(|(part, digests)| joining.put(part, digests))?;
        }
        ticker.set_done(joining.done_bytes());
        ticker.tick_slow().map_err(|cancelled: Cancelled| io::Error::other(cancelled))?;
    }
    while joining.next < parts.count() {
        joining.wait(receiver, cancel)?;
    }
    Ok(joining.hasher.finish())
}
