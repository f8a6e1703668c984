//! The relay over real loopback sockets: client and server are the far ends of its two connections.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::{JoinHandle, spawn_local};

use super::*;
use crate::proxy::buffers::Mode;
use crate::proxy::event::Event;

const HOUR: Duration = Duration::from_secs(3600);

thread_local! {
    /// How the rigs of this thread move bytes.
    static MODE: Cell<Mode> = const { Cell::new(Mode::Auto) };
}

/// Runs a test in each mode.
fn run<F: Future>(test: impl Fn() -> F) {
    for mode in [Mode::Copy, Mode::Auto, Mode::Splice] {
        println!("{mode:?}");
        MODE.set(mode);
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test()).await.unwrap() });
    }
}

/// Two ends of a connection, with small kernel buffers so that writes block soon.
async fn pair(small: bool) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    if small {
        socket.set_send_buffer_size(4096).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket2::SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
        socket2::SockRef::from(&listener).set_send_buffer_size(4096).unwrap();
    }
    let far = socket.connect(listener.local_addr().unwrap()).await.unwrap();
    let (near, _) = listener.accept().await.unwrap();
    (far, near)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bytes {
    up: u64,
    down: u64,
}

struct Rig {
    client: TcpStream,
    server: TcpStream,
    gone: Rc<Event>,
    buffers: Rc<Buffers>,
    moved: Rc<RefCell<Bytes>>,
    relay: JoinHandle<(End, Bytes)>,
}

impl Rig {
    async fn start(early: &[u8], half_idle: Duration, small: bool) -> Self {
        let (client, near_client) = pair(small).await;
        let (server, near_server) = pair(small).await;
        let gone = Rc::new(Event::default());
        let buffers = Rc::new(Buffers::new(MODE.get()));
        let moved = Rc::new(RefCell::new(Bytes::default()));
        let relay = spawn_local({
            let (mut relay, mut waiter) = (Relay::new(early.to_vec(), Vec::new(), 0), gone.waiter());
            let (buffers, bytes) = (Rc::clone(&buffers), Rc::clone(&moved));
            async move {
                let mut ends = Ends::new(near_client, near_server);
                let mut moved = |up, down| {
                    let mut bytes = bytes.borrow_mut();
                    bytes.up += up;
                    bytes.down += down;
                };
                let end = relay.run(&ends, &buffers, &mut waiter, half_idle, &mut moved).await;
                if matches!(end, End::Done | End::Linger) {
                    ends.close();
                }
                let bytes = *bytes.borrow();
                (end, bytes)
            }
        });
        Self { client, server, gone, buffers, moved, relay }
    }

    async fn new() -> Self {
        Self::start(b"", HOUR, false).await
    }
}

async fn expect(stream: &mut TcpStream, text: &[u8]) {
    let mut got = vec![0; text.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(text));
}

async fn expect_end(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
}

async fn expect_reset(stream: &mut TcpStream) {
    let error = stream.read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// As `expect_reset`, behind an end: reading then says that again, whatever comes after it.
async fn expect_broken(stream: &TcpStream) {
    assert!(stream.ready(Interest::ERROR).await.unwrap().is_error());
}

fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
}

#[test]
fn both_directions_and_exact_totals() {
    run(|| async {
        let mut rig = Rig::start(b"early ", HOUR, false).await;
        rig.client.write_all(b"request").await.unwrap();
        expect(&mut rig.server, b"early request").await;
        rig.server.write_all(b"an answer").await.unwrap();
        expect(&mut rig.client, b"an answer").await;
        drop(rig.client);
        expect_end(&mut rig.server).await;
        drop(rig.server);
        assert_eq!(rig.relay.await.unwrap(), (End::Done, Bytes { up: 13, down: 9 }));
    });
}

