//! A large scan on several threads: workers look at directories, the calling thread makes the tree and polls.

use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::listing::{Lister, Listing, Work};
use super::scan::{Assembly, ScanError};
use crate::cancel::{Cancel, Ticker};

/// More threads than this only contend for the directory locks of one file system.
const MAX_THREADS: usize = 4;

/// Listings that wait for the calling thread: each may hold a directory open.
const MAX_WAITING: usize = 16;

/// Work for any thread; `None` in `open` tells them to end.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Work>,
    is_closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, work: &mut Vec<Work>) {
        if work.is_empty() {
            // Waking everybody for nothing took four thousand system calls for a thousand directories.
            return;
        }
        self.lock().waiting.append(work);
        self.changed.notify_all();
    }

    fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Waits for work; `None` once closed.
    fn next(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(work) = state.waiting.pop() {
                return Some(work);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Does all pending work of `assembly`, and the work that follows from it.
pub(super) fn run(
    assembly: &mut Assembly,
    dir: BorrowedFd<'_>,
    cancel: &dyn Cancel,
) -> Result<(), ScanError> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let queue = Queue::default();
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        for _ in 0..threads {
            let (queue, sender, mount) = (&queue, sender.clone(), assembly.mount);
            scope.spawn(move || work(queue, &sender, Lister::new(mount), dir, cancel));
        }
        drop(sender);
        let result = assemble(assembly, &queue, &receiver, cancel);
        queue.close();
        // Who waits to hand over a listing that nobody wants any more ends, too.
        drop(receiver);
        result
    })
}

fn work(
    queue: &Queue,
    sender: &SyncSender<Result<Listing, ScanError>>,
    mut lister: Lister,
    dir: BorrowedFd<'_>,
    cancel: &dyn Cancel,
) {
    let mut ticker = Ticker::new(cancel);
    while let Some(work) = queue.next() {
        let listing = lister.list(dir, work, &mut ticker);
        if sender.send(listing).is_err() {
            return;
        }
    }
}

fn assemble(
    assembly: &mut Assembly,
    queue: &Queue,
    receiver: &Receiver<Result<Listing, ScanError>>,
    cancel: &dyn Cancel,
) -> Result<(), ScanError> {
    let mut outstanding = 0usize;
    let mut ticker = Ticker::counting(cancel, 0);
    loop {
        outstanding = outstanding.saturating_add(assembly.pending.len());
        queue.add(&mut assembly.pending);
        if outstanding == 0 {
            return Ok(ticker.finish()?);
        }
        // Only this thread may be able to see a cancellation (cancel.rs), so it never waits long.
        match receiver.recv_timeout(Ticker::INTERVAL) {
            Ok(listing) => {
                outstanding = outstanding.saturating_sub(1);
                assembly.take(listing?)?;
                ticker.set_done(assembly.found());
                // A listing is of a whole directory: none is too short for a look at the clock.
                ticker.tick_slow()?;
            }
            Err(RecvTimeoutError::Timeout) => cancel.check()?,
            // Every worker died; scope() reports the panic that did it.
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}
