//! Bounded bytes: nothing here indexes, everything returns a `Result` that says what was wanted and where.

use bootc_fast_sys::map::{Pages, Unreadable};

use super::error::ErofsError;

/// A part of the image that knows where it is; nothing is read before its bytes are asked for.
#[derive(Clone, Copy)]
pub struct Bytes<'a> {
    image: Whole<'a>,
    /// Offset in the image.
    base: u64,
    len: u64,
}

#[derive(Clone, Copy)]
enum Whole<'a> {
    Memory(&'a [u8]),
    Pages(&'a Pages),
    Read(Part<'a>),
}

/// A part that was read.
#[derive(Clone, Copy)]
struct Part<'a> {
    data: &'a [u8],
    start: u64,
    image_len: u64,
}

impl Whole<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(data) => data.len() as u64,
            Self::Pages(pages) => pages.len() as u64,
            Self::Read(part) => part.image_len,
        }
    }
}

impl std::fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({:#x}+{:#x})", self.base, self.len)
    }
}

impl<'a> Bytes<'a> {
    /// The whole image.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self { image: Whole::Memory(data), base: 0, len: data.len() as u64 }
    }

    /// A whole file.
    #[must_use]
    pub fn of_pages(pages: &'a Pages) -> Self {
        Self { image: Whole::Pages(pages), base: 0, len: pages.len() as u64 }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Offset of the first byte in the image.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The same part, read now: for who takes many fields out of a small one.
    ///
    /// # Errors
    /// [`ErofsError::Unreadable`].
    pub fn loaded(&self) -> Result<Self, ErofsError> {
        let part = Part { data: self.read()?, start: self.base, image_len: self.image.len() };
        Ok(Self { image: Whole::Read(part), ..*self })
    }

    /// The bytes themselves.
    ///
    /// # Errors
    /// [`ErofsError::Unreadable`].
    #[inline]
    pub fn read(&self) -> Result<&'a [u8], ErofsError> {
        let range = usize::try_from(self.base).ok().zip(usize::try_from(self.len).ok());
        let found = range.and_then(|(start, len)| match self.image {
            Whole::Memory(data) => data.get(start..start.checked_add(len)?).map(Ok),
            Whole::Pages(pages) => pages.get(start, len),
            Whole::Read(part) => {
                let at = start.checked_sub(usize::try_from(part.start).ok()?)?;
                part.data.get(at..at.checked_add(len)?).map(Ok)
            }
        });
        match found {
            Some(Ok(data)) => Ok(data),
            Some(Err(Unreadable { offset, source, path })) => {
                Err(ErofsError::Unreadable { offset, source, path })
            }
            // `part` has seen to that.
            None => Err(self.beyond("the image", self.base, self.len)),
        }
    }

    fn beyond(&self, what: &'static str, offset: u64, len: u64) -> ErofsError {
        ErofsError::OutOfBounds { what, offset, len, image_len: self.image.len() }
    }

    /// `len` bytes from `offset` on, counted from the start of this part.
    ///
    /// # Errors
    /// [`ErofsError::OutOfBounds`] naming `what`.
    #[inline]
    pub fn part(&self, what: &'static str, offset: u64, len: u64) -> Result<Self, ErofsError> {
        let base = self.base.saturating_add(offset);
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(Self { image: self.image, base, len }),
            _ => Err(self.beyond(what, base, len)),
        }
    }

    /// Everything from `offset` on; possibly nothing.
    ///
    /// # Errors
    /// [`ErofsError::OutOfBounds`] if `offset` is past the end.
    pub fn from(&self, what: &'static str, offset: u64) -> Result<Self, ErofsError> {
        match self.len().checked_sub(offset) {
            Some(len) => self.part(what, offset, len),
            None => self.part(what, offset, 0),
        }
    }

    /// One byte.
    ///
    /// # Errors
    /// [`ErofsError::OutOfBounds`].
    pub fn u8(&self, what: &'static str, offset: u64) -> Result<u8, ErofsError> {
        self.array::<1>(what, offset).map(u8::from_le_bytes)
    }

    /// Two bytes, little-endian.
    ///
    /// # Errors
    /// [`ErofsError::OutOfBounds`].
    pub fn u16(&self, what: &'static str, offset: u64) -> Result<u16, ErofsError> {
        self.array(what, offset).map(u16::from_le_bytes)
    }

    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// [`ErofsError::OutOfBounds`].
    pub fn u32(&self, what: &'static str, offset: u64) -> Result<u32, ErofsError> {
        self.array(what, offset).map(u32::from_le_bytes)
    }

    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// [`ErofsError::OutOfBounds`].
    pub fn u64(&self, what: &'static str, offset: u64) -> Result<u64, ErofsError> {
        self.array(what, offset).map(u64::from_le_bytes)
    }

    #[inline]
    fn array<const N: usize>(&self, what: &'static str, offset: u64) -> Result<[u8; N], ErofsError> {
        let part = self.part(what, offset, N as u64)?;
        let data = part.read()?;
        data.first_chunk::<N>().copied().ok_or_else(|| self.beyond(what, part.base, N as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_little_endian_and_names_what_is_missing() {
        let bytes = Bytes::new(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(bytes.u16("x", 1).unwrap(), 0x0302);
        assert_eq!(bytes.u64("x", 1).unwrap(), 0x0908_0706_0504_0302);
        let part = bytes.part("part", 4, 4).unwrap();
        assert_eq!((part.base(), part.read().unwrap()), (4, &[5, 6, 7, 8][..]));
        let error = part.u32("field", 1).unwrap_err();
        assert_eq!(error.to_string(), "field needs 4 bytes at offset 0x5, the image has 0x9");
    }

    #[test]
    fn never_wraps_around() {
        let bytes = Bytes::new(&[0; 8]);
        for (offset, len) in [(u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX), (9, 0)] {
            assert!(bytes.part("x", offset, len).is_err(), "{offset} {len}");
        }
        assert_eq!(bytes.from("x", 8).unwrap().len(), 0);
        assert!(bytes.from("x", 9).is_err());
        assert_eq!(bytes.part("x", 8, 0).unwrap().len(), 0);
    }
}
