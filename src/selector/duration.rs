//! Times in usernames, in the accounts file and in the management API: a whole number and a unit.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Why a value is not a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A bare number: the vendors' mean minutes or seconds, so it is refused rather than guessed.
    NoUnit,
    /// Anything else.
    Form,
}

/// Reads `30s`, `5m`, `2h` or `7d`. Numbers beyond any range come out as `Duration::MAX`, for the
/// caller to refuse.
///
/// # Errors
/// As [`Fault`] says.
pub fn parse(text: &str) -> Result<Duration, Fault> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or(Fault::Form)?;
    if number.is_empty() {
        return Err(Fault::Form);
    }
    let seconds = match unit {
        "" => return Err(Fault::NoUnit),
        "s" | "S" => 1,
        "m" | "M" => MINUTE,
        "h" | "H" => HOUR,
        "d" | "D" => DAY,
        _ => return Err(Fault::Form),
    };
    let total = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    Ok(total.map_or(Duration::MAX, Duration::from_secs))
}

/// Writes a time in the largest unit that divides it.
#[must_use]
pub fn text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    for (unit, name) in [(DAY, "d"), (HOUR, "h"), (MINUTE, "m")] {
        if seconds > 0 && seconds.is_multiple_of(unit) {
            return format!("{}{name}", seconds / unit);
        }
    }
    format!("{seconds}s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_a_number_and_a_unit() {
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("5M"), Ok(Duration::from_secs(300)));
        assert_eq!(parse("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
        assert_eq!(parse("99999999999999999999d"), Ok(Duration::MAX));
        assert_eq!(parse("30"), Err(Fault::NoUnit));
        for text in ["", "s", "m5", "1.5h", "5min", "1h30m", "500ms", "-1s", "5\u{e4}"] {
            assert_eq!(parse(text), Err(Fault::Form), "{text}");
        }
    }

    #[test]
    fn prints_in_the_largest_unit() {
        for written in ["0s", "30s", "90s", "5m", "90m", "24h", "2d"] {
            let parsed = parse(written).unwrap();
            assert_eq!(parse(&text(parsed)).unwrap(), parsed);
        }
        assert_eq!(text(Duration::from_secs(90)), "90s");
        assert_eq!(text(Duration::from_secs(86_400)), "1d");
    }
}
