//! The look-alike from outside: containers that are run, and raw sockets that talk to them. A clock
//! is paused where a time limit is the point; nothing sleeps.

mod authentication;
mod faulty;
mod lifecycle;
mod served;
mod tunnel;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{Gluetun, Options};
use crate::simulator::container::{ContainerSpec, Exit, Log, Signals};

/// A hostname of the built-in list.
const SERVER: &str = "se-mma-wg-001";
/// The announcement that keeps Gluetun from reading ahead.
const ANNOUNCED: &str = "Content-Length: 1048576\r\n";

/// A look-alike that starts at once.
fn instant() -> Options {
    Options { start: Duration::ZERO, ..Options::default() }
}

/// A container and what it is told.
struct Pod {
    gluetun: Arc<Gluetun>,
    spec: ContainerSpec,
    log: Log,
    signals: Signals,
    task: AbortOnDropHandle<Exit>,
}

/// A container as the gateway makes it, at an address of its own (127/8 is all loopback).
fn spec(changes: &[(&str, &str)]) -> ContainerSpec {
    let [a, b, c] = rand::random::<[u8; 3]>();
    let env = [
        ("VPN_SERVICE_PROVIDER", "mullvad"),
        ("VPN_TYPE", "wireguard"),
        ("WIREGUARD_PRIVATE_KEY", "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="),
        ("WIREGUARD_ADDRESSES", "10.64.0.2/32"),
        ("SERVER_HOSTNAMES", SERVER),
        ("HTTPPROXY", "on"),
        ("HTTPPROXY_USER", "user"),
        ("HTTPPROXY_PASSWORD", "pass"),
        ("HTTPPROXY_STEALTH", "on"),
        ("HEALTH_SERVER_ADDRESS", ":9999"),
        ("HEALTH_TARGET_ADDRESSES", "1.1.1.1:443,8.8.8.8:443"),
        ("DNS_UPSTREAM_RESOLVER_TYPE", "plain"),
        ("FIREWALL_INPUT_PORTS", "8888,9999"),
    ];
    ContainerSpec {
        pod_name: "gluetun-1".to_owned(),
        pod_ip: IpAddr::from([127, 64 + a % 64, b, c.max(1)]),
        image: "qmcgaw/gluetun:v3.41.3".to_owned(),
        argv: Vec::new(),
        env: env
            .iter()
            .chain(changes)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

impl Pod {
    fn run(gluetun: &Arc<Gluetun>, spec: ContainerSpec) -> Self {
        let (log, signals) = (Log::default(), Signals::default());
        let task = tokio::spawn({
            let (gluetun, spec, log, signals) =
                (Arc::clone(gluetun), spec.clone(), log.clone(), signals.clone());
            async move { gluetun.run(spec, log, signals).await }
        });
        Self { gluetun: Arc::clone(gluetun), spec, log, signals, task: AbortOnDropHandle::new(task) }
    }

    /// A container that is up.
    async fn up(options: Options) -> Self {
        let mut pod = Self::run(&Arc::new(Gluetun::new(options)), spec(&[]));
        pod.logged("healthy!").await;
        pod
    }

    /// Waits for a line of the log.
    async fn logged(&mut self, text: &str) {
        let mut written = self.log.written();
        while !self.log.lines().iter().any(|line| line.contains(text)) {
            tokio::select! {
                changed = written.changed() => changed.unwrap(),
                exit = &mut self.task => panic!("ended with {exit:?} before {text:?}: {:#?}", self.log.lines()),
            }
        }
    }

    async fn ended(self) -> Exit {
        self.task.await.unwrap()
    }

    async fn connect(&self, port: u16) -> Client {
        self.try_connect(port).await.unwrap_or_else(|error| panic!("{error}: {:#?}", self.log.lines()))
    }

    async fn try_connect(&self, port: u16) -> std::io::Result<Client> {
        let stream = TcpStream::connect(SocketAddr::new(self.spec.pod_ip, port)).await?;
        Ok(Client { stream, buf: Vec::new() })
    }

    /// Status and body of the health server's answer.
    async fn health(&self) -> (u16, String) {
        let mut client = self.connect(9999).await;
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let reply = client.reply().await;
        (reply.status, reply.body)
    }

    /// Sends a CONNECT with these further headers.
    async fn ask(&self, target: &str, headers: &str) -> Client {
        let mut client = self.connect(8888).await;
        client.send(&connect_head(target, headers)).await;
        client
    }

    /// Waits until what was asked of the proxy so far is being served: it takes connections in order.
    async fn all_served(&self) {
        let mut probe = self.connect(8888).await;
        probe.send("CONNECT x HTTP/1.1\r\n\r\n").await;
        assert_eq!(probe.reply().await.status, 407);
    }

    /// Status and body of the answer to a CONNECT.
    async fn answer(&self, target: &str) -> (u16, String) {
        let reply = self.ask(target, "").await.reply().await;
        (reply.status, reply.body)
    }

    /// An open tunnel that has lost nothing.
    async fn tunnel(&self, target: &str) -> Client {
        let mut client = self.ask(target, ANNOUNCED).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        client
    }
}

fn authorization(pair: &str) -> String {
    format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(pair))
}

fn connect_head(target: &str, headers: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}{headers}\r\n", authorization("user:pass"))
}

/// Checks a time limit in seconds, on a clock that was paused on the way: what passed before the pause
/// counts too, on either side.
fn took(since: Instant, seconds: u64) {
    let (elapsed, wanted) = (since.elapsed().as_secs_f64(), seconds as f64);
    assert!((wanted - 0.5..wanted + 0.9).contains(&elapsed), "{elapsed} s instead of {wanted}");
}

/// Checks a time limit in milliseconds, on a clock that was paused from the beginning.
fn took_ms(since: Instant, milliseconds: u128) {
    let elapsed = since.elapsed().as_millis();
    assert!((milliseconds..milliseconds + 5).contains(&elapsed), "{elapsed} ms instead of {milliseconds}");
}

/// A raw connection.
struct Client {
    stream: TcpStream,
    buf: Vec<u8>,
}

/// An answer that announced its length.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Client {
    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads a head, with its empty line.
    async fn head(&mut self) -> String {
        loop {
            if let Some(at) = self.buf.windows(4).position(|end| end == b"\r\n\r\n") {
                let rest = self.buf.split_off(at + 4);
                return String::from_utf8(std::mem::replace(&mut self.buf, rest)).unwrap();
            }
            let read = self.stream.read_buf(&mut self.buf).await.unwrap();
            assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&self.buf));
        }
    }

    async fn reply(&mut self) -> Answer {
        let head = self.head().await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap_or("0");
        let body = self.bytes(length.parse().unwrap()).await;
        Answer { status, head, body }
    }

    /// Exactly so many bytes, as text.
    async fn bytes(&mut self, count: usize) -> String {
        while self.buf.len() < count {
            let read = self.stream.read_buf(&mut self.buf).await.unwrap();
            assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&self.buf));
        }
        let rest = self.buf.split_off(count);
        String::from_utf8(std::mem::replace(&mut self.buf, rest)).unwrap()
    }

    /// Everything until the other end closes.
    async fn rest(&mut self) -> String {
        self.stream.read_to_end(&mut self.buf).await.unwrap();
        String::from_utf8(std::mem::take(&mut self.buf)).unwrap()
    }
}

/// A destination of this machine's, and the options under which `name` leads to it.
async fn origin(name: &str) -> (TcpListener, Options) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = instant();
    options.hosts.insert(name.to_owned(), listener.local_addr().unwrap());
    (listener, options)
}
