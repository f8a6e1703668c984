//! The time of a log line: now, or that of which it tells, where it is written later. Called by the formats; `proxy::lines`
//! writes later.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::time::SystemTime;

thread_local! {
    /// The time of this thread's lines, where it is not that of their writing.
    static TIME: Cell<Option<SystemTime>> = const { Cell::new(None) };

    /// The second of this thread's last line, since 1970, and how it is written.
    static SECOND: Cell<(u64, [u8; SECOND_LENGTH])> = const { Cell::new((u64::MAX, [0; SECOND_LENGTH])) };
}

const SECOND_LENGTH: usize = "2026-11-25T13:28:00".len();

/// Logs as if it were `time`: for a line that is written later than what it tells of.
pub(crate) fn at(time: SystemTime, log: impl FnOnce()) {
    TIME.set(Some(time));
    log();
    TIME.set(None);
}

/// Appends the time of this thread's next line, in UTC with microseconds (RFC 3339). Fails behind the year 9999.
pub(super) fn push(line: &mut String) -> fmt::Result {
    push_time(line, TIME.get().unwrap_or_else(SystemTime::now))
}

fn push_time(line: &mut String, time: SystemTime) -> fmt::Result {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (mut second, mut text) = SECOND.get();
    if second != since.as_secs() {
        second = since.as_secs();
        let mut whole = String::with_capacity(SECOND_LENGTH + 1);
        write!(whole, "{}", humantime::format_rfc3339_seconds(time))?;
        text.iter_mut().zip(whole.as_bytes()).for_each(|(to, from)| *to = *from);
        SECOND.set((second, text));
    }
    line.push_str(std::str::from_utf8(&text).unwrap_or_default());
    // One more in front, so that there are as many digits as are needed.
    let mut digits = itoa::Buffer::new();
    line.push('.');
    line.push_str(digits.format(1_000_000 + since.subsec_micros()).get(1..).unwrap_or_default());
    line.push('Z');
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_as_the_library_does() {
        let time = |micros| SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
        for micros in [
            0,
            1,
            999_999,
            1_000_000,
            1_000_001,
            0,
            1_795_000_000_123_456,
            1_795_000_000_900_000,
            1_795_000_001_000_000,
            1_582_934_400_000_000,
            253_402_300_799_999_999,
        ] {
            let mut line = String::new();
            push_time(&mut line, time(micros)).unwrap();
            assert_eq!(line, humantime::format_rfc3339_micros(time(micros)).to_string());
        }
        assert!(push_time(&mut String::new(), time(253_402_300_800_000_000)).is_err());
    }
}
