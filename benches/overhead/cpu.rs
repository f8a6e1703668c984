//! The CPU time that the gateway's threads have used: it varies less than time does on a machine that is
//! busy with something else. Linux alone tells it (`/proc/self/task/*/schedstat`).

use std::time::Duration;

/// CPU time of this process's threads, by what they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// The gateway's data threads.
    pub data: Duration,
    /// The gateway's control plane.
    pub control: Duration,
    /// The rest: the cluster with its pods, the origin and the client.
    pub others: Duration,
}

impl Cpu {
    /// What has been used so far by threads that have not ended.
    pub fn now() -> Self {
        let mut used = Self::default();
        for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let nanos = read("schedstat").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
            let kind = match read("comm").trim() {
                "control" => &mut used.control,
                name if name.starts_with("proxy-") => &mut used.data,
                _ => &mut used.others,
            };
            *kind += Duration::from_nanos(nanos);
        }
        used
    }

    /// What one of `count` has used since `before`.
    pub fn each(self, before: Self, count: usize) -> Self {
        let count = u32::try_from(count).expect("not that many");
        Self {
            data: self.data.saturating_sub(before.data) / count,
            control: self.control.saturating_sub(before.control) / count,
            others: self.others.saturating_sub(before.others) / count,
        }
    }
}
