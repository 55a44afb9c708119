//! CRC-32C as the kernel's `crc32c()` computes it: reflected, no final inversion.

const TABLE: [u32; 256] = table();

#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)] // evaluated by the compiler, bounds included
const fn table() -> [u32; 256] {
    let mut table = [0u32; 256];
    let mut byte = 0u32;
    while byte < 256 {
        let mut value = byte;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[byte as usize] = value;
        byte += 1;
    }
    table
}

/// Continues `crc` over `data`.
pub fn crc32c(crc: u32, data: &[u8]) -> u32 {
    data.iter().fold(crc, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        let entry = TABLE.get(usize::from(low ^ byte)).copied().unwrap_or_default();
        entry ^ crc >> 8
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn equals_the_published_check_value() {
        // "123456789" is every CRC catalogue's check input; this one is inverted at the end there.
        assert_eq!(!super::crc32c(!0, b"123456789"), 0xe306_9283);
    }
}
