//! Samples, and the table they are printed in.

use std::time::Duration;

/// Durations of one kind.
#[derive(Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// The smallest sample that `part` of all do not exceed.
    pub fn quantile(&mut self, part: f64) -> Duration {
        assert!(!self.0.is_empty(), "nothing was measured");
        self.0.sort_unstable();
        let rank = (self.0.len() as f64 * part).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    pub fn median(&mut self) -> Duration {
        self.quantile(0.5)
    }
}

/// A line of the table: what, its quantiles, and a remark.
pub fn row(what: &str, samples: &mut Samples, remark: &str) {
    let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|part| shown(samples.quantile(part)));
    println!("  {what:<42} {p50:>9} {p90:>9} {p99:>9}  {remark}");
}

pub fn title(text: &str) {
    println!("\n{text}\n  {:<42} {:>9} {:>9} {:>9}", "", "p50", "p90", "p99");
}

/// A duration as people read it: three digits and a unit.
pub fn shown(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    if micros < 1000.0 { format!("{micros:.0} µs") } else { format!("{:.2} ms", micros / 1e3) }
}

/// `later` minus `earlier`, zero if it is not later.
pub fn since(later: std::time::Instant, earlier: std::time::Instant) -> Duration {
    later.saturating_duration_since(earlier)
}
