//! Times: now in the two precisions of Kubernetes, and how long ago something was, as kubectl shows it.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// Now, to the second: `creationTimestamp` and its like (`metav1.Time`).
pub(super) fn now() -> String {
    seconds(Timestamp::now())
}

/// A time to the second.
pub(super) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time moved by some seconds.
pub(super) fn moved(time: Timestamp, by: i64) -> String {
    seconds(time.checked_add(SignedDuration::from_secs(by)).unwrap_or(time))
}

/// Reads a time; nothing if it is none.
pub(super) fn parse(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// How long ago a time was: `5s`, `3m20s`, `2d4h`; `<unknown>` if there is none.
pub(super) fn since(value: &Value) -> String {
    parse(value).map_or_else(|| "<unknown>".into(), |time| human(Timestamp::now().duration_since(time)))
}

/// A duration as Kubernetes' `duration.HumanDuration` writes it: two units at most.
pub(super) fn human(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |big: i64, big_unit: char, small: i64, small_unit: char| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, 'd', hours % 24, 'h'),
        () if days < 730 => format!("{days}d"),
        () if days < 8 * 365 => two(days / 365, 'y', days % 365, 'd'),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_read_as_in_kubectl() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (36_000, "10h"),
            (172_800, "2d"),
            (187_200, "2d4h"),
            (864_000, "10d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (315_360_000, "10y"),
        ] {
            assert_eq!(human(SignedDuration::from_secs(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn times_are_whole_seconds() {
        let time: Timestamp = "2026-01-01T00:00:05.9Z".parse().unwrap();
        assert_eq!(seconds(time), "2026-01-01T00:00:05Z");
        assert_eq!(moved(time, -5), "2026-01-01T00:00:00Z");
        assert_eq!(since(&json!(null)), "<unknown>");
        assert!(parse(&json!(now())).is_some());
    }
}