#[test]
fn the_server_may_speak_first() {
    run(|| async {
        let mut rig = Rig::new().await;
        rig.server.write_all(b"220 ready\r\n").await.unwrap();
        expect(&mut rig.client, b"220 ready\r\n").await;
        rig.client.write_all(b"QUIT\r\n").await.unwrap();
        expect(&mut rig.server, b"QUIT\r\n").await;
        drop(rig.server);
        expect_end(&mut rig.client).await;
        drop(rig.client);
        assert_eq!(rig.relay.await.unwrap(), (End::Done, Bytes { up: 6, down: 11 }));
    });
}

#[test]
fn the_clients_half_close_is_passed_on_and_the_answer_comes_back() {
    run(|| async {
        let mut rig = Rig::new().await;
        rig.client.write_all(b"all").await.unwrap();
        rig.client.shutdown().await.unwrap();
        let mut all = String::new();
        rig.server.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "all");
        assert!(!rig.relay.is_finished());
        rig.server.write_all(b"got 3").await.unwrap();
        expect(&mut rig.client, b"got 3").await;
        drop(rig.server);
        expect_end(&mut rig.client).await;
        assert_eq!(rig.relay.await.unwrap(), (End::Done, Bytes { up: 3, down: 5 }));
    });
}

#[test]
fn the_servers_half_close_is_passed_on_and_the_client_goes_on() {
    run(|| async {
        let mut rig = Rig::new().await;
        rig.server.write_all(b"bye").await.unwrap();
        rig.server.shutdown().await.unwrap();
        let mut all = String::new();
        rig.client.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "bye");
        rig.client.write_all(b"one more thing").await.unwrap();
        expect(&mut rig.server, b"one more thing").await;
        rig.client.shutdown().await.unwrap();
        expect_end(&mut rig.server).await;
        assert_eq!(rig.relay.await.unwrap(), (End::Done, Bytes { up: 14, down: 3 }));
    });
}

/// A splice stops at the mark of urgent data, and says of what lies behind it that it is the end.
#[test]
fn nothing_but_the_urgent_byte_is_lost_of_a_stream_that_has_one() {
    run(|| async {
        let mut rig = Rig::new().await;
        let (before, behind) = (vec![1; 300_000], vec![2; 50_000]);
        let server = async {
            rig.server.write_all(&before).await.unwrap();
            assert_eq!(socket2::SockRef::from(&rig.server).send_out_of_band(b"!").unwrap(), 1);
            rig.server.write_all(&behind).await.unwrap();
            rig.server.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(rig.client.read_to_end(&mut got), server);
        assert_eq!(read.unwrap(), before.len() + behind.len());
        assert!(got.ends_with(&behind));
        drop(rig.client);
        assert_eq!(rig.relay.await.unwrap().0, End::Done);
    });
}

#[test]
fn resets_are_passed_on_in_either_direction() {
    run(|| async {
        let mut rig = Rig::new().await;
        rig.client.write_all(b"x").await.unwrap();
        expect(&mut rig.server, b"x").await;
        reset(rig.client);
        expect_reset(&mut rig.server).await;
        assert_eq!(rig.relay.await.unwrap(), (End::Client, Bytes { up: 1, down: 0 }));

        let mut rig = Rig::new().await;
        rig.server.write_all(b"y").await.unwrap();
        expect(&mut rig.client, b"y").await;
        reset(rig.server);
        expect_reset(&mut rig.client).await;
        assert_eq!(rig.relay.await.unwrap(), (End::Upstream, Bytes { up: 0, down: 1 }));
    });
}

#[test]
fn a_reset_after_a_half_close_is_noticed_without_traffic() {
    run(|| async {
        let mut rig = Rig::new().await;
        rig.client.shutdown().await.unwrap();
        expect_end(&mut rig.server).await;
        reset(rig.client);
        assert_eq!(rig.relay.await.unwrap().0, End::Client);
        expect_broken(&rig.server).await;

        // The exit's side had said all it had to say: the client keeps it.
        let mut rig = Rig::new().await;
        rig.server.write_all(b"all").await.unwrap();
        rig.server.shutdown().await.unwrap();
        expect(&mut rig.client, b"all").await;
        expect_end(&mut rig.client).await;
        reset(rig.server);
        assert_eq!(rig.relay.await.unwrap(), (End::Linger, Bytes { up: 0, down: 3 }));
    });
}

/// Sends until nothing more goes in for a while, and tells how much went.
async fn fill(stream: &mut TcpStream) -> u64 {
    let mut sent = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), stream.write(&[1; 8192])).await {
        sent += written.unwrap() as u64;
    }
    sent
}

