//! The thread that writes log lines, and the bounded buffer before it.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus::IntCounter;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that wait to be written at most: at 500 bytes a line some 8 000 of them, which is
/// seconds of traffic at the rates that one gateway reaches.
const BUFFER: usize = 4 << 20;

/// What a buffer keeps of its room after a burst.
const KEEP: usize = 64 << 10;

/// How long lines are gathered after some were written. Waking the thread for each line would cost the data path
/// more than the line: a busy gateway wakes it fifty times a second, whatever it logs; the first line after a
/// silence is written at once.
const GATHER: Duration = Duration::from_millis(20);

/// How long the end of the process waits for the last lines: standard output may be a pipe that nobody
/// reads.
const FLUSH: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// The thread sleeps until it is told of a line.
    asleep: bool,
    /// No more lines will come.
    ended: bool,
    /// Everything has been written.
    written: bool,
}

struct Shared {
    buffer: Mutex<Buffer>,
    changed: Condvar,
    limit: usize,
    dropped: IntCounter,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes lines for the writing thread; what `tracing` formats into. Clones share the thread.
#[derive(Clone)]
pub struct LineWriter(Arc<Shared>);

impl std::fmt::Debug for LineWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LineWriter")
    }
}

impl Write for LineWriter {
    /// Takes a whole line or none of it, never waits, and never fails.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut buffer = self.0.lock();
        if buffer.ended || buffer.bytes.len() + line.len() > self.0.limit {
            drop(buffer);
            self.0.dropped.inc();
            return Ok(line.len());
        }
        buffer.bytes.extend_from_slice(line);
        // A thread that gathers looks again by itself, unless there is soon no room.
        let full =
            buffer.bytes.len() > self.0.limit / 2 && buffer.bytes.len() - line.len() <= self.0.limit / 2;
        let wake = std::mem::take(&mut buffer.asleep) || full;
        drop(buffer);
        if wake {
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

/// Writes the last lines when it is dropped, for at most two seconds. Lines that come later are dropped.
pub struct LogGuard {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogGuard")
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let mut buffer = self.shared.lock();
        buffer.ended = true;
        self.shared.changed.notify_all();
        let (buffer, late) = self
            .shared
            .changed
            .wait_timeout_while(buffer, FLUSH, |b| !b.written)
            .unwrap_or_else(PoisonError::into_inner);
        drop(buffer);
        if !late.timed_out()
            && let Some(thread) = self.thread.take()
        {
            // It has nothing left to do, so this does not block; a panic of it has nothing to tell.
            thread.join().ok();
        }
    }
}

/// Starts the thread. `dropped` counts lines that found no room.
pub(super) fn start(
    target: impl Write + Send + 'static,
    dropped: IntCounter,
) -> io::Result<(LineWriter, LogGuard)> {
    start_with(target, dropped, BUFFER)
}

fn start_with(
    target: impl Write + Send + 'static,
    dropped: IntCounter,
    limit: usize,
) -> io::Result<(LineWriter, LogGuard)> {
    let shared = Arc::new(Shared { buffer: Mutex::default(), changed: Condvar::new(), limit, dropped });
    let thread = std::thread::Builder::new().name("log".to_owned()).spawn({
        let shared = Arc::clone(&shared);
        move || run(&shared, target)
    })?;
    Ok((LineWriter(Arc::clone(&shared)), LogGuard { shared, thread: Some(thread) }))
}

fn run(shared: &Shared, mut target: impl Write) {
    // Swapped with the buffer, so that neither is allocated anew and one write takes all that waited.
    let mut bytes = Vec::new();
    loop {
        let mut buffer = shared.lock();
        while buffer.bytes.is_empty() {
            if buffer.ended {
                buffer.written = true;
                shared.changed.notify_all();
                return;
            }
            buffer.asleep = true;
            buffer = shared.changed.wait(buffer).unwrap_or_else(PoisonError::into_inner);
        }
        buffer.asleep = false;
        std::mem::swap(&mut buffer.bytes, &mut bytes);
        drop(buffer);
        // Standard output is gone or full: there is nobody to tell.
        target.write_all(&bytes).and_then(|()| target.flush()).ok();
        bytes.clear();
        bytes.shrink_to(KEEP);
        let gathering = |b: &mut Buffer| !b.ended && b.bytes.len() <= shared.limit / 2;
        let gathered = shared.changed.wait_timeout_while(shared.lock(), GATHER, gathering);
        drop(gathered.unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::tests::Kept;
    use super::*;

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    #[test]
    fn lines_of_many_threads_are_all_there_at_the_end() {
        let kept = Kept::default();
        let (lines, guard) = start(kept.clone(), counter()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let mut lines = lines.clone();
                scope.spawn(move || {
                    for n in 0..1000 {
                        lines.write_all(format!("{thread} {n}\n").as_bytes()).unwrap();
                    }
                });
            }
        });
        drop(guard);
        let text = kept.text();
        let mut seen: Vec<&str> = text.lines().collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 4000);
    }

    /// A terminal that takes nothing until it is told to.
    struct Stuck {
        entered: mpsc::Sender<()>,
        go: mpsc::Receiver<()>,
        kept: Kept,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.entered.send(()).ok();
            self.go.recv().ok();
            self.kept.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_target_blocks_nobody_and_drops_are_counted() {
        let (entered, has_entered) = mpsc::channel();
        let (go, may_go) = mpsc::channel();
        let kept = Kept::default();
        let dropped = counter();
        let stuck = Stuck { entered, go: may_go, kept: kept.clone() };
        let (mut lines, guard) = start_with(stuck, dropped.clone(), 10).unwrap();
        lines.write_all(b"first\n").unwrap();
        has_entered.recv().unwrap();
        // The thread hangs with the first line; the buffer has room for one more.
        lines.write_all(b"second\n").unwrap();
        lines.write_all(b"third\n").unwrap();
        assert_eq!(dropped.get(), 1);
        drop(go);
        drop(guard);
        assert_eq!(kept.text(), "first\nsecond\n");
        lines.write_all(b"late\n").unwrap();
        assert_eq!(dropped.get(), 2, "after the end nothing is taken");
    }
}
