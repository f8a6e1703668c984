//! One record for each request or tunnel, which both logs and counts it, at its end and however it ends.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::{Histogram, IntCounter, IntGauge};
use tokio::time::Instant;

use super::error::{Code, ProxyError};
use super::failures::{Failure, Shard};
use super::lines::{Line, Lines};
use super::target::Target;
use super::trail::{Noted, Trail};
use crate::accounts::Slot;
use crate::drain::{Phase, Shutdown};
use crate::metrics::Metrics;
use crate::session::{Exit, Grant};

/// A request's id: 16 hexadecimal digits, random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestId(u64);

impl RequestId {
    /// A new one.
    pub(super) fn new() -> Self {
        Self(rand::random())
    }

    /// Its digits.
    pub(super) fn digits(self) -> [u8; 16] {
        std::array::from_fn(|n| {
            let digit = (self.0 >> (60 - 4 * n) & 0xf) as u8;
            digit + if digit < 10 { b'0' } else { b'a' - 10 }
        })
    }

    /// Appends it.
    pub(super) fn push_to(self, text: &mut String) {
        text.push_str(std::str::from_utf8(&self.digits()).unwrap_or_default());
    }

    #[cfg(test)]
    pub(super) const fn of(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

/// What kind of request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A CONNECT: a tunnel.
    Connect,
    /// A plain HTTP request.
    Http,
    /// Nothing that could be read as a request.
    None,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Http => "http",
            Self::None => "none",
        }
    }
}

/// How a request or tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answered, or relayed until both sides were done.
    Ok,
    /// Answered with an error of the gateway's own.
    Failed(Code),
    /// The client hung up before there was an answer.
    ClientGone,
    /// The client's side broke off in the middle.
    ClientReset,
    /// The exit's side broke off in the middle.
    UpstreamReset,
    /// The exit's pod went away.
    ExitGone,
    /// The account was removed, and its time to drain is over.
    AccountGone,
    /// Cut at the end of the drain.
    Cut,
    /// Nothing moved for an hour in a tunnel of which one side had ended, for a minute where the exit's was gone.
    Idle,
}

impl Outcome {
    /// The text in logs and metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed(code) => code.as_str(),
            Self::ClientGone => "client_gone",
            Self::ClientReset => "client_reset",
            Self::UpstreamReset => "upstream_reset",
            Self::ExitGone => "exit_gone",
            Self::AccountGone => "account_gone",
            Self::Cut => "cut",
            Self::Idle => "idle",
        }
    }

    /// What is told of it as a failure: the sentence, and what can be done. Nothing of what ends in good
    /// order or by the client's own doing.
    const fn told(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Failed(code) => Some(("refused", code.hint())),
            Self::ClientGone => Some((
                "the client hung up before there was an answer",
                "give the client more time, or a username with wait-: the last step says what was waited for",
            )),
            Self::UpstreamReset => Some((
                "the connection through the exit broke off",
                "mostly the destination's doing; the exit's, if it happens to all destinations",
            )),
            Self::ExitGone => Some((
                "the exit's pod went away and its tunnels with it",
                "connect again: a new exit is started; kubectl describe tells why a pod went",
            )),
            Self::AccountGone => Some((
                "the account was removed or disabled, and the time that its tunnels had is over",
                "ask the operator",
            )),
            Self::Ok | Self::ClientReset | Self::Cut | Self::Idle => None,
        }
    }
}

/// The metrics that a data thread counts in, looked up once.
pub(super) struct Counters {
    /// All of them, for what is rare.
    pub(super) metrics: Arc<Metrics>,
    shutdown: Shutdown,
    failures: Arc<Shard>,
    /// The thread's lines of the access log.
    pub(super) lines: Rc<Lines>,
    connect_ok: IntCounter,
    http_ok: IntCounter,
    warm: Histogram,
    cold: Histogram,
    bytes_up: IntCounter,
    bytes_down: IntCounter,
    /// Logins answered from memory.
    pub(super) logins_cached: IntCounter,
    /// Open tunnels.
    pub(super) tunnels: IntGauge,
}

impl Counters {
    /// Looks the metrics up.
    pub(super) fn new(metrics: Arc<Metrics>, shutdown: Shutdown, failures: Arc<Shard>) -> Self {
        Self {
            connect_ok: metrics.requests.with_label_values(&["connect", "ok"]),
            http_ok: metrics.requests.with_label_values(&["http", "ok"]),
            warm: metrics.hold_seconds.with_label_values(&["false"]),
            cold: metrics.hold_seconds.with_label_values(&["true"]),
            bytes_up: metrics.bytes.with_label_values(&["up"]),
            bytes_down: metrics.bytes.with_label_values(&["down"]),
            logins_cached: metrics.logins.with_label_values(&["cached"]),
            tunnels: metrics.tunnels_open.clone(),
            metrics,
            shutdown,
            failures,
            lines: Rc::default(),
        }
    }

    /// Counts bytes that went through an exit.
    pub(super) fn bytes(&self, exit: &Exit, up: u64, down: u64) {
        if up > 0 {
            exit.traffic.add_up(up);
            self.bytes_up.inc_by(up);
        }
        if down > 0 {
            exit.traffic.add_down(down);
            self.bytes_down.inc_by(down);
        }
    }
}