#[test]
fn a_client_that_resets_is_noticed_while_the_exit_takes_nothing() {
    run(|| async {
        let mut rig = Rig::start(b"", HOUR, true).await;
        fill(&mut rig.client).await;
        reset(rig.client);
        assert_eq!(rig.relay.await.unwrap().0, End::Client);
        expect_broken(&rig.server).await;

        // Also where it has been blocked before, and has moved on.
        let mut rig = Rig::start(b"", HOUR, true).await;
        let sent = fill(&mut rig.client).await;
        let mut got = vec![0; usize::try_from(sent).unwrap()];
        rig.server.read_exact(&mut got).await.unwrap();
        fill(&mut rig.client).await;
        reset(rig.client);
        assert_eq!(rig.relay.await.unwrap().0, End::Client);

        // And where the exit has said all that it had to say.
        let mut rig = Rig::start(b"", HOUR, true).await;
        rig.server.shutdown().await.unwrap();
        expect_end(&mut rig.client).await;
        fill(&mut rig.client).await;
        reset(rig.client);
        assert_eq!(rig.relay.await.unwrap().0, End::Client);
        expect_broken(&rig.server).await;
    });
}

#[test]
fn what_an_exit_said_before_its_reset_waits_for_a_slow_client_but_not_for_ever() {
    run(|| async {
        let waits = async |mut rig: Rig| {
            fill(&mut rig.server).await;
            let moved = rig.moved.borrow().down;
            reset(rig.server);
            let mut got = Vec::new();
            assert!(rig.client.read_to_end(&mut got).await.is_err());
            assert!(got.len() as u64 > moved, "{} of {moved} bytes", got.len());
            assert_eq!(rig.relay.await.unwrap().0, End::Upstream);
        };
        waits(Rig::start(b"", HOUR, true).await).await;
        // The same behind the client's end.
        let mut rig = Rig::start(b"", HOUR, true).await;
        rig.client.shutdown().await.unwrap();
        expect_end(&mut rig.server).await;
        waits(rig).await;

        let mut rig = Rig::start(b"", Duration::from_millis(200), true).await;
        fill(&mut rig.server).await;
        assert!(!rig.relay.is_finished());
        reset(rig.server);
        assert_eq!(rig.relay.await.unwrap().0, End::Idle);
        expect_broken(&rig.client).await;
    });
}

#[test]
fn an_answer_survives_that_its_sender_takes_no_more() {
    run(|| async {
        // The server answers at length and closes with the client's bytes unread: it resets. By then the
        // answer is under way to a client that has not read any of it.
        let mut rig = Rig::new().await;
        let answer = vec![7; 300_000];
        rig.client.write_all(b"a request, ").await.unwrap();
        expect(&mut rig.server, b"a request, ").await;
        rig.server.write_all(&answer).await.unwrap();
        rig.server.shutdown().await.unwrap();
        rig.client.write_all(b"and another").await.unwrap();
        expect(&mut rig.server, b"and").await;
        while rig.moved.borrow().down < answer.len() as u64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(rig.server);
        rig.client.write_all(b"and a third").await.unwrap();
        let mut got = Vec::new();
        let mut buffer = vec![0; 65536];
        // Whether it ends in order or by a reset, no byte of the answer may be missing.
        while let Ok(n) = rig.client.read(&mut buffer).await {
            if n == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..n]);
        }
        assert_eq!(got.len(), answer.len());
        assert_eq!(rig.relay.await.unwrap().1.down, answer.len() as u64);
    });
}

#[test]
fn a_pod_that_goes_away_resets_both() {
    run(|| async {
        let mut rig = Rig::new().await;
        rig.client.write_all(b"x").await.unwrap();
        expect(&mut rig.server, b"x").await;
        rig.gone.fire();
        assert_eq!(rig.relay.await.unwrap().0, End::Gone);
        expect_reset(&mut rig.client).await;
        expect_reset(&mut rig.server).await;
    });
}

