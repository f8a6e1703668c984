//! The lines of the access log of one data thread: the line of a request, and how a busy thread gathers some before it
//! writes them: one after the other they cost less than one at a time between what else a tunnel needs, which was 3 % of
//! its CPU (docs/performance.md). Called by `record`, which makes the lines, and `listener`, which runs the thread's task
//! for them.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::record::{Kind, Outcome, RequestId};
use super::target::{Target, push_v4};
use crate::session::Exit;
use crate::telemetry::{ACCESS, Members, at, name};

/// How long lines are gathered after one was written; a line that comes alone is written at once.
const GATHER: Duration = Duration::from_millis(20);

/// Lines that are gathered at most: writing them, some 300 000 instructions, holds the thread up.
const MOST: usize = 64;

/// What the access log tells of a request or tunnel.
pub(super) struct Line {
    pub(super) ended: SystemTime,
    pub(super) id: RequestId,
    pub(super) kind: Kind,
    pub(super) client: SocketAddr,
    pub(super) account: Option<Arc<str>>,
    pub(super) selector: Option<Arc<str>>,
    pub(super) session: Option<Arc<str>>,
    pub(super) exit: Option<Arc<Exit>>,
    pub(super) target: Option<Target>,
    pub(super) status: u16,
    pub(super) outcome: Outcome,
    pub(super) up: u64,
    pub(super) down: u64,
    pub(super) held: Duration,
    pub(super) took: Duration,
}

impl Line {
    fn write(&self) {
        at(self.ended, || tracing::info!(target: ACCESS, fields = ?self, "request"));
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Members::new(f);
        line.word(name!("request_id"), std::str::from_utf8(&self.id.digits()).unwrap_or_default());
        line.word(name!("kind"), self.kind.as_str());
        line.word(name!("client"), &shown(self.client));
        line.text(name!("account"), self.account.as_deref());
        line.text(name!("selector"), self.selector.as_deref());
        line.text(name!("session"), self.session.as_deref());
        line.text(name!("exit"), self.exit.as_ref().map(|exit| &*exit.server));
        line.text(name!("destination"), self.target.as_ref().map(Target::as_str));
        line.number(name!("status"), self.status.into());
        line.text(name!("outcome"), Some(self.outcome.as_str()));
        line.number(name!("bytes_up"), self.up);
        line.number(name!("bytes_down"), self.down);
        line.number(name!("held_ms"), millis(self.held));
        line.number(name!("duration_ms"), millis(self.took));
        line.finish(f)
    }
}

/// A client's address for the log, as its own `Display` writes it.
fn shown(client: SocketAddr) -> String {
    let SocketAddr::V4(addr) = client else { return client.to_string() };
    let mut shown = String::with_capacity("255.255.255.255:65535".len());
    push_v4(&mut shown, *addr.ip());
    shown.push(':');
    shown.push_str(itoa::Buffer::new().format(addr.port()));
    shown
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The lines of one data thread.
#[derive(Default)]
pub(super) struct Lines {
    gathered: RefCell<Vec<Line>>,
    state: Cell<State>,
    first: Notify,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Nobody would write what is gathered.
    #[default]
    Alone,
    /// No line has come for a while.
    Quiet,
    /// What comes is gathered.
    Gathering,
}

impl Lines {
    /// Writes a line: at once, or soon.
    pub(super) fn add(&self, line: Line) {
        if self.state.get() == State::Gathering {
            let mut gathered = self.gathered.borrow_mut();
            gathered.push(line);
            let full = gathered.len() >= MOST;
            drop(gathered);
            if full {
                self.flush();
            }
            return;
        }
        line.write();
        if self.state.get() == State::Quiet {
            self.state.set(State::Gathering);
            self.first.notify_one();
        }
    }

    /// Writes what is gathered; false if that is nothing.
    fn flush(&self) -> bool {
        let mut lines = self.gathered.take();
        let some = !lines.is_empty();
        lines.drain(..).for_each(|line| line.write());
        // Its room is kept. Writing a line makes no other one.
        self.gathered.replace(lines);
        some
    }

    /// Writes gathered lines, for as long as the thread lives.
    pub(super) async fn run(self: Rc<Self>) {
        self.state.set(State::Quiet);
        let lines = Running(self);
        loop {
            lines.0.first.notified().await;
            loop {
                tokio::time::sleep(GATHER).await;
                if !lines.0.flush() {
                    break;
                }
            }
            lines.0.state.set(State::Quiet);
        }
    }
}

/// The task of [`Lines::run`]. What ends after it is written at once.
struct Running(Rc<Lines>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.state.set(State::Alone);
        self.0.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::runtime::{Builder, LocalOptions};
    use tokio::time::{Instant, sleep};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

    use super::*;

    /// Counts what is logged.
    #[derive(Clone, Default)]
    struct Count(Arc<AtomicUsize>);

    impl<S: tracing::Subscriber> Layer<S> for Count {
        fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn line(id: u64) -> Line {
        Line {
            ended: SystemTime::now(),
            id: RequestId::of(id),
            kind: Kind::Connect,
            client: "192.0.2.1:5".parse().unwrap(),
            account: Some("alice".into()),
            selector: None,
            session: None,
            exit: None,
            target: None,
            status: 200,
            outcome: Outcome::Ok,
            up: 1,
            down: 2,
            held: Duration::ZERO,
            took: Duration::from_micros(3999),
        }
    }

    #[test]
    fn a_busy_thread_gathers_and_loses_nothing() {
        let seen = Count::default();
        let _log = tracing::subscriber::set_default(tracing_subscriber::registry().with(seen.clone()));
        let mut runtime = Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build_local(LocalOptions::default()).unwrap();
        let lines = Rc::new(Lines::default());
        let count = || seen.0.load(Ordering::Relaxed);
        lines.add(line(0));
        lines.add(line(1));
        assert_eq!(count(), 2, "without its task nothing is gathered");
        runtime.block_on(async {
            let begun = Instant::now();
            let task = tokio::task::spawn_local(Rc::clone(&lines).run());
            tokio::task::yield_now().await;
            lines.add(line(2));
            assert_eq!(count(), 3, "the first is written at once");
            lines.add(line(3));
            lines.add(line(4));
            assert_eq!(count(), 3);
            sleep(GATHER + Duration::from_millis(1)).await;
            assert_eq!(count(), 5);
            (0..MOST as u64).for_each(|n| lines.add(line(5 + n)));
            assert_eq!(count(), 5 + MOST, "no more are gathered than that");
            sleep(3 * GATHER).await;
            assert!(begun.elapsed() < 10 * GATHER);
            lines.add(line(100));
            assert_eq!(count(), 6 + MOST, "and after a silence again");
            lines.add(line(101));
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
            assert_eq!(count(), 7 + MOST, "what is left at the end");
            lines.add(line(102));
            assert_eq!(count(), 8 + MOST);
        });
    }

    #[test]
    fn a_line_has_its_fields_in_both_forms() {
        let line = line(3);
        assert_eq!(
            format!("{line:#?}"),
            ",\"request_id\":\"0000000000000003\",\"kind\":\"connect\",\"client\":\"192.0.2.1:5\",\"account\":\"alice\",\
             \"status\":200,\"outcome\":\"ok\",\"bytes_up\":1,\"bytes_down\":2,\"held_ms\":0,\"duration_ms\":3"
        );
        assert_eq!(
            format!("{line:?}"),
            "request_id=0000000000000003 kind=connect client=192.0.2.1:5 account=\"alice\" status=200 outcome=\"ok\" \
             bytes_up=1 bytes_down=2 held_ms=0 duration_ms=3"
        );
    }
}
