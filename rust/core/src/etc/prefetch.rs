//! Reading what has to be compared before the rules ask for it: on several threads, each file once.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use super::content::{ContentError, Side};
use super::digests::Folder;
use super::triples::{Triple, Triples};
use crate::cancel::{Cancel, Cancelled, Ticker};
use crate::tree::{Content, Node, Tree};
use crate::verity::{Digest, default_threads};

/// Files below which further threads cost more than they save.
const SERIAL_FILES: usize = 256;
/// Files a thread takes at once.
const BATCH_FILES: usize = 64;

/// Computes the digests of all files of C that the rules will have to compare with an object; tells how many are done,
/// and returns how many there were.
pub(super) fn prefetch(
    p: &Side<'_>,
    c: &Side<'_>,
    n: &Side<'_>,
    cancel: &dyn Cancel,
) -> Result<usize, ContentError> {
    let wanted = candidates(Some(p.tree), c.tree, n.tree, cancel)?;
    digest_all(c, &wanted, cancel)?;
    Ok(wanted.len())
}

/// Computes the digests of all files of `found` that may be the objects that `wanted` has under their names.
pub(super) fn prefetch_against(
    wanted: &Tree,
    found: &Side<'_>,
    cancel: &dyn Cancel,
) -> Result<(), ContentError> {
    digest_all(found, &candidates(None, found.tree, wanted, cancel)?, cancel)
}

fn digest_all(c: &Side<'_>, wanted: &[(Node<'_>, &Digest)], cancel: &dyn Cancel) -> Result<(), ContentError> {
    let threads = if wanted.len() < SERIAL_FILES { 1 } else { default_threads() };
    let next = AtomicUsize::new(0);
    let done = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let work = || -> Result<(), ContentError> {
        let mut folder = Folder::default();
        let mut ticker = Ticker::counting(cancel, wanted.len() as u64);
        loop {
            let start = next.fetch_add(BATCH_FILES, Ordering::Relaxed);
            let batch = wanted.get(start..wanted.len().min(start.saturating_add(BATCH_FILES)));
            let Some(batch) = batch.filter(|batch| !batch.is_empty()) else { return Ok(()) };
            if failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            // P's and N's algorithms can differ: each run of one is a batch.
            for run in batch.chunk_by(|(_, one), (_, two)| one.algorithm() == two.algorithm()) {
                c.digest_batch(run, &mut folder, cancel)?;
            }
            let read = batch.len() as u64;
            ticker.set_done(done.fetch_add(read, Ordering::Relaxed).saturating_add(read));
            ticker.tick_slow()?;
        }
    };
    let work = || {
        let result = work();
        failed.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        // This thread works, too: only it may be able to see a cancellation (cancel.rs).
        let own = work();
        let results = workers.into_iter().map(|worker| worker.join().unwrap_or(Err(Cancelled.into())));
        results.fold(own, Result::and)
    })?;
    if !wanted.is_empty() {
        Ticker::counting(cancel, wanted.len() as u64).finish()?;
    }
    Ok(())
}

/// Files of C whose type and size leave open whether they are P's; or N's, where they cannot be P's.
fn candidates<'t>(
    p: Option<&'t Tree>,
    c: &'t Tree,
    n: &'t Tree,
    cancel: &dyn Cancel,
) -> Result<Vec<(Node<'t>, &'t Digest)>, Cancelled> {
    let mut found = Vec::new();
    let mut ticker = Ticker::new(cancel);
    let mut pending = vec![(p.map(Tree::root), c.root(), Some(n.root()))];
    while let Some((p, c, n)) = pending.pop() {
        for Triple { p, c, n, .. } in Triples::new(p, Some(c), n) {
            ticker.tick()?;
            let Some(c) = c else { continue };
            if c.is_dir() {
                pending.push((p, c, n));
            } else if let Some(expected) = open_question(p, c).or_else(|| open_question(n, c)) {
                found.push((c, expected));
            }
        }
    }
    Ok(found)
}

fn open_question<'t>(image: Option<Node<'t>>, c: Node<'_>) -> Option<&'t Digest> {
    let image = image?;
    match (image.content(), c.content()) {
        (Content::Object(digest), Content::OnDisk) if image.stat().size_bytes == c.stat().size_bytes => {
            Some(digest)
        }
        _ => None,
    }
}
