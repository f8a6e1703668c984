//! Bytes looked at eight at a time: the heads of requests and the lines of the log, byte by byte, took a tenth of a
//! request's instructions. Without vector instructions, which the compiler makes of a loop only when it does not
//! mind the size. Called by `proxy::head` and `telemetry::json`.

/// Each of eight bytes is one.
const ONES: u64 = u64::MAX / 0xff;

/// Where the first of `bytes` is that `of` finds among eight of them. `of` says it by the highest bit of the byte, and
/// may be wrong above the lowest that it finds. A space is none that it looks for.
pub(crate) fn first(bytes: &[u8], of: impl Fn(u64) -> u64) -> Option<usize> {
    let within = |eight| match of(u64::from_le_bytes(eight)) {
        0 => None,
        found => Some(found.trailing_zeros() as usize / 8),
    };
    let (chunks, rest) = bytes.as_chunks();
    let mut at = 0;
    for chunk in chunks {
        if let Some(found) = within(*chunk) {
            return Some(at + found);
        }
        at += 8;
    }
    let mut last = [b' '; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    within(last).map(|found| at + found)
}

/// Which of eight bytes are below `least`, which is at most 0x80.
const fn below(eight: u64, least: u8) -> u64 {
    // A byte borrows from the next one only if it is less, and then it is the lower one that is found.
    eight.wrapping_sub(ONES * least as u64) & !eight & (ONES << 7)
}

/// Which of eight bytes are this one.
pub(crate) const fn equal(eight: u64, byte: u8) -> u64 {
    below(eight ^ (ONES * byte as u64), 1)
}

/// Which of eight bytes are control characters of ASCII.
pub(crate) const fn controls(eight: u64) -> u64 {
    below(eight, b' ') | equal(eight, 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn the_first_is_found_wherever_it_is(bytes in proptest::collection::vec(0_u8..=255, 0..40), byte in 0_u8..=255) {
            let control = |b: &u8| matches!(b, 0..=0x1f | 0x7f);
            proptest::prop_assert_eq!(first(&bytes, controls), bytes.iter().position(control));
            if byte != b' ' {
                let found = first(&bytes, |eight| equal(eight, byte));
                proptest::prop_assert_eq!(found, bytes.iter().position(|b| *b == byte));
            }
        }
    }

    #[test]
    fn of_two_neighbours_the_first_is_found() {
        for pair in [[0x1f, 0x20], [0, 1], [0x20, 0x1f], [0x7f, 0x80], [0x80, 0x7f], [0x7f, 0x7e], [0xff, 0]]
        {
            for at in 0..15 {
                let mut bytes = [b'x'; 16];
                bytes[at..at + 2].copy_from_slice(&pair);
                let expected = bytes.iter().position(|b| matches!(b, 0..=0x1f | 0x7f));
                assert_eq!(first(&bytes, controls), expected, "{pair:?} at {at}");
            }
        }
    }
}
