//! Names for people: what is in an error or a report must not steer the terminal that it is read on.

use std::fmt;

/// A name for people: control characters and bytes that are not UTF-8 as `\x1b`, all else as it is; `.` where empty.
///
/// The same as `bootc_fast.text.escape_bytes`, which besides knows the characters that no font prints; it is applied to
/// whatever leaves here.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'p>(pub &'p [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return formatter.write_str(".");
        }
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\n' => formatter.write_str("\\n")?,
                    '\r' => formatter.write_str("\\r")?,
                    '\t' => formatter.write_str("\\t")?,
                    other if other.is_control() => write!(formatter, "\\x{:02x}", u32::from(other))?,
                    other => write!(formatter, "{other}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(formatter, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Shown;

    #[test]
    fn names_are_shown_as_python_shows_them() {
        for (name, shown) in [
            (&b"plain"[..], "plain"),
            ("grün 雪".as_bytes(), "grün 雪"),
            (b"caf\xe9", "caf\\xe9"),
            (b"\x1b[31m\x7f", "\\x1b[31m\\x7f"),
            ("\u{85}".as_bytes(), "\\x85"),
            (b"a\nb\tc\r", "a\\nb\\tc\\r"),
            (b"back\\slash 'quoted'", "back\\slash 'quoted'"),
            (b"", "."),
        ] {
            assert_eq!(Shown(name).to_string(), shown);
        }
    }
}
