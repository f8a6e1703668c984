//! The listening socket, which an outage takes away and brings back on the same port, and the
//! connections that end with it. The server's accept loop ([`super::server`]) and the faults
//! ([`super::faults`]) meet here.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::{Mutex, MutexGuard, PoisonError};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// One life of the listening socket: what to accept from, and what ends it and its connections.
pub(super) struct Era {
    pub(super) listener: TcpListener,
    pub(super) end: CancellationToken,
}

struct Open {
    /// A second handle of the listening socket, to stop it without the accept loop's help.
    listener: TcpListener,
    end: CancellationToken,
}

/// Opens and closes the listening socket.
pub(super) struct Gate {
    address: SocketAddr,
    /// Bound to the port but not listening, so that no other socket gets it during an outage. Linux
    /// lets the real one bind beside it: both have SO_REUSEADDR, and only one listens.
    _reservation: Socket,
    open: Mutex<Option<Open>>,
    /// Where the accept loop gets the next era from; gone once the server has stopped for good.
    eras: Mutex<Option<mpsc::UnboundedSender<Era>>>,
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

impl Gate {
    /// Binds `address` and begins to listen.
    pub(super) fn open(address: SocketAddr) -> io::Result<(Self, mpsc::UnboundedReceiver<Era>)> {
        let reservation = bound(address)?;
        let address = reservation
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("the bound address is no IP address"))?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let gate = Self {
            address,
            _reservation: reservation,
            open: Mutex::new(None),
            eras: Mutex::new(Some(sender)),
        };
        gate.listen(&mut gate.lock())?;
        Ok((gate, receiver))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, open: &mut Option<Open>) -> io::Result<()> {
        let socket = bound(self.address)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener: TcpListener = socket.into();
        let end = CancellationToken::new();
        let handle = listener.try_clone()?;
        if let Some(eras) = &*self.eras.lock().unwrap_or_else(PoisonError::into_inner) {
            // The accept loop ends only after the sender is gone.
            let _ = eras.send(Era { listener, end: end.clone() });
            *open = Some(Open { listener: handle, end });
        }
        Ok(())
    }

    /// The address, with the port that was given out for port 0.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether connections are refused.
    pub(super) fn is_down(&self) -> bool {
        self.lock().is_none()
    }

    /// Refuses connections and ends those that are open, or listens again. Done when it returns, but
    /// for connections in the midst of something, which end as soon as they are polled.
    pub(super) fn set_down(&self, down: bool) {
        let mut open = self.lock();
        if !down {
            if open.is_none()
                && let Err(error) = self.listen(&mut open)
            {
                tracing::error!(%error, address = %self.address, "the API server cannot listen again");
            }
            return;
        }
        if let Some(was) = open.take() {
            // Ends the listening at once, whoever else still holds a handle of the socket.
            if let Err(error) = SockRef::from(&was.listener).shutdown(Shutdown::Both) {
                tracing::warn!(%error, "the API server's listening socket did not stop at once");
            }
            was.end.cancel();
        }
    }

    /// Closes for good.
    pub(super) fn close(&self) {
        self.eras.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.set_down(true);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn an_outage_refuses_and_ends_and_keeps_the_port() {
        let (gate, mut eras) = Gate::open("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = gate.address();
        let first = eras.try_recv().unwrap();
        TcpStream::connect(address).unwrap();
        for _ in 0..3 {
            gate.set_down(true);
            gate.set_down(true);
            assert!(gate.is_down());
            assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            assert!(TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap() != address);
            gate.set_down(false);
            assert!(!gate.is_down());
            TcpStream::connect(address).unwrap();
        }
        assert!(first.end.is_cancelled());
        assert_eq!(first.listener.local_addr().unwrap(), address);
        let mut last = None;
        while let Ok(era) = eras.try_recv() {
            last = Some(era);
        }
        assert!(!last.unwrap().end.is_cancelled());
        gate.close();
        gate.set_down(false);
        assert!(TcpStream::connect(address).is_err());
        assert!(eras.blocking_recv().is_none());
    }
}
