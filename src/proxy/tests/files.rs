//! A gateway that runs out of files. The limit on them is one of a process, so each test of this runs its gateway in
//! a process of its own: this program anew, with one test to run.

use std::io::{BufRead as _, BufReader, Read, Seek, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::plain::Origin;
use super::rig::{ask, connect, rest};
use super::*;

/// Set in the other process: what it is to know.
const CHILD: &str = "GLUETUN_GATEWAY_TEST_FILES";

/// The test of that name in a process of its own.
fn child(test: &str, told: &str) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("proxy::tests::files::{test}"), "--nocapture"]).env(CHILD, told);
    child
}

/// What the other process was told, in the other process.
fn told() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// Lets this process open so many files more.
fn leave_files(count: u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(open + count);
    setrlimit(Resource::Nofile, limit).unwrap();
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn running_out_of_files_pauses_accepting() {
    if told().is_some() {
        return run(out_of_files());
    }
    let output = child("running_out_of_files_pauses_accepting", "").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Processor time of this process so far, from a file that is open already.
fn cpu(file: &mut std::fs::File) -> Duration {
    let mut stat = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut stat).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

async fn out_of_files() {
    let gateway = Gateway::start(None);
    let mut stat = std::fs::File::open("/proc/self/stat").unwrap();
    leave_files(20);
    // Each takes a file on both sides, so the last ones stay in the queue.
    let mut clients = Vec::new();
    while let Ok(client) = std::net::TcpStream::connect(gateway.addr) {
        clients.push(client);
    }
    eventually("a pause", || gateway.metrics().accept_paused.get() > 0).await;
    let (before, cpu_before) = (gateway.metrics().accept_paused.get(), cpu(&mut stat));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let pauses = gateway.metrics().accept_paused.get() - before;
    assert!(pauses <= 60, "{pauses} pauses of two threads in 2 s");
    assert!(cpu(&mut stat) - cpu_before < Duration::from_millis(500), "it spins");
    // With files again, those who waited are served.
    let mut last = clients.pop().unwrap();
    clients.truncate(2);
    last.write_all(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = [0; 12];
        last.read_exact(&mut bytes).map(|()| bytes)
    });
    assert_eq!(&read.await.unwrap().unwrap(), b"HTTP/1.1 407");
}

#[test]
fn who_has_not_logged_in_gives_his_files_to_who_has() {
    with_gateway(logged_in_among_the_silent());
}

#[test]
fn idle_tunnels_give_their_files_to_new_ones() {
    with_gateway(many_origins());
}

async fn many_origins() {
    let (pod, origin) = (Pod::start().await, Origin::start().await);
    let (_child, addr) = spawned("idle_tunnels_give_their_files_to_new_ones", &pod);
    for n in 0..60 {
        pod.route(&format!("h{n}.test:80"), Route::To(origin.addr));
        let mut client = TcpStream::connect(&addr).await.unwrap();
        let credentials = basic("demo", "open:sesame");
        let get = format!("GET http://h{n}.test/ HTTP/1.1\r\nHost: h{n}.test\r\n{credentials}\r\n");
        let answer = ask(&mut client, &get).await;
        assert_eq!((answer.status, answer.code(), answer.text()), (200, "-", "hello"), "the {n}th");
    }
}

#[test]
fn streams_that_are_over_leave_no_files_taken() {
    with_gateway(streams_then_tunnels());
}

async fn streams_then_tunnels() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    pod.route("sink.test:7", Route::To(listener.local_addr().unwrap()));
    let (child, addr) = spawned("streams_that_are_over_leave_no_files_taken", &pod);
    let pipes = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", child.0.id())).unwrap();
        let links = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("pipe:")).count()
    };
    let before = pipes();
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut client = TcpStream::connect(&addr).await.unwrap();
        let answer = ask(&mut client, &connect("sink.test:7", "demo")).await;
        assert_eq!(answer.status, 200);
        let (sink, _) = listener.accept().await.unwrap();
        streams.push((client, sink));
    }
    // Nothing is taken of them yet, so each keeps a pipe.
    for (client, _) in &mut streams {
        while let Ok(written) =
            tokio::time::timeout(Duration::from_millis(300), client.write(&[1; 65536])).await
        {
            written.unwrap();
        }
    }
    assert!(pipes() >= before + 2 * 4, "{} more pipe ends", pipes() - before);
    for (mut client, mut sink) in streams {
        let taken = tokio::spawn(async move { tokio::io::copy(&mut sink, &mut tokio::io::sink()).await });
        client.shutdown().await.unwrap();
        taken.await.unwrap().unwrap();
    }
    let mut clients = Vec::new();
    for n in 0..10 {
        let mut client = TcpStream::connect(&addr).await.unwrap();
        let answer = ask(&mut client, &connect("echo.test:7", "demo")).await;
        assert_eq!((answer.status, answer.code()), (200, "-"), "the {n}th");
        clients.push(client);
    }
}

/// Runs a test, or in the other process the gateway for it.
fn with_gateway(test: impl Future<Output = ()>) {
    match told() {
        Some(pod) => gateway_for(&Pod::at(pod.parse().unwrap())),
        None => run(test),
    }
}

/// A gateway with few files, until this process is ended.
fn gateway_for(pod: &Pod) {
    let gateway = Gateway::threads(1, Some(pod), |_| {});
    leave_files(24);
    println!("\naddr {}", gateway.addr);
    let _ = std::io::stdin().read(&mut [0]);
}

/// Ends the process with the test, however that ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway for this pod in a process of its own, and its address.
fn spawned(test: &str, pod: &Pod) -> (Ended, String) {
    let mut child = child(test, &pod.addr.to_string());
    let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut child = Ended(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let addr =
        lines.find_map(|line| Some(line.unwrap().strip_prefix("addr ")?.to_owned())).expect("its address");
    (child, addr)
}

async fn logged_in_among_the_silent() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let (_child, addr) = spawned("who_has_not_logged_in_gives_his_files_to_who_has", &pod);
    // When the first of them is ended, no files are left.
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(&addr).await.unwrap());
    }
    assert_eq!(rest(&mut silent[0]).await, b"");
    // Each of these needs a file now, and another when it asks.
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(TcpStream::connect(&addr).await.unwrap());
    }
    for client in &mut clients {
        let answer = ask(client, &connect("echo.test:7", "demo")).await;
        assert_eq!((answer.status, answer.code()), (200, "-"));
        client.write_all(b"here").await.unwrap();
        client.read_exact(&mut [0; 4]).await.unwrap();
    }
}