#[test]
fn a_relay_that_is_dropped_resets_both() {
    run(|| async {
        let mut rig = Rig::new().await;
        rig.client.write_all(b"x").await.unwrap();
        expect(&mut rig.server, b"x").await;
        rig.relay.abort();
        expect_reset(&mut rig.client).await;
        expect_reset(&mut rig.server).await;
    });
}

#[test]
fn only_half_open_tunnels_have_a_limit() {
    run(|| async {
        let limit = Duration::from_millis(200);
        let mut rig = Rig::start(b"", limit, false).await;
        rig.client.shutdown().await.unwrap();
        expect_end(&mut rig.server).await;
        // Every byte begins the time anew.
        let begun = Instant::now();
        while begun.elapsed() < limit * 3 {
            rig.server.write_all(b".").await.unwrap();
            expect(&mut rig.client, b".").await;
            tokio::time::sleep(limit / 4).await;
        }
        let quiet = Instant::now();
        assert_eq!((&mut rig.relay).await.unwrap().0, End::Idle);
        assert!(quiet.elapsed() < limit * 3);
        expect_broken(&rig.server).await;
    });
}

#[test]
fn a_slow_reader_costs_one_buffer_and_stops_its_sender() {
    run(|| async {
        let mut rig = Rig::start(b"", HOUR, true).await;
        let sent = fill(&mut rig.client).await;
        assert!(sent < 4 * 1024 * 1024, "{sent} bytes were taken in");
        // The one buffer is with the relay, not in the free list and not doubled.
        rig.client.shutdown().await.unwrap();
        let mut got = Vec::new();
        rig.server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len() as u64, sent);
        drop(rig.server);
        assert_eq!(rig.relay.await.unwrap(), (End::Done, Bytes { up: sent, down: 0 }));
    });
}

#[test]
fn idle_tunnels_hold_no_buffer() {
    run(|| async {
        let mut rig = Rig::new().await;
        for _ in 0..3 {
            rig.client.write_all(b"ping").await.unwrap();
            expect(&mut rig.server, b"ping").await;
            rig.server.write_all(b"pong").await.unwrap();
            expect(&mut rig.client, b"pong").await;
        }
        // All that was ever made is in the free lists: one buffer for this thread, or one pipe.
        let one = usize::from(MODE.get() == Mode::Splice);
        assert_eq!((rig.buffers.spare(), rig.buffers.pipes()), (1 - one, (one, one)));
    });
}

/// A stream of bytes that shows any loss, doubling or swap.
fn pattern(seed: u64, at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed) >> 56) as u8
}

async fn send(mut out: impl AsyncWrite + Unpin, seed: u64, total: u64, step: usize) {
    let mut at = 0;
    let mut chunk = vec![0; step];
    while at < total {
        let n = (total - at).min(step as u64) as usize;
        for (offset, byte) in chunk[..n].iter_mut().enumerate() {
            *byte = pattern(seed, at + offset as u64);
        }
        out.write_all(&chunk[..n]).await.unwrap();
        at += n as u64;
    }
    out.shutdown().await.unwrap();
}

async fn receive(mut input: impl AsyncRead + Unpin, seed: u64, total: u64, step: usize) {
    let mut at = 0;
    let mut chunk = vec![0; step];
    loop {
        let n = input.read(&mut chunk).await.unwrap();
        if n == 0 {
            break;
        }
        for (offset, byte) in chunk[..n].iter().enumerate() {
            assert_eq!(*byte, pattern(seed, at + offset as u64), "at {}", at + offset as u64);
        }
        at += n as u64;
    }
    assert_eq!(at, total);
}

