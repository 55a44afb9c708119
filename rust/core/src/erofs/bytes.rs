//! Bounded bytes: nothing here indexes, everything returns a `Result` that says what was wanted and where.

use super::error::ErofsError;

/// A part of the image that knows where it is.
#[derive(Clone, Copy)]
pub struct Bytes<'a> {
    data: &'a [u8],
    /// Offset of `data` in the image.
    base: u64,
    /// Of the whole image, for messages.
    image_len: u64,
}

impl std::fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({:#x}+{:#x})", self.base, self.data.len())
    }
}

impl<'a> Bytes<'a> {
    /// The whole image.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, base: 0, image_len: data.len() as u64 }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.data.len() as u64
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Offset of the first byte in the image.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The bytes themselves.
    #[must_use]
    pub fn as_slice(&self) -> &'a [u8] {
        self.data
    }

    /// `len` bytes from `offset` on, counted from the start of this part.
    ///
    /// # Errors
    /// [`ErofsError::OutOfBounds`] naming `what`.
    pub fn part(&self, what: &'static str, offset: u64, len: u64) -> Result<Self, ErofsError> {
        let range = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
        let data = range.and_then(|(start, len)| self.data.get(start..start.checked_add(len)?));
        let base = self.base.saturating_add(offset);
        match data {
            Some(data) => Ok(Self { data, base, image_len: self.image_len }),
            None => Err(ErofsError::OutOfBounds { what, offset: base, len, image_len: self.image_len }),
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

    fn array<const N: usize>(&self, what: &'static str, offset: u64) -> Result<[u8; N], ErofsError> {
        let part = self.part(what, offset, N as u64)?;
        part.data.first_chunk::<N>().copied().ok_or(ErofsError::OutOfBounds {
            what,
            offset: part.base,
            len: N as u64,
            image_len: self.image_len,
        })
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
        assert_eq!((part.base(), part.as_slice()), (4, &[5, 6, 7, 8][..]));
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
