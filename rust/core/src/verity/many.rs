//! Digests of many small files: their blocks fill the lanes together.

use super::{BlockHasher, Digest, Params};
use crate::cancel::{Cancel, Cancelled, Ticker};

/// Contents hashed together: bounds the memory for padded blocks to 64 times the block size, and is a multiple of
/// every back end's lanes.
const GROUP_FILES: usize = 64;

/// Digests of contents in memory, in order; many small ones take a fraction of one after the other's time.
///
/// Extra memory: up to 64 blocks, and the digests of one level of 64 contents.
///
/// # Errors
/// [`Cancelled`], polled every 64 contents; large contents belong into [`super::digest_file`].
pub fn digest_many(
    params: &Params,
    contents: &[&[u8]],
    cancel: &dyn Cancel,
) -> Result<Vec<Digest>, Cancelled> {
    let blocks = BlockHasher::new(params.clone());
    let mut ticker = Ticker::new(cancel);
    let mut digests = Vec::with_capacity(contents.len());
    for group in contents.chunks(GROUP_FILES) {
        ticker.tick()?;
        digests.extend(digest_group(&blocks, group));
    }
    Ok(digests)
}

/// A few contents at once, level by level.
fn digest_group(blocks: &BlockHasher, contents: &[&[u8]]) -> Vec<Digest> {
    let digest_bytes = blocks.params().algorithm().digest_bytes();
    let mut levels = hash_level(blocks, contents);
    while levels.iter().any(|level| level.len() > digest_bytes) {
        // A content whose root is known already takes no part.
        let (unfinished, data): (Vec<usize>, Vec<&[u8]>) = levels
            .iter()
            .enumerate()
            .filter(|(_, level)| level.len() > digest_bytes)
            .map(|(index, level)| (index, level.as_slice()))
            .unzip();
        let next = hash_level(blocks, &data);
        for (index, level) in unfinished.into_iter().zip(next) {
            if let Some(slot) = levels.get_mut(index) {
                *slot = level;
            }
        }
    }
    let roots = contents.iter().zip(&levels).map(|(data, root)| (data.len() as u64, blocks.read_root(root)));
    blocks.finish(roots)
}

/// The digests of every content's blocks.
fn hash_level(blocks: &BlockHasher, contents: &[&[u8]]) -> Vec<Vec<u8>> {
    let block_bytes = blocks.params().block_bytes();
    let digest_bytes = blocks.params().algorithm().digest_bytes();
    let mut padding = Vec::new();
    for data in contents {
        let partial = data.chunks_exact(block_bytes).remainder();
        if !partial.is_empty() {
            padding.extend_from_slice(partial);
            padding.resize(padding.len().next_multiple_of(block_bytes), 0);
        }
    }
    let mut padded = padding.chunks_exact(block_bytes);
    let mut messages = Vec::new();
    for data in contents {
        let full = data.chunks_exact(block_bytes);
        let is_partial = !full.remainder().is_empty();
        messages.extend(full);
        messages.extend(is_partial.then(|| padded.next()).flatten());
    }
    let mut digests = Vec::new();
    blocks.hash_blocks(&messages, &mut digests);
    let mut rest = digests.as_slice();
    let split = contents.iter().map(|data| {
        let (own, others) =
            rest.split_at(data.len().div_ceil(block_bytes).saturating_mul(digest_bytes).min(rest.len()));
        rest = others;
        own.to_vec()
    });
    split.collect()
}
