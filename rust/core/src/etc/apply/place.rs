//! Putting a complete thing under its name: made under a temporary name beside it, then renamed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, RenameFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::tree::Node;

/// Start of the names under which things are made; a leftover one is not in the result, so the next run removes it.
const TEMPORARY: &str = ".bootc-fast-";
/// Temporary names tried before giving up; each of them would have to be taken.
const NAME_TRIES: u32 = 10_000;

/// Something under a temporary name; removed again unless it was put in place.
#[derive(Debug)]
pub(super) struct Temporary {
    dir: OwnedFd,
    name: Vec<u8>,
    is_dir: bool,
    armed: bool,
}

impl Temporary {
    /// Makes something under a name that neither the directory nor the result's directory has.
    ///
    /// `make` is given the directory and a name and must fail with `EEXIST` where that is taken.
    pub(super) fn make<T>(
        dir: BorrowedFd<'_>,
        wanted: Option<Node<'_>>,
        is_dir: bool,
        mut make: impl FnMut(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<(Self, T), Errno> {
        // A descriptor of its own: the destination may look at other directories before this ends.
        let dir = rustix::io::fcntl_dupfd_cloexec(dir, 3)?;
        for number in 0..NAME_TRIES {
            let name = format!("{TEMPORARY}{number}").into_bytes();
            if wanted.is_some_and(|wanted| wanted.child(&name).is_some()) {
                continue;
            }
            match retry_on_intr(|| make(dir.as_fd(), &name)) {
                Ok(value) => return Ok((Self { dir, name, is_dir, armed: true }, value)),
                Err(Errno::EXIST) => (),
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EXIST)
    }

    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// Gives it its name. Afterwards what was there, if that is a directory or this one is, has the temporary
    /// name; the return value says whether so.
    pub(super) fn put(mut self, name: &[u8], old_is_dir: Option<bool>) -> Result<Option<Vec<u8>>, Errno> {
        let replaces_by_itself = match old_is_dir {
            None => true,
            Some(old_is_dir) => !old_is_dir && !self.is_dir,
        };
        if replaces_by_itself {
            retry_on_intr(|| fs::renameat(&self.dir, self.name(), &self.dir, name))?;
            // rename(2) of two names of one inode does nothing: drop() then removes the temporary one.
            return Ok(None);
        }
        match retry_on_intr(|| {
            fs::renameat_with(&self.dir, self.name(), &self.dir, name, RenameFlags::EXCHANGE)
        }) {
            Ok(()) => {
                self.armed = false;
                Ok(Some(std::mem::take(&mut self.name)))
            }
            // No exchange on this file system: for a moment there is nothing under the name.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.put_in_two_steps(name).map(Some),
            Err(error) => Err(error),
        }
    }

    fn put_in_two_steps(&mut self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let aside = [self.name(), b"-old"].concat();
        retry_on_intr(|| {
            fs::renameat_with(&self.dir, name, &self.dir, aside.as_slice(), RenameFlags::NOREPLACE)
        })
        .or_else(|error| match error {
            Errno::INVAL | Errno::NOSYS => {
                retry_on_intr(|| fs::renameat(&self.dir, name, &self.dir, aside.as_slice()))
            }
            error => Err(error),
        })?;
        retry_on_intr(|| fs::renameat(&self.dir, self.name(), &self.dir, name))?;
        self.armed = false;
        Ok(aside)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.armed {
            let flags = if self.is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            // Nothing to report to: what stays is removed by the next run.
            let _ = retry_on_intr(|| fs::unlinkat(&self.dir, self.name(), flags));
        }
    }
}
