//! Clients that mean harm, or that are broken: guessing, saying nothing, saying it slowly. Whoever has
//! logged in is served meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::http::{basic, connect_head, read_answer};
use crate::support::{Answer, Gateway, PASSWORD, PATIENCE, World, eventually};

const USER: &str = "demo-country-se";
const TARGET: &str = "echo-origin.test:7";

/// A CONNECT from an address of this machine.
async fn from(gateway: &Gateway, address: &str, user: &str, password: &str) -> Answer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    let mut stream = socket.connect(gateway.proxy).await.unwrap();
    stream.write_all(connect_head(user, password, TARGET).as_bytes()).await.unwrap();
    read_answer(&mut stream, &mut Vec::new(), true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_by_address_and_locks_nobody_out() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[("AUTH_THROTTLE", "3/1h")]).await;
    assert_eq!(from(&gateway, "127.0.0.1", USER, PASSWORD).await.status, 200);
    for guess in 0..3 {
        let answer = from(&gateway, "127.0.0.1", "demo", &format!("guess-{guess}")).await;
        assert_eq!((answer.status, answer.code()), (407, "auth_failed"));
    }
    // Now nothing is looked at that is not remembered as right: wrong or right, known or not.
    for (user, password) in [("demo", "guess-4"), ("demo", "guess-0"), ("bob", PASSWORD), ("nobody", "x")] {
        let begun = Instant::now();
        let answer = from(&gateway, "127.0.0.1", user, password).await;
        assert_eq!((answer.status, answer.code()), (429, "auth_throttled"), "{user}: {}", answer.text());
        let after: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=1200).contains(&after), "{after}");
        assert_eq!(
            (answer.header("connection"), answer.json()["retryable"].as_bool()),
            ("close", Some(true))
        );
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    // What is remembered, under any username of the account.
    assert_eq!(from(&gateway, "127.0.0.1", USER, PASSWORD).await.status, 200);
    assert_eq!(from(&gateway, "127.0.0.1", "demo-country-se-wait-30s", PASSWORD).await.status, 200);
    // Other addresses, for the account that was guessed at and for any other.
    for (address, user) in [("127.0.0.2", "demo-country-se"), ("127.0.0.3", "bob-country-se")] {
        assert_eq!(from(&gateway, address, user, PASSWORD).await.status, 200, "{address}");
    }
    assert_eq!(gateway.metric("gluetun_gateway_logins_total", "outcome=\"throttled\"").await, 4.0);
    assert_eq!(gateway.metric("gluetun_gateway_requests_total", "outcome=\"auth_throttled\"").await, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_turned_off() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[("AUTH_THROTTLE", "off")]).await;
    let guesses =
        (0..30).map(|n| from(&gateway, "127.0.0.1", "demo", if n % 2 == 0 { "guess" } else { "other" }));
    for answer in futures::future::join_all(guesses).await {
        assert_eq!(answer.status, 407);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_wrong_password_closes_and_a_missing_one_does_not_count() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    for plain in [false, true] {
        let request = |credentials: Option<&str>| {
            let line =
                if plain { "GET http://origin.test/ HTTP/1.1" } else { "CONNECT origin.test:80 HTTP/1.1" };
            let credentials =
                credentials.map(|password| format!("Proxy-Authorization: {}\r\n", basic("demo", password)));
            format!("{line}\r\nHost: origin.test\r\n{}\r\n", credentials.unwrap_or_default())
        };
        let mut stream = TcpStream::connect(gateway.proxy).await.unwrap();
        let mut rest = Vec::new();
        let steps = [None, None, Some("wrong"), None, None, Some("wrong again")];
        for (n, credentials) in steps.into_iter().enumerate() {
            stream.write_all(request(credentials).as_bytes()).await.unwrap();
            let answer = read_answer(&mut stream, &mut rest, false).await;
            assert_eq!(answer.code(), if credentials.is_some() { "auth_failed" } else { "auth_required" });
            let last = n + 1 == steps.len();
            assert_eq!(
                answer.header("connection"),
                if last { "close" } else { "" },
                "step {n}, plain {plain}"
            );
        }
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Open files that this process may have: the gateway has raised them as far as they go.
fn files() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Set in the process that is flooded, which is this program anew: its memory and its files are its own.
const CHILD: &str = "GLUETUN_GATEWAY_TEST_FLOOD";

#[test]
fn a_flood_that_never_logs_in_is_bounded_and_in_nobodys_way() {
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(flood());
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "abuse::a_flood_that_never_logs_in_is_bounded_and_in_nobodys_way", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// As many connections as the process has files for, up to 10 000, which never log in: some say nothing,
/// some begin a head, some send nearly all that a head may be, some ask for nothing but challenges.
async fn flood() {
    const MOST: usize = 400;
    let world = World::embedded().await;
    let gateway = world.gateway(&[("MAX_UNAUTHENTICATED", "400"), ("MAX_CONNECTIONS", "1000")]).await;
    let mut before = gateway.connect(USER, TARGET).await.unwrap();
    let flood = 10_000.min(files().saturating_sub(4000));
    assert!(flood >= MOST * 2, "{flood} are no flood");
    let start = resident();
    let mut endless = b"GET http://a/ HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    endless.resize(16_000, b'x');
    let says: [&[u8]; 4] =
        [b"", b"CONNECT a.test:80 HT", &endless, b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"];
    let mut clients = Vec::with_capacity(flood);
    for n in 0..flood {
        let mut stream = TcpStream::connect(gateway.proxy).await.unwrap();
        // Those who come late may have been closed on.
        let _ = stream.write_all(says[n % says.len()]).await;
        clients.push(stream);
        if n % 500 == 0 {
            // An old client and a new one are served in the middle of it.
            assert_eq!(before.echo(b"still").await, b"still");
            let mut tunnel =
                gateway.connect(USER, TARGET).await.unwrap_or_else(|answer| panic!("{answer:?}"));
            assert_eq!(tunnel.echo(b"new").await, b"new");
        }
    }
    eventually("the flood to be cut down", || async {
        gateway.metric("gluetun_gateway_connections_unauthenticated", "").await <= MOST as f64
    })
    .await;
    let evicted = gateway.metric("gluetun_gateway_connections_evicted_total", "").await;
    assert!(evicted >= (flood - MOST) as f64 * 0.9, "{evicted} of {flood}");
    // Those who were sent away go once they have read why.
    eventually("their ends", || async {
        gateway.metric("gluetun_gateway_connections_open", "").await <= (MOST + 50) as f64
    })
    .await;
    let grown = resident().saturating_sub(start) / (1 << 20);
    println!("{flood} connections, {evicted} evicted, {grown} MiB more");
    // The clients' own side is in here too.
    assert!(grown < 96, "{grown} MiB more");
    // The oldest went first.
    for stream in clients.iter_mut().take(flood / 2) {
        let ended = async { while matches!(stream.read(&mut [0; 4096]).await, Ok(n) if n > 0) {} };
        tokio::time::timeout(PATIENCE, ended).await.expect("the old ones are closed");
    }
    assert_eq!(before.echo(b"still").await, b"still");
    drop(clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_say_nothing_do_not_fill_the_gateway() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[("MAX_CONNECTIONS", "20"), ("MAX_UNAUTHENTICATED", "20")]).await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(gateway.proxy).await.unwrap());
    }
    let begun = Instant::now();
    let mut tunnel = gateway.connect(USER, TARGET).await.unwrap();
    assert_eq!(tunnel.echo(b"served").await, b"served");
    // Well before the idle ones have had their ten seconds.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

on_both! {
    async fn the_way_leaves_no_traces_unless_it_is_told_to(world) {
        let get = format!(
            "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nProxy-Authorization: {}\r\n\
             Connection: close, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nKeep-Alive: timeout=5\r\n\
             Proxy-Connection: keep-alive\r\n\r\n",
            basic(USER, PASSWORD)
        );
        for (settings, via, forwarded) in
            [(&[][..], false, false), (&[("FORWARDING_HEADERS", "via, x-forwarded-for"), ("POD_NAME", "gateway-2")][..], true, true)]
        {
            let gateway = world.gateway(settings).await;
            let answer = crate::support::http::raw(gateway.proxy, get.as_bytes()).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
            assert_eq!(answer.header("via"), if via { "1.1 gluetun-gateway" } else { "" });
            let head = world.origins.seen().last().unwrap().to_lowercase();
            assert_eq!(head.contains("\r\nvia: 1.1 gluetun-gateway\r\n"), via, "{head}");
            assert_eq!(head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), forwarded, "{head}");
            for gone in ["proxy-authorization", "x-hop", "\r\nte:", "keep-alive", "proxy-connection", "connection"] {
                assert!(!head.contains(gone), "{gone} in {head}");
            }
        }
    }
}
