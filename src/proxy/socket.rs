//! Options of sockets, and what their errors mean.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Connections that the kernel queues for a listener (it cuts this to `net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// When a silent peer is asked whether it lives, how often again, and how many times: one that has
/// vanished frees its tunnel after two minutes.
///
/// `TCP_USER_TIMEOUT` is left alone on purpose: it also ends a connection whose peer lives but keeps its
/// window closed (measured on Linux 6.18), such as a paused download.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// Listens on an address with `count` sockets that share its port (`SO_REUSEPORT`), so that the kernel
/// spreads connections over threads. Port 0 is resolved once.
///
/// # Errors
///
/// When the port is taken, by a socket with `SO_REUSEPORT` too, or may not be used.
pub(super) fn listen(addr: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<std::net::TcpListener>)> {
    // Another process with SO_REUSEPORT would silently share the port: only a plain bind shows it.
    let alone = socket(addr)?;
    alone.bind(&addr.into())?;
    let addr = alone
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "not an IP address"))?;
    drop(alone);
    let listeners = (0..count).map(|_| {
        let socket = socket(addr)?;
        socket.set_reuse_port(true)?;
        socket.bind(&addr.into())?;
        // Accepted sockets inherit these, which saves five system calls for each.
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&KEEPALIVE)?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    });
    Ok((addr, listeners.collect::<io::Result<_>>()?))
}

fn socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        // [::] serves IPv4 as well, whatever the node's sysctl says.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// How an exit is asked whether it lives: one that has vanished frees its tunnels after twelve minutes, with the
/// kernel's own interval and number of retries, which saves two system calls. Mostly its pod's end is seen long
/// before, by the watch.
const EXIT_KEEPALIVE: TcpKeepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));

/// From now on asks whether the exit at the other end of a connection lives.
pub(super) fn keep_alive(stream: &TcpStream) {
    // Fails only on a connection that is gone.
    let _ = SockRef::from(stream).set_tcp_keepalive(&EXIT_KEEPALIVE);
}

/// Connects to an exit. `first` is what it is to be sent first: the second of the result is how much of that is under
/// way already. What lasts is to be given to [`keep_alive`].
///
/// # Errors
///
/// As the kernel says, or `TimedOut` after `limit`.
pub(super) async fn connect(
    addr: SocketAddr,
    limit: Duration,
    first: &[u8],
) -> io::Result<(TcpStream, usize)> {
    let socket =
        Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    // We speak first: what acknowledges the exit's side of the handshake goes with the CONNECT, as what acknowledges
    // its answer does with the client's first bytes. Two packets of 24 less a tunnel (counted); the kernel goes back to
    // acknowledging at once by itself where nothing is sent.
    socket.set_tcp_quickack(false)?;
    match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // On one node the kernel is done with the handshake by now: no turn of the loop is needed to be told so, and no
    // clock. To another node it is a system call for nothing.
    let sent = match send(&socket, first, SendFlags::NOSIGNAL) {
        Ok(sent) => sent,
        Err(Errno::AGAIN | Errno::NOTCONN) => 0,
        Err(error) => return Err(error.into()),
    };
    let stream = TcpStream::from_std(socket.into())?;
    if sent > 0 {
        return Ok((stream, sent));
    }
    let Ok(ready) = tokio::time::timeout(limit, stream.ready(Interest::WRITABLE)).await else {
        return Err(io::ErrorKind::TimedOut.into());
    };
    // Only of a failure the kernel is asked why: tokio's own `connect` asks each time.
    if ready?.is_write_closed() {
        return Err(stream.take_error()?.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
    }
    Ok((stream, 0))
}

/// Whether the error says that this process or machine has no more sockets, files, ports or memory for
/// them. The peer is not to blame, and trying again at once does not help.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    const EXHAUSTED: [Errno; 5] =
        [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| EXHAUSTED.iter().any(|errno| errno.raw_os_error() == code))
}

/// Raises the limit on open files to what the process may have, and returns it. A tunnel takes two.
pub(super) fn raise_open_files() -> Option<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let before = limit.current;
        limit.current = limit.maximum;
        if setrlimit(Resource::Nofile, limit).is_err() {
            return before;
        }
    }
    limit.current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listeners_share_a_port_that_is_theirs_alone() {
        let (addr, listeners) = listen("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_eq!(listeners.len(), 3);
        for listener in &listeners {
            assert_eq!(listener.local_addr().unwrap(), addr);
        }
        // Not even another group of sockets with SO_REUSEPORT gets in.
        assert_eq!(listen(addr, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listeners);
        assert_eq!(listen(addr, 1).unwrap().0, addr);
    }

    #[tokio::test]
    async fn both_sides_send_at_once_and_ask_for_life() {
        let (addr, listeners) = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let listener = tokio::net::TcpListener::from_std(listeners.into_iter().next().unwrap()).unwrap();
        let (dialled, _) = connect(addr, Duration::from_secs(5), b"").await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(!SockRef::from(&dialled).keepalive().unwrap());
        keep_alive(&dialled);
        for stream in [&dialled, &accepted] {
            let socket = SockRef::from(stream);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), 60);
        }
        let client = SockRef::from(&accepted);
        assert_eq!(client.tcp_keepalive_interval().unwrap().as_secs(), 15);
        assert_eq!(client.tcp_keepalive_retries().unwrap(), 4);
    }

    #[tokio::test]
    async fn a_failed_connection_says_why() {
        let (addr, listeners) = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        drop(listeners);
        for first in ["", "x"] {
            let error = connect(addr, Duration::from_secs(5), first.as_bytes()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
    }

    #[tokio::test]
    async fn what_is_sent_first_is_counted() {
        use tokio::io::AsyncReadExt;

        let (addr, listeners) = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let listener = tokio::net::TcpListener::from_std(listeners.into_iter().next().unwrap()).unwrap();
        let first = vec![7; 64 * 1024 * 1024];
        // The kernel need not be done with a handshake when it is asked, but mostly is.
        for _ in 0..100 {
            let (dialled, sent) = connect(addr, Duration::from_secs(5), &first).await.unwrap();
            let (mut accepted, _) = listener.accept().await.unwrap();
            drop(dialled);
            let mut got = Vec::new();
            accepted.read_to_end(&mut got).await.unwrap();
            assert_eq!(got.len(), sent);
            if sent > 0 {
                // No more than fits into the buffers of two sockets.
                assert!(sent < first.len(), "{sent}");
                return;
            }
        }
        panic!("nothing is sent before it is waited for");
    }

    #[tokio::test]
    async fn who_is_not_there_is_waited_for_until_the_limit() {
        // A listener whose queue is full answers no handshake.
        let listener = socket("127.0.0.1:0".parse().unwrap()).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        let error = loop {
            match connect(addr, Duration::from_millis(200), b"x").await {
                Ok(stream) => queued.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn exhaustion_is_told_from_failure() {
        for (code, exhausted) in [(Errno::MFILE, true), (Errno::NFILE, true), (Errno::CONNREFUSED, false)] {
            assert_eq!(is_exhausted(&io::Error::from_raw_os_error(code.raw_os_error())), exhausted);
        }
        assert!(!is_exhausted(&io::Error::from(io::ErrorKind::TimedOut)));
        assert!(raise_open_files().is_none_or(|files| files >= 256));
    }
}
