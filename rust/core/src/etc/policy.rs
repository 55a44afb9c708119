//! Which strategy a conflict gets: path patterns over bytes, the first that fits.

use super::result::Strategy;

/// Whose version of a leaf wins where both sides changed the same of it, which is no conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preference {
    /// The admin's, as everywhere.
    Current,
    /// The image's; the admin's content is kept as `<name>.bootc-saved`.
    New,
    /// The image's: a program made both, and makes it anew.
    MachineMade,
}

impl Preference {
    /// From its name: `current`, `new`, `machine-made`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "current" => Some(Self::Current),
            "new" => Some(Self::New),
            "machine-made" => Some(Self::MachineMade),
            _ => None,
        }
    }
}

/// Patterns with their strategies, the first that matches a path wins; else the default.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Vec<(Vec<u8>, Strategy)>,
    default: Strategy,
    preferences: Vec<(Vec<u8>, Preference)>,
}

impl Policy {
    /// Patterns as [`matches()`] takes them, most important first.
    #[must_use]
    pub fn new(rules: Vec<(Vec<u8>, Strategy)>, default: Strategy) -> Self {
        Self { rules, default, preferences: Vec::new() }
    }

    /// The same with patterns for leaves that both sides changed, most important first.
    #[must_use]
    pub fn with_preferences(self, preferences: Vec<(Vec<u8>, Preference)>) -> Self {
        Self { preferences, ..self }
    }

    /// Whose version wins where both sides changed this leaf below /etc.
    #[must_use]
    pub fn prefer(&self, path: &[u8]) -> Preference {
        let found = self.preferences.iter().find(|(pattern, _)| matches(pattern, path));
        found.map_or(Preference::Current, |(_, preference)| *preference)
    }

    /// What a conflict at this path below /etc gets.
    #[must_use]
    pub fn choose(&self, path: &[u8]) -> Strategy {
        let found = self.rules.iter().find(|(pattern, _)| matches(pattern, path));
        found.map_or(self.default, |(_, strategy)| *strategy)
    }
}

/// Whether a pattern matches a whole path below /etc.
///
/// `*` and `?` do not match a slash, a component `**` matches any number of components, `[a-z]` and `[!a-z]` one
/// byte, `\` takes the next byte as it is. A leading `/etc/` or `/` does not count. Time: pattern × path.
#[must_use]
pub fn matches(pattern: &[u8], path: &[u8]) -> bool {
    let pattern = pattern.strip_prefix(b"/etc/").or_else(|| pattern.strip_prefix(b"/")).unwrap_or(pattern);
    let components: Vec<_> = pattern.split(|byte| *byte == b'/').collect();
    let names: Vec<_> = path.split(|byte| *byte == b'/').collect();
    let is_any = |part: &&[u8]| *part == b"**";
    greedy(&components, &names, is_any, |part, name| component_matches(part, name))
}

fn component_matches(pattern: &[u8], name: &[u8]) -> bool {
    greedy(&parse(pattern), name, |token| matches!(token, Token::Any), |token, byte| token.takes(*byte))
}

/// Matches with at most one point to come back to: the last "any number" token. That is enough, since what an
/// earlier one could take more of, the later one can take as well.
fn greedy<P, T>(
    pattern: &[P],
    text: &[T],
    is_any: impl Fn(&P) -> bool,
    takes: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut next) = (0usize, 0usize);
    let mut retry: Option<(usize, usize)> = None;
    while next < text.len() {
        let token = pattern.get(at);
        if token.is_some_and(&is_any) {
            retry = Some((at, next));
            at = at.saturating_add(1);
        } else if token.zip(text.get(next)).is_some_and(|(token, item)| takes(token, item)) {
            at = at.saturating_add(1);
            next = next.saturating_add(1);
        } else if let Some((star, from)) = retry {
            at = star.saturating_add(1);
            next = from.saturating_add(1);
            retry = Some((star, next));
        } else {
            return false;
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(is_any)
}

#[derive(Debug)]
enum Token {
    Any,
    One,
    Literal(u8),
    Class { ranges: Vec<(u8, u8)>, is_negated: bool },
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Any => false,
            Self::One => true,
            Self::Literal(literal) => *literal == byte,
            Self::Class { ranges, is_negated } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte)) != *is_negated
            }
        }
    }
}

fn parse(pattern: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        tokens.push(match byte {
            b'*' => Token::Any,
            b'?' => Token::One,
            b'\\' => match rest.split_first() {
                Some((next, tail)) => {
                    rest = tail;
                    Token::Literal(*next)
                }
                None => Token::Literal(b'\\'),
            },
            b'[' => match parse_class(rest) {
                Some((class, tail)) => {
                    rest = tail;
                    class
                }
                None => Token::Literal(b'['),
            },
            literal => Token::Literal(*literal),
        });
    }
    tokens
}

/// What stands after `[`; `None` without a closing bracket. A `]` that comes first is itself a member.
fn parse_class(text: &[u8]) -> Option<(Token, &[u8])> {
    let is_negated = matches!(text.first(), Some(b'!' | b'^'));
    let body = if is_negated { text.get(1..)? } else { text };
    let end = body.iter().skip(1).position(|byte| *byte == b']')?.saturating_add(1);
    let mut members = body.get(..end)?;
    let mut ranges = Vec::new();
    while let Some((low, tail)) = members.split_first() {
        if let [b'-', high, tail @ ..] = tail {
            ranges.push((*low, *high));
            members = tail;
        } else {
            ranges.push((*low, *low));
            members = tail;
        }
    }
    Some((Token::Class { ranges, is_negated }, body.get(end.saturating_add(1)..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_paths() {
        let table: [(&str, &str, bool); 20] = [
            ("hosts", "hosts", true),
            ("hosts", "x/hosts", false),
            ("/etc/hosts", "hosts", true),
            ("/hosts", "hosts", true),
            ("*", "a/b", false),
            ("*/b", "a/b", true),
            ("**", "a/b/c", true),
            ("**/c", "c", true),
            ("**/c", "a/b/c", true),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/b/b/c", true),
            ("a/**", "b/a", false),
            ("*.conf", "a.conf", true),
            ("*.conf", ".conf", true),
            ("a*b*c", "aXbYbZc", true),
            ("?", "", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("\\*", "x", false),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(matches(pattern.as_bytes(), path.as_bytes()), expected, "{pattern} {path}");
        }
        assert!(matches(b"\\*[", b"*["));
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = b"*a".repeat(2000);
        assert!(!matches(&pattern, &[b'a'; 1999]));
        assert!(!matches(&b"**/a/".repeat(500), &b"a/".repeat(499)));
    }

    #[test]
    fn the_first_pattern_that_matches_wins() {
        let rules = vec![(b"a/*".to_vec(), Strategy::Fail), (b"**".to_vec(), Strategy::New)];
        let policy = Policy::new(rules, Strategy::Current);
        assert_eq!(policy.choose(b"a/b"), Strategy::Fail);
        assert_eq!(policy.choose(b"b"), Strategy::New);
        assert_eq!(Policy::new(Vec::new(), Strategy::Current).choose(b"b"), Strategy::Current);
    }
}
