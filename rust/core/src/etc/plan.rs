//! The whole of planning: read what must be compared, decide R, make it a tree, look at where its links lead.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use super::content::{ContentError, Side};
use super::dangling::{Root, dangling_links};
use super::draft::{self, DraftError};
use super::hidden::Hidden;
use super::policy::Policy;
use super::prefetch::prefetch;
use super::result::{MergeReport, MergeResult, Warning};
use super::rules::Merger;
use crate::cancel::{Cancel, Cancelled, Ticker};
use crate::erofs::Image;
use crate::tree::{BuildError, Flagged, Tree};

/// Stack of the thread that decides: the rules recurse once a directory level, of which there can be
/// [`crate::limits::MAX_DEPTH`]; the kernel backs only what is touched.
const STACK_BYTES: usize = 64 << 20;

/// Why a merge cannot be planned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Content could not be read.
    #[error(transparent)]
    Content(ContentError),
    /// R would be too large.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// Nobody wants the result any more.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl From<ContentError> for PlanError {
    fn from(error: ContentError) -> Self {
        match error {
            ContentError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            other => Self::Content(other),
        }
    }
}

impl From<DraftError> for PlanError {
    fn from(error: DraftError) -> Self {
        match error {
            DraftError::Build(error) => Self::Build(error),
            DraftError::Cancelled(cancelled) => Self::Cancelled(cancelled),
        }
    }
}

/// A tree, and descriptors of where its contents are.
#[derive(Debug, Clone, Copy)]
pub struct SideInput<'a> {
    /// What is there.
    pub tree: &'a Tree,
    /// The directory that was scanned; needed where the tree has files on disk.
    pub dir: Option<&'a OwnedFd>,
    /// `composefs/objects`; needed where an object must be compared with something that is none.
    pub objects: Option<&'a OwnedFd>,
}

impl<'a> SideInput<'a> {
    /// The side as the merge and the writing of its result use it.
    #[must_use]
    pub fn side(&self) -> Side<'a> {
        let borrow = |fd: Option<&'a OwnedFd>| -> Option<BorrowedFd<'a>> { fd.map(AsFd::as_fd) };
        Side::new(self.tree, borrow(self.dir), borrow(self.objects))
    }
}

/// Everything that R is a function of, and the whole images for what is reported about links.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// P: /etc of the booted image.
    pub pristine: SideInput<'a>,
    /// C: the running /etc.
    pub current: SideInput<'a>,
    /// N: /etc of the staged image.
    pub new: SideInput<'a>,
    /// Paths of C that its scan could not see ([`crate::tree::ScanReport::mounts`]).
    pub hidden: &'a [Vec<u8>],
    /// What in C is immutable or append-only ([`crate::tree::ScanReport::flagged`]).
    pub flagged: &'a [Flagged],
    /// What conflicts get.
    pub policy: &'a Policy,
    /// No plan follows: what changed since its scan counts as it is found.
    pub is_last: bool,
    /// The whole booted image.
    pub pristine_image: Option<&'a Image>,
    /// The whole staged image.
    pub new_image: Option<&'a Image>,
}

/// Decides R. Nothing is written; files of C are read where only their bytes tell.
///
/// Cost: one step an entry of the three trees, each file of C read at most once for each algorithm; time and
/// memory linear in the entries. Polls `cancel` on the calling thread every 8 ms, and tells it how many of the files that
/// have to be read are, or, where no digest tells that before, how many entries are decided.
///
/// # Errors
/// [`PlanError`]. Conflicts are none: [`MergeReport::fatal_conflicts`] lists them.
pub fn plan(input: &PlanInput<'_>, cancel: &dyn Cancel) -> Result<MergeResult, PlanError> {
    let shared = SharedCancel::new(cancel);
    thread::scope(|scope| {
        let (sender, receiver) = channel();
        let shared = &shared;
        let work = move || {
            // A failed send has no receiver to tell: only a panic of the calling thread gets here.
            let _ = sender.send(decide(input, shared));
        };
        thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(PlanError::Thread)?;
        loop {
            match receiver.recv_timeout(Ticker::INTERVAL) {
                Ok(result) => {
                    shared.pass_on();
                    cancel.check()?;
                    return result;
                }
                Err(RecvTimeoutError::Timeout) => {
                    shared.pass_on();
                    if cancel.check().is_err() {
                        shared.stop.store(true, Ordering::Relaxed);
                    }
                }
                // The worker panicked; leaving the scope passes that on.
                Err(RecvTimeoutError::Disconnected) => return Err(Cancelled.into()),
            }
        }
    })
}

