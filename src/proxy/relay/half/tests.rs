//! A direction between ends that are ready when chance will have it: whatever happens in whatever order, the sink
//! gets the bytes of the source, in order and once; a task that waits is registered with whom it waits for; and one
//! that waits for its source holds nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::proxy::buffers::SPLICE;

/// What chance has decided on for one run.
#[derive(Clone, Copy, Debug)]
struct Plan {
    total: usize,
    /// The source breaks off after so many bytes.
    source_breaks: Option<usize>,
    /// The sink takes no more after so many.
    sink_breaks: Option<usize>,
    /// Whether the source can be spliced.
    splices: bool,
}

struct FakeSource {
    rng: StdRng,
    plan: Plan,
    bytes: Vec<u8>,
    at: usize,
    /// Bytes that have arrived and not been taken.
    here: usize,
    waited_for: bool,
    spliced: usize,
}

impl FakeSource {
    /// More arrives: a little, a segment, or a flood.
    fn arrive(&mut self) {
        let most = [1, 100, 9_000, 70_000, 2_000_000][self.rng.random_range(0..5)];
        self.here += self.rng.random_range(1..=most);
        self.waited_for = false;
    }

    /// How much may be taken now of `most`.
    fn take(&mut self, most: usize) -> Poll<io::Result<usize>> {
        let end = self.plan.source_breaks.unwrap_or(self.plan.total).min(self.plan.total);
        let here = self.here.min(end - self.at).min(most);
        if here > 0 {
            // Now and then less than there is, as after a signal.
            let n = if self.rng.random_bool(0.1) { self.rng.random_range(1..=here) } else { here };
            self.here -= n;
            return Poll::Ready(Ok(n));
        }
        if self.here == 0 && self.rng.random_bool(0.9) {
            self.waited_for = true;
            return Poll::Pending;
        }
        if self.at < end {
            self.waited_for = true;
            return Poll::Pending;
        }
        match self.plan.source_breaks {
            Some(_) => Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
            None => Poll::Ready(Ok(0)),
        }
    }
}

impl Source for FakeSource {
    fn poll_read(&mut self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let n = ready!(self.take(buffer.len()))?;
        buffer[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Poll::Ready(Ok(n))
    }

    fn poll_fill(&mut self, _: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        assert!(pipe.is_empty(), "a full pipe looks like a source that has nothing");
        if !self.plan.splices {
            return Poll::Ready(Err(ErrorKind::InvalidInput.into()));
        }
        let n = ready!(self.take(SPLICE))?;
        if n > 0 {
            assert_eq!(pipe.fill_with(&self.bytes[self.at..self.at + n]), n);
        }
        self.at += n;
        self.spliced += n;
        Poll::Ready(Ok(n))
    }
}

struct FakeSink {
    rng: StdRng,
    plan: Plan,
    got: Vec<u8>,
    waited_for: bool,
    room: usize,
    shutdowns: u32,
}

impl FakeSink {
    fn make_room(&mut self) {
        let most = [1, 5_000, 300_000, 3_000_000][self.rng.random_range(0..4)];
        self.room += self.rng.random_range(1..=most);
        self.waited_for = false;
    }