/// The record of one request or tunnel. Fill it in on the way; [`Record::finish`] ends it, and so does
/// dropping it: a request that is cut still leaves its line.
pub(super) struct Record {
    counters: Rc<Counters>,
    /// The request's id.
    pub(super) id: RequestId,
    /// What kind of request it is.
    pub(super) kind: Kind,
    /// Who asks.
    pub(super) client: SocketAddr,
    /// When the request's head was complete, and its steps since.
    pub(super) trail: Trail,
    /// The method of a request that hyper has read.
    pub(super) method: Option<http::Method>,
    /// The account, once it has proved who it is.
    pub(super) account: Option<Arc<str>>,
    /// What it asks for.
    pub(super) selector: Option<Arc<str>>,
    /// Where to.
    pub(super) target: Option<Target>,
    /// Status of the answer, 0 for none.
    pub(super) status: u16,
    /// Bytes towards the exit.
    pub(super) up: u64,
    /// Bytes towards the client.
    pub(super) down: u64,
    /// What it counts as if it is dropped.
    pub(super) on_drop: Outcome,
    /// What it takes of its account's tunnels.
    pub(super) slot: Option<Slot>,
    /// Name of the session's claim, once it matters.
    pub(super) session: Option<Arc<str>>,
    /// The answer that told a failure.
    error: Option<Box<ProxyError>>,
    exit: Option<Arc<Exit>>,
    held: Option<Duration>,
    cold: bool,
    finished: bool,
}

impl Record {
    /// Begins a record.
    pub(super) fn new(counters: &Rc<Counters>, kind: Kind, client: SocketAddr) -> Self {
        Self {
            counters: Rc::clone(counters),
            id: RequestId::new(),
            kind,
            client,
            trail: Trail::new(Instant::now()),
            method: (kind == Kind::Connect).then_some(http::Method::CONNECT),
            account: None,
            selector: None,
            target: None,
            status: 0,
            up: 0,
            down: 0,
            on_drop: Outcome::ClientGone,
            slot: None,
            session: None,
            error: None,
            exit: None,
            held: None,
            cold: false,
            finished: false,
        }
    }

    /// The request got an exit. On a retry the times add up and the last exit counts.
    pub(super) fn granted(&mut self, grant: &Grant) {
        self.session = Some(Arc::clone(grant.exit.session()));
        self.exit = Some(Arc::clone(&grant.exit));
        self.held = Some(self.held.unwrap_or_default() + grant.waited);
        self.cold |= grant.cold_start;
    }

    /// The request was held for so long and got no exit.
    pub(super) fn held_in_vain(&mut self, held: Duration) {
        self.held = Some(self.held.unwrap_or_default() + held);
        self.cold = true;
    }

    /// Counts bytes that went through the record's exit.
    pub(super) fn add_bytes(&mut self, up: u64, down: u64) {
        self.up += up;
        self.down += down;
        if let Some(exit) = &self.exit {
            self.counters.bytes(exit, up, down);
        }
    }

    /// Whether its tunnel lost one of its ends in the middle and not by a drain: for the log alone.
    fn dropped_outcome(&self) -> Outcome {
        // Before the answer a drop means that the client hung up; after it, that the thread ended.
        if self.counters.shutdown.phase() == Phase::Force { Outcome::Cut } else { self.on_drop }
    }

    /// Ends the record: the line in the log and the counts.
    pub(super) fn finish(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    /// Ends the record of a request that got an error for an answer.
    pub(super) fn fail(mut self, error: &ProxyError) {
        self.status = error.code.status();
        self.error = Some(Box::new(error.clone()));
        self.end(Outcome::Failed(error.code));
    }

    /// Keeps what went wrong, for whoever asks.
    fn keep(&mut self, outcome: Outcome, took: Duration) {
        let Some((message, hint)) = outcome.told() else { return };
        let error = self.error.take();
        let (message, hint) = match error {
            Some(error) => (error.message, error.hint),
            None => (Cow::Borrowed(message), Cow::Borrowed(hint)),
        };
        let retryable = match outcome {
            Outcome::Failed(code) => code.retryable(),
            Outcome::ClientGone | Outcome::UpstreamReset | Outcome::ExitGone => true,
            Outcome::Ok | Outcome::ClientReset | Outcome::AccountGone | Outcome::Cut | Outcome::Idle => false,
        };
        let steps: Vec<Noted> = self.trail.take();
        self.counters.failures.keep(Failure {
            request_id: self.id.to_string().into_boxed_str(),
            began: SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH),
            took,
            account: self.account.clone(),
            selector: self.selector.clone(),
            session: self.session.clone(),
            client: self.client,
            method: self.method.clone(),
            target: self.target.as_ref().map(|target| target.as_str().into()),
            exit: self.exit.as_ref().map(|exit| (Arc::clone(&exit.pod), Arc::clone(&exit.server))),
            code: outcome.as_str(),
            status: (self.status > 0).then_some(self.status),
            message,
            hint,
            retryable,
            steps,
        });
    }

    fn end(&mut self, outcome: Outcome) {
        self.finished = true;
        // Before it is counted and logged: whoever reads that the request is over finds its place free.
        self.slot = None;
        let counters = &self.counters;
        match (self.kind, outcome) {
            (Kind::Connect, Outcome::Ok) => counters.connect_ok.inc(),
            (Kind::Http, Outcome::Ok) => counters.http_ok.inc(),
            (kind, outcome) => {
                counters.metrics.requests.with_label_values(&[kind.as_str(), outcome.as_str()]).inc();
            }
        }
        if let Some(held) = self.held {
            if self.cold { &counters.cold } else { &counters.warm }.observe(held.as_secs_f64());
        }
        let took = self.trail.begun().elapsed();
        self.keep(outcome, took);
        let line = Line {
            ended: SystemTime::now(),
            id: self.id,
            kind: self.kind,
            client: self.client,
            account: self.account.take(),
            selector: self.selector.take(),
            session: self.session.take(),
            exit: self.exit.take(),
            target: self.target.take(),
            status: self.status,
            outcome,
            up: self.up,
            down: self.down,
            held: self.held.unwrap_or_default(),
            took,
        };
        self.counters.lines.add(line);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.finished {
            self.end(self.dropped_outcome());
        }
    }
}