/// What worker threads ask: the caller's answer, given on its own thread, or their own. What they tell is passed on there.
struct SharedCancel<'a> {
    inner: &'a dyn Cancel,
    stop: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
}

impl<'a> SharedCancel<'a> {
    fn new(inner: &'a dyn Cancel) -> Self {
        Self { inner, stop: AtomicBool::new(false), done: AtomicU64::new(0), total: AtomicU64::new(0) }
    }

    fn pass_on(&self) {
        let total = self.total.load(Ordering::Acquire);
        if total > 0 {
            self.inner.progress(self.done.load(Ordering::Relaxed), total);
        }
    }
}

impl Cancel for SharedCancel<'_> {
    fn progress(&self, done: u64, total: u64) {
        self.done.fetch_max(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Release);
    }

    fn check(&self) -> Result<(), Cancelled> {
        if self.stop.load(Ordering::Relaxed) { Err(Cancelled) } else { self.inner.check() }
    }
}

fn decide(input: &PlanInput<'_>, cancel: &dyn Cancel) -> Result<MergeResult, PlanError> {
    let [p, c, n] = [input.pristine, input.current, input.new].map(|from| from.side().reading(input.is_last));
    let trees = [p.tree, c.tree, n.tree];
    let expected = trees.iter().map(|tree| tree.len()).max().unwrap_or_default();
    let has_read = prefetch(&p, &c, &n, cancel)? > 0;
    // Where directories are compared with each other, files are read as the rules come to them.
    let ticker = if has_read { Ticker::new(cancel) } else { Ticker::counting(cancel, expected as u64) };
    let mut merger = Merger {
        p: &p,
        c: &c,
        n: &n,
        hidden: Hidden::new(input.hidden),
        policy: input.policy,
        report: MergeReport::default(),
        labels_kept: None,
        path: Vec::new(),
        cancel,
        ticker,
    };
    let root = merger.root()?;
    merger.ticker.finish()?;
    let mut report = merger.report;
    let mut ticker = Ticker::new(cancel);
    let has_links = trees.iter().any(|tree| tree.has_links());
    let (tree, content_from) = draft::build(&root, expected, has_links, &mut ticker)?;
    let new = Root { etc: &tree, image: input.new_image };
    let running = Root { etc: c.tree, image: input.pristine_image };
    report.dangling_links = dangling_links(new, running, &mut ticker)?;
    report.warnings.extend(merger.labels_kept.map(|(path, count)| Warning::LabelsKept { path, count }));
    let hidden = merger.hidden.all().map(|path| Warning::MountNotCrossed { path: path.to_vec() });
    report.warnings.extend(hidden);
    let flagged = input.flagged.iter().filter(|found| tree.find(&found.path).is_some());
    report.warnings.extend(flagged.map(|found| Warning::FlagsNotCarried {
        path: found.path.clone(),
        is_immutable: found.is_immutable,
    }));
    sort(&mut report);
    let is_stale = [&p, &c, &n].into_iter().any(Side::is_stale);
    Ok(MergeResult { tree, content_from, report, is_stale })
}

fn sort(report: &mut MergeReport) {
    report.kept.sort_unstable();
    report.deleted.sort_unstable();
    report.image_changes_ignored.sort_unstable();
    report.image_additions_kept.sort_unstable();
    report.conflicts.sort_unstable_by(|one, two| one.path.cmp(&two.path));
    report.warnings.sort_unstable_by(|one, two| one.path().cmp(two.path()));
}