    fn take(&mut self, most: usize) -> Poll<io::Result<usize>> {
        let left = self.plan.sink_breaks.map_or(usize::MAX, |at| at - self.got.len());
        if left == 0 {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let n = most.min(self.room).min(left);
        if n == 0 {
            self.waited_for = true;
            return Poll::Pending;
        }
        let n = if self.rng.random_bool(0.2) { self.rng.random_range(1..=n) } else { n };
        self.room -= n;
        Poll::Ready(Ok(n))
    }
}

impl Sink for FakeSink {
    fn poll_write(&mut self, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        assert!(!bytes.is_empty());
        let n = ready!(self.take(bytes.len()))?;
        self.got.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_drain(&mut self, _: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        assert!(!pipe.is_empty());
        let n = ready!(self.take(usize::MAX))?;
        Poll::Ready(Ok(pipe.drain_into(&mut self.got, n)))
    }

    fn shutdown(&mut self) -> io::Result<()> {
        self.shutdowns += 1;
        Ok(())
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs one direction to its end. How many bytes were spliced.
fn run(seed: u64, early: usize, plan: Plan, buffers: &Buffers) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut bytes = vec![0; plan.total];
    rng.fill(&mut bytes[..]);
    let expected = bytes.clone();
    let mut half = Half::with(bytes[..early].to_vec());
    let mut source = FakeSource {
        rng: StdRng::seed_from_u64(seed ^ 1),
        plan,
        bytes,
        at: early,
        here: 0,
        waited_for: false,
        spliced: 0,
    };
    let mut sink = FakeSink {
        rng: StdRng::seed_from_u64(seed ^ 2),
        plan,
        got: Vec::new(),
        waited_for: false,
        room: 0,
        shutdowns: 0,
    };
    let woken = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&woken));
    let last = rng.random_bool(0.5);
    let mut moved = 0;
    let end = loop {
        woken.0.store(false, Ordering::Relaxed);
        let (taken, spliced) = (source.at, source.spliced);
        let mut cx = Context::from_waker(&waker);
        let polled = half.poll(&mut cx, &mut source, &mut sink, buffers, last, &mut moved);
        let spliced = source.spliced - spliced;
        let copied = source.at - taken - spliced;
        let most = TURN + SPLICE.max(SIZE * COPIED);
        assert!(spliced + copied * COPIED < most, "one turn spliced {spliced} bytes and copied {copied}");
        assert_eq!(moved, sink.got.len() as u64, "what is reported is what was given");
        if let Poll::Ready(end) = polled {
            break end;
        }
        let again = woken.0.load(Ordering::Relaxed);
        assert!(again || source.waited_for || sink.waited_for, "it waits for nobody");
        if source.waited_for {
            assert!(half.blocked.is_none(), "an idle direction holds something");
            assert_eq!(sink.got.len(), source.at, "it reads on before what it has is given");
        }
        if source.waited_for && (!again || rng.random_bool(0.7)) {
            source.arrive();
        }
        if sink.waited_for && (!again || rng.random_bool(0.7)) {
            sink.make_room();
        }
    };
    assert!(expected.starts_with(&sink.got), "the bytes are others");
    match end {
        Ok(()) => {
            assert_eq!(sink.got.len(), plan.total);
            assert!(plan.source_breaks.is_none() && plan.sink_breaks.is_none_or(|at| at >= plan.total));
            assert_eq!(sink.shutdowns, u32::from(!last));
        }
        Err(Broken::Source) => assert_eq!(Some(sink.got.len()), plan.source_breaks.map(|at| at.max(early))),
        Err(Broken::Sink) => assert_eq!(Some(sink.got.len()), plan.sink_breaks),
    }
    drop(half);
    let (spare, open) = buffers.pipes();
    assert_eq!(spare, open, "a pipe is lost");
    source.spliced
}

fn plan(total: usize) -> Plan {
    Plan { total, source_breaks: None, sink_breaks: None, splices: true }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn the_sink_gets_what_the_source_has(
        seed: u64,
        total in 0_usize..1_000_000,
        early in 0_usize..20_000,
        source_breaks in proptest::option::weighted(0.2, 0_usize..1_000_000),
        sink_breaks in proptest::option::weighted(0.2, 0_usize..1_000_000),
        splices in proptest::bool::weighted(0.8),
        pipes in proptest::bool::weighted(0.8),
    ) {
        let early = early.min(total);
        let plan = Plan { total, source_breaks: source_breaks.filter(|at| (early..total).contains(at)), sink_breaks, splices };
        let buffers = if pipes { Buffers::default() } else { Buffers::without_pipes() };
        let spliced = run(seed, early, plan, &buffers);
        proptest::prop_assert!(spliced == 0 || (splices && pipes));
    }
}

#[test]
fn a_flood_is_spliced_and_a_trickle_copied() {
    let buffers = Buffers::default();
    let mut spliced = 0;
    for seed in 0..20 {
        spliced += run(seed, 0, plan(3_000_000), &buffers);
    }
    assert!(spliced > 20_000_000, "{spliced} of 60 million");
    assert_eq!(run(1, 0, plan(SIZE - 1), &buffers), 0, "nothing fills a buffer");
    assert_eq!(buffers.pipes(), (1, 1), "one pipe does for all");
}

#[test]
fn a_pipe_with_bytes_in_it_is_nobodys() {
    let buffers = Buffers::default();
    let mut pipe = buffers.take_pipe().unwrap();
    pipe.fill_with(b"secret");
    buffers.give_pipe(pipe);
    assert_eq!(buffers.pipes(), (0, 0));
}

#[test]
fn pipes_are_bounded() {
    let buffers = Buffers::default();
    let pipes: Vec<_> = std::iter::from_fn(|| buffers.take_pipe()).collect();
    assert!(!pipes.is_empty() && pipes.len() <= 64);
    pipes.into_iter().for_each(|pipe| buffers.give_pipe(pipe));
    let (spare, open) = buffers.pipes();
    assert_eq!(spare, open);
}
