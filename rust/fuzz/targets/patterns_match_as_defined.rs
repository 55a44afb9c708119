//! The policy's matcher, which goes back to one point only, says what a matcher that tries everything says.
#![no_main]

use bootc_fast_core::etc::policy::matches;
use libfuzzer_sys::fuzz_target;

/// The definition, in exponential time: `*`, `?` and literal bytes within a component; classes and escapes are left
/// out of these patterns.
fn component(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|taken| component(rest, &name[taken..])),
        Some((byte, rest)) => name
            .split_first()
            .is_some_and(|(first, name)| (*byte == b'?' || byte == first) && component(rest, name)),
    }
}

fn components(pattern: &[&[u8]], names: &[&[u8]]) -> bool {
    match pattern.split_first() {
        None => names.is_empty(),
        Some((part, rest)) if *part == b"**" => {
            (0..=names.len()).any(|taken| components(rest, &names[taken..]))
        }
        Some((part, rest)) => {
            names.split_first().is_some_and(|(name, names)| component(part, name) && components(rest, names))
        }
    }
}

fuzz_target!(|data: &[u8]| {
    // Few letters make many near misses.
    let letters: Vec<u8> = data.iter().take(24).map(|byte| b"ab/*?**/"[usize::from(byte % 8)]).collect();
    let at = letters.len() / 2;
    let (pattern, path) = letters.split_at(at);
    let path: Vec<u8> = path.iter().map(|byte| if b"*?".contains(byte) { b'a' } else { *byte }).collect();
    let stripped = pattern.strip_prefix(b"/etc/").or_else(|| pattern.strip_prefix(b"/")).unwrap_or(pattern);
    let parts: Vec<_> = stripped.split(|byte| *byte == b'/').collect();
    let names: Vec<_> = path.split(|byte| *byte == b'/').collect();
    assert_eq!(matches(pattern, &path), components(&parts, &names), "{pattern:?} {path:?}");
});
