//! A TCP connection as an end of a direction. Shared, so that both directions, and whoever waits for its error, have it
//! at once.

use std::io;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::Shutdown;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::half::{Sink, Source};
use crate::proxy::buffers::Pipe;
use crate::proxy::upstream::spent;

impl Source for &TcpStream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            match self.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(n) if 0 < n && n < buffer.len() => {
                    spent(self, Interest::READABLE);
                    return Poll::Ready(Ok(n));
                }
                read => return Poll::Ready(read),
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            match self.try_io(Interest::READABLE, || pipe.fill(*self)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                filled => return Poll::Ready(filled),
            }
        }
    }
}

impl Sink for &TcpStream {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(n) if 0 < n && n < bytes.len() => {
                    // The socket is full, as it is empty after a short read: the next write waits for room.
                    spent(self, Interest::WRITABLE);
                    return Poll::Ready(Ok(n));
                }
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            match self.try_io(Interest::WRITABLE, || pipe.drain(*self)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                drained => return Poll::Ready(drained),
            }
        }
    }

    fn shutdown(&mut self) -> io::Result<()> {
        match rustix::net::shutdown(*self, Shutdown::Write) {
            // The other side is gone altogether, which reading tells.
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
