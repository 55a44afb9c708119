//! Names of attributes as the image keeps them: in parts, which only who shows a name puts together.

use std::cmp::Ordering;

use super::layout::composefs;

/// An attribute's name: its parts one after the other, any of them possibly empty.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name<'i>([&'i [u8]; 4]);

impl<'i> Name<'i> {
    /// The name that these make.
    pub(super) fn new(prefix: &'i [u8], infix: &'i [u8], suffix: &'i [u8]) -> Self {
        Self([b"", prefix, infix, suffix])
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|part| part.len()).sum()
    }

    /// Whether this is the whole name.
    pub(super) fn is(&self, whole: &[u8]) -> bool {
        self.len() == whole.len() && self.without(whole).is_some()
    }

    /// What is behind a prefix; `None` where it does not start with that.
    pub(super) fn without(&self, prefix: &[u8]) -> Option<Self> {
        let mut wanted = prefix;
        let mut parts = self.0;
        // Nothing is not compared: of no bytes at a dangling address glibc's `memcmp` loads none, which takes the
        // processor a microsecond where no page is there (AVX-512, masked).
        for part in parts.iter_mut().filter(|part| !part.is_empty()) {
            if wanted.is_empty() {
                break;
            } else if let Some(rest) = wanted.strip_prefix(*part) {
                wanted = rest;
                *part = b"";
            } else {
                *part = part.strip_prefix(wanted)?;
                wanted = b"";
            }
        }
        wanted.is_empty().then_some(Self(parts))
    }

    /// The name that the overlay shows; `None` for its own (`ovl_listxattr`): escaped ones lose one `overlay.`.
    pub(super) fn unescaped(self) -> Option<Self> {
        match self.without(composefs::OVERLAY_ESCAPED_PREFIX) {
            // More than one part long, so that the first one is free.
            Some(Self([_, rest @ ..])) => {
                let [one, two, three] = rest;
                Some(Self([composefs::OVERLAY_PREFIX, one, two, three]))
            }
            None if self.without(composefs::OVERLAY_PREFIX).is_some() => None,
            None => Some(self),
        }
    }

    /// All of it.
    pub(super) fn to_vec(self) -> Vec<u8> {
        self.0.concat()
    }

    /// The parts, in order.
    pub(super) fn parts(&self) -> impl Iterator<Item = &'i [u8]> {
        self.0.into_iter()
    }

    fn bytes(&self) -> impl Iterator<Item = u8> {
        self.parts().flatten().copied()
    }
}

impl PartialEq for Name<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Name<'_> {}

impl PartialOrd for Name<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name<'_> {
    /// That of the bytes.
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0, other.0) {
            // Most share a prefix and have nothing between: one comparison of slices.
            ([b"", prefix, b"", suffix], [b"", other_prefix, b"", other_suffix])
                if !prefix.is_empty() && prefix == other_prefix && !suffix.is_empty() =>
            {
                suffix.cmp(other_suffix)
            }
            _ => self.bytes().cmp(other.bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way to cut a name into three.
    fn cuts(whole: &[u8]) -> impl Iterator<Item = Name<'_>> {
        (0..=whole.len()).flat_map(move |first| {
            (first..=whole.len())
                .map(move |second| Name::new(&whole[..first], &whole[first..second], &whole[second..]))
        })
    }

    const WHOLE: [&[u8]; 7] = [
        b"",
        b"user.a",
        b"user.ab",
        b"trusted.overlay.metacopy",
        b"trusted.overlay.overlay.x",
        b"trusted.overlay.overlay.overlay.x",
        b"trusted.overlay",
    ];

    #[test]
    fn a_name_is_what_its_parts_make_wherever_it_is_cut() {
        for left in WHOLE {
            for right in WHOLE {
                for (one, other) in cuts(left).flat_map(|one| cuts(right).map(move |other| (one, other))) {
                    assert_eq!(one.cmp(&other), left.cmp(right), "{one:?} {other:?}");
                }
                for one in cuts(left) {
                    assert_eq!(one.is(right), left == right, "{one:?} {right:?}");
                    let rest = one.without(right).map(Name::to_vec);
                    assert_eq!(rest.as_deref(), left.strip_prefix(right), "{one:?} {right:?}");
                }
            }
        }
    }

    #[test]
    fn escaped_names_lose_one_overlay_and_the_overlays_own_are_not_shown() {
        let shown = |whole| {
            let all: Vec<_> = cuts(whole).map(|name| name.unescaped().map(Name::to_vec)).collect();
            assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
            all[0].clone()
        };
        assert_eq!(shown(b"trusted.overlay.overlay.x").unwrap(), b"trusted.overlay.x");
        assert_eq!(shown(b"trusted.overlay.overlay.overlay.x").unwrap(), b"trusted.overlay.overlay.x");
        assert_eq!(shown(b"trusted.overlay.metacopy"), None);
        assert_eq!(shown(b"trusted.overlay").unwrap(), b"trusted.overlay");
        assert_eq!(shown(b"user.a").unwrap(), b"user.a");
    }
}