/// Both ways at once, in pieces of these sizes.
async fn both_ways(total: u64, write: usize, read: usize, small: bool) {
    let rig = Rig::start(b"", HOUR, small).await;
    let (client_in, client_out) = rig.client.into_split();
    let (server_in, server_out) = rig.server.into_split();
    tokio::join!(
        send(client_out, 1, total, write),
        send(server_out, 2, total, write + 1),
        receive(server_in, 1, total, read),
        receive(client_in, 2, total, read),
    );
    assert_eq!(rig.relay.await.unwrap(), (End::Done, Bytes { up: total, down: total }));
}

#[test]
fn sixty_four_mebibytes_both_ways() {
    run(|| both_ways(64 << 20, 100_000, 150_000, false));
}

/// A mebibyte in which no two places look the same, to be sent over and over.
fn block() -> Vec<u8> {
    (0..1 << 20).map(|at| pattern(5, at)).collect()
}

#[test]
fn a_gibibyte_both_ways_at_once() {
    const BLOCKS: usize = 1024;
    async fn send(mut out: impl AsyncWrite + Unpin, block: &[u8]) {
        for _ in 0..BLOCKS {
            out.write_all(block).await.unwrap();
        }
        out.shutdown().await.unwrap();
    }
    async fn receive(mut input: impl AsyncRead + Unpin, block: &[u8]) {
        let mut got = vec![0; block.len()];
        for n in 0..BLOCKS {
            input.read_exact(&mut got).await.unwrap();
            assert!(got == block, "block {n} is another");
        }
        assert_eq!(input.read(&mut got).await.unwrap(), 0);
    }
    let block = block();
    run(|| async {
        let rig = Rig::new().await;
        let (client_in, client_out) = rig.client.into_split();
        let (server_in, server_out) = rig.server.into_split();
        tokio::join!(
            send(client_out, &block),
            send(server_out, &block),
            receive(server_in, &block),
            receive(client_in, &block),
        );
        let bytes = (BLOCKS << 20) as u64;
        assert_eq!(rig.relay.await.unwrap(), (End::Done, Bytes { up: bytes, down: bytes }));
    });
}

#[test]
fn floods_and_talk_take_turns() {
    let flood = block();
    run(|| async {
        let mut rig = Rig::new().await;
        for _ in 0..4 {
            let (_, got) = tokio::join!(async { rig.server.write_all(&flood).await.unwrap() }, async {
                let mut got = vec![0; flood.len()];
                rig.client.read_exact(&mut got).await.unwrap();
                got
            });
            assert!(got == flood);
            for _ in 0..20 {
                rig.client.write_all(b"ping").await.unwrap();
                expect(&mut rig.server, b"ping").await;
                rig.server.write_all(b"pong").await.unwrap();
                expect(&mut rig.client, b"pong").await;
            }
        }
        let (spare, open) = rig.buffers.pipes();
        assert_eq!((spare, open > 0), (open, MODE.get() != Mode::Copy), "a pipe is kept");
        drop((rig.client, rig.server));
        assert_eq!(rig.relay.await.unwrap().1, Bytes { up: 320, down: 4 * flood.len() as u64 + 320 });
    });
}

#[test]
fn short_writes_and_short_reads() {
    run(|| async {
        both_ways(200_000, 7, 100_000, false).await;
        both_ways(1 << 20, 65_536, 61, true).await;
        both_ways(1 << 20, 50_000, 3000, true).await;
    });
}

#[test]
fn a_busy_tunnel_leaves_room_for_others() {
    run(|| async {
        let busy = Rig::new().await;
        let mut quiet = Rig::new().await;
        let (busy_in, busy_out) = busy.server.into_split();
        // Both ends are on this thread as well, so their own turns are short.
        let stream = spawn_local(send(busy_out, 3, 64 << 20, 32 << 10));
        let sink = spawn_local(receive(busy.client, 3, 64 << 20, 32 << 10));
        let mut rounds = 0;
        while !stream.is_finished() {
            quiet.client.write_all(b"ping").await.unwrap();
            expect(&mut quiet.server, b"ping").await;
            rounds += 1;
        }
        sink.await.unwrap();
        drop(busy_in);
        // 64 MiB are some 200 turns; a round takes a dozen of them, and the ends' own turns.
        assert!(rounds >= 4, "{rounds}");
    });
}
