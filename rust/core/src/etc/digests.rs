//! fs-verity digests of the files of a side: from metadata, from the kernel, or computed; each once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::content::{ContentError, Side, Source, failed};
use crate::cancel::{Cancel, Cancelled};
use crate::tree::{Content, Node, NodeId};
use crate::verity::{Algorithm, Digest, Params, digest_bytes, digest_many, digest_reader};

/// Files up to this size are read in one piece, and hashed side by side with others.
const WHOLE_BYTES: u64 = 1 << 18;

type Known = HashMap<(NodeId, Algorithm), Option<Digest>>;

/// What was computed so far; `None`: the file vanished.
#[derive(Debug, Default)]
pub(super) struct DigestCache(Mutex<Known>);

impl DigestCache {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What reading a file came to.
enum Reading {
    /// The kernel vouches for this digest.
    Measured(Digest),
    Whole(Vec<u8>),
    Hashed(Digest),
}

impl Side<'_> {
    /// The digest of a regular file with the algorithm of the digest that it is to be compared with, as composefs
    /// counts it: 4096-byte blocks, no salt. `None` where the file vanished.
    ///
    /// A file that has kernel fs-verity is measured, not read: where that equals `expected`, it is what was asked. A
    /// measurement with another salt or block size proves nothing, and the file is read after all.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn digest(
        &self,
        node: Node<'_>,
        expected: &Digest,
        cancel: &dyn Cancel,
    ) -> Result<Option<Digest>, ContentError> {
        let algorithm = expected.algorithm();
        if let Content::Object(digest) = node.content()
            && digest.algorithm() == algorithm
        {
            return Ok(Some(*digest));
        }
        let key = (node.id(), algorithm);
        let known = self.digests.lock().get(&key).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let digest = self.read_for(node, expected, cancel)?.map(|read| match read {
            Reading::Whole(data) => digest_bytes(&Params::composefs(algorithm), &data),
            Reading::Measured(digest) | Reading::Hashed(digest) => digest,
        });
        self.digests.lock().insert(key, digest);
        Ok(digest)
    }

    /// Computes the digests of several files, small ones side by side; [`Side::digest`] then knows them.
    ///
    /// All must be expected to have digests of one algorithm. Memory: the small files' contents.
    ///
    /// # Errors
    /// [`ContentError`].
    pub(super) fn digest_batch(
        &self,
        batch: &[(Node<'_>, &Digest)],
        cancel: &dyn Cancel,
    ) -> Result<(), ContentError> {
        let Some(algorithm) = batch.first().map(|(_, expected)| expected.algorithm()) else { return Ok(()) };
        let mut whole = Vec::with_capacity(batch.len());
        for (node, expected) in batch {
            let done = match self.read_for(*node, expected, cancel)? {
                Some(Reading::Whole(data)) => {
                    whole.push((node.id(), data));
                    continue;
                }
                Some(Reading::Measured(digest) | Reading::Hashed(digest)) => Some(digest),
                None => None,
            };
            self.digests.lock().insert((node.id(), algorithm), done);
        }
        let contents: Vec<&[u8]> = whole.iter().map(|(_, data)| data.as_slice()).collect();
        let digests = digest_many(&Params::composefs(algorithm), &contents, cancel)?;
        let found = whole.iter().zip(digests).map(|((id, _), digest)| ((*id, algorithm), Some(digest)));
        self.digests.lock().extend(found);
        Ok(())
    }

    fn read_for(
        &self,
        node: Node<'_>,
        expected: &Digest,
        cancel: &dyn Cancel,
    ) -> Result<Option<Reading>, ContentError> {
        self.read_settled(node, |source, has_verity| {
            if let Source::Live(file) = source
                && has_verity
                && is_measured_as(file, expected).map_err(|error| failed(node, error))?
            {
                return Ok(Reading::Measured(*expected));
            }
            read_or_hash(source, node, expected.algorithm(), cancel)
        })
    }
}

fn is_measured_as(file: &File, expected: &Digest) -> io::Result<bool> {
    let measured = bootc_fast_sys::verity::measure(file.as_fd())?;
    Ok(measured.is_some_and(|(algorithm, bytes)| {
        algorithm == u16::from(expected.algorithm().kernel_id()) && bytes == expected.as_bytes()
    }))
}

fn read_or_hash(
    source: &mut Source<'_>,
    node: Node<'_>,
    algorithm: Algorithm,
    cancel: &dyn Cancel,
) -> Result<Reading, ContentError> {
    let mut data = Vec::new();
    if node.stat().size_bytes <= WHOLE_BYTES {
        // Room for one byte more than the file had: reading one less shows its end without a second call.
        let size = usize::try_from(node.stat().size_bytes).unwrap_or(0).saturating_add(1);
        data.resize(size, 0);
        let len = source.reader().read(&mut data).map_err(|error| failed(node, error))?;
        data.truncate(len);
        if len > 0 && len.saturating_add(1) == size {
            return Ok(Reading::Whole(data));
        }
    }
    let mut all = data.chain(source.reader());
    let digest = digest_reader(&Params::composefs(algorithm), &mut all, cancel);
    digest.map(Reading::Hashed).map_err(|error| {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Cancelled>()) {
            Some(cancelled) => (*cancelled).into(),
            None => failed(node, error),
        }
    })
}
