//! Cooperative cancellation: long work asks, often and cheaply, whether anybody still wants the result.

use std::time::{Duration, Instant};

/// The work was cancelled; why is known to whoever implements [`Cancel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// Asked by long-running work whether to go on.
///
/// `Sync`, because worker threads ask too. An implementation may be able to notice a cancellation only on the
/// thread that started the call (Python's is); code that spawns threads therefore keeps polling on that thread
/// while it waits for them.
pub trait Cancel: Sync {
    /// Returns `Err` once the work is no longer wanted, for ever after.
    ///
    /// # Errors
    /// [`Cancelled`].
    fn check(&self) -> Result<(), Cancelled>;

    /// Told now and then how far a loop is, in units of its own (entries, bytes); `total` is 0 where nobody knows.
    fn progress(&self, done: u64, total: u64) {
        let _ = (done, total);
    }
}

/// Never cancelled.
#[derive(Debug, Clone, Copy, Default)]
pub struct Never;

impl Cancel for Never {
    fn check(&self) -> Result<(), Cancelled> {
        Ok(())
    }
}

/// Polls a [`Cancel`] at most every [`Ticker::INTERVAL`], looking at the clock only every few calls.
///
/// Asking Python costs about a microsecond and the interpreter lock, so it must not happen per directory entry;
/// a cancellation must still be seen within 20 ms (spec `core.md`, "Python boundary").
#[allow(missing_debug_implementations)]
pub struct Ticker<'a> {
    cancel: &'a dyn Cancel,
    last: Instant,
    calls_left: u32,
    done: u64,
    /// `None` where nothing is counted.
    total: Option<u64>,
}

impl<'a> Ticker<'a> {
    /// Time between two polls.
    pub const INTERVAL: Duration = Duration::from_millis(8);
    /// `tick` calls between two looks at the clock; each stands for at most about 64 KiB of hashing or one entry.
    const CALLS: u32 = 16;

    /// A ticker that has just polled.
    #[must_use]
    pub fn new(cancel: &'a dyn Cancel) -> Self {
        Self { cancel, last: Instant::now(), calls_left: Self::CALLS, done: 0, total: None }
    }

    /// A ticker that tells how far the work is, too, of so many units; 0 where that is not known.
    #[must_use]
    pub fn counting(cancel: &'a dyn Cancel, total: u64) -> Self {
        Self { total: Some(total), ..Self::new(cancel) }
    }

    /// Notes that so many units more are done.
    pub fn count(&mut self, units: u64) {
        self.done = self.done.saturating_add(units);
    }

    /// Notes how many units are done in all, where several threads do them.
    pub fn set_done(&mut self, units: u64) {
        self.done = units;
    }

    /// Polls if it is time to.
    ///
    /// # Errors
    /// [`Cancelled`].
    pub fn tick(&mut self) -> Result<(), Cancelled> {
        self.calls_left = self.calls_left.saturating_sub(1);
        if self.calls_left > 0 {
            return Ok(());
        }
        self.calls_left = Self::CALLS;
        self.tick_slow()
    }

    /// Polls if it is time to, for steps of a tenth of a millisecond and more.
    ///
    /// # Errors
    /// [`Cancelled`].
    pub fn tick_slow(&mut self) -> Result<(), Cancelled> {
        if self.last.elapsed() < Self::INTERVAL {
            return Ok(());
        }
        self.last = Instant::now();
        if let Some(total) = self.total {
            // What names a file twice counts it twice, where the total is of files.
            self.cancel.progress(if total == 0 { self.done } else { self.done.min(total) }, total);
        }
        self.cancel.check()
    }

    /// Tells that all is done, whatever the clock says: of work that is over before anybody asked, too.
    ///
    /// # Errors
    /// [`Cancelled`].
    pub fn finish(self) -> Result<(), Cancelled> {
        let Some(total) = self.total else { return Ok(()) };
        self.cancel.progress(if total == 0 { self.done } else { total }, total);
        self.cancel.check()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Told(Mutex<Vec<(u64, u64)>>);

    impl Cancel for Told {
        fn check(&self) -> Result<(), Cancelled> {
            Ok(())
        }

        fn progress(&self, done: u64, total: u64) {
            self.0.lock().unwrap().push((done, total));
        }
    }

    #[test]
    fn the_end_is_told_of_work_that_took_no_time() {
        let told = Told::default();
        let mut ticker = Ticker::counting(&told, 3);
        ticker.count(1);
        ticker.tick().unwrap();
        ticker.finish().unwrap();
        let mut unknown = Ticker::counting(&told, 0);
        unknown.count(7);
        unknown.finish().unwrap();
        Ticker::new(&told).finish().unwrap();
        assert_eq!(*told.0.lock().unwrap(), [(3, 3), (7, 0)]);
    }

    #[test]
    fn what_is_counted_twice_is_never_more_than_all() {
        let told = Told::default();
        let mut ticker = Ticker::counting(&told, 3);
        for done in [2, 3, 3] {
            ticker.count(2);
            std::thread::sleep(Ticker::INTERVAL);
            ticker.tick_slow().unwrap();
            assert_eq!(told.0.lock().unwrap().last(), Some(&(done, 3)));
        }
    }
}
