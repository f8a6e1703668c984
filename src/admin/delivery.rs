//! Whether an answer was written. A handler that must undo something when it was not gives its answer a
//! [`Receipt`]; the connection that the answer goes out on signs it once the socket has taken all of it.
//!
//! hyper drops a handler whose client hangs up, and a body that it no longer needs; what it has taken of
//! a body it writes, and then flushes. So a receipt is lost with the body, or lies in the connection's
//! [`Outbox`] until the flush after it, or is lost with the connection.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Runs what must be done if the answer is not written.
pub(super) struct Receipt(Option<Box<dyn FnOnce() + Send>>);

impl Receipt {
    /// One that runs `lost` when it is dropped unsigned.
    pub(super) fn new(lost: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(lost)))
    }

    /// The answer has been written.
    fn sign(mut self) {
        self.0 = None;
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(lost) = self.0.take() {
            lost();
        }
    }
}

/// The receipts of one connection's answers that hyper has taken and not yet flushed. In the extensions of
/// every request.
#[derive(Clone, Default)]
pub(super) struct Outbox(Arc<Mutex<Vec<Receipt>>>);

impl Outbox {
    fn put(&self, receipt: Receipt) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(receipt);
    }

    fn take(&self) -> Vec<Receipt> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A body with a receipt. Without an outbox, to be taken is to be written.
pub(super) fn body(bytes: Bytes, receipt: Receipt, outbox: Option<Outbox>) -> Body {
    Body::new(Receipted { bytes: Some(bytes), receipt: Some(receipt), outbox })
}

struct Receipted {
    bytes: Option<Bytes>,
    receipt: Option<Receipt>,
    outbox: Option<Outbox>,
}

impl HttpBody for Receipted {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(bytes) = self.bytes.take() else { return Poll::Ready(None) };
        match (self.receipt.take(), &self.outbox) {
            (Some(receipt), Some(outbox)) => outbox.put(receipt),
            (Some(receipt), None) => receipt.sign(),
            (None, _) => {}
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// A connection's socket, which signs the receipts in its outbox when it is flushed: hyper flushes it
/// after it has written everything.
pub(super) struct Delivering<T> {
    io: T,
    outbox: Outbox,
}

impl<T> Delivering<T> {
    pub(super) fn new(io: T, outbox: Outbox) -> Self {
        Self { io, outbox }
    }
}

impl<T> Drop for Delivering<T> {
    fn drop(&mut self) {
        // Those that are left are lost, whoever else holds the outbox.
        drop(self.outbox.take());
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Delivering<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Delivering<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        for receipt in self.outbox.take() {
            receipt.sign();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// Serves one request on `io` with an answer of `size` bytes; how the connection ended.
    async fn serve(io: DuplexStream, size: usize, lost: Arc<AtomicUsize>) -> Result<(), hyper::Error> {
        let outbox = Outbox::default();
        let io = Delivering::new(io, outbox.clone());
        let answer = service_fn(move |_| {
            let lost = Arc::clone(&lost);
            let receipt = Receipt::new(move || _ = lost.fetch_add(1, Ordering::Relaxed));
            let body = body(Bytes::from(vec![b'x'; size]), receipt, Some(outbox.clone()));
            async move { Ok::<_, std::convert::Infallible>(axum::response::Response::new(body)) }
        });
        http1::Builder::new().serve_connection(TokioIo::new(io), answer).await
    }

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    #[tokio::test]
    async fn an_answer_that_is_written_is_not_undone() {
        let lost = Arc::new(AtomicUsize::new(0));
        let (mut client, server) = duplex(64 << 10);
        client.write_all(REQUEST).await.unwrap();
        serve(server, 1000, Arc::clone(&lost)).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with(&"x".repeat(1000)) && answer.contains("content-length: 1000"), "{answer}");
        assert_eq!(lost.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn one_that_breaks_off_half_way_is() {
        let lost = Arc::new(AtomicUsize::new(0));
        let (mut client, server) = duplex(256);
        client.write_all(REQUEST).await.unwrap();
        let serving = tokio::spawn(serve(server, 1000, Arc::clone(&lost)));
        let mut some = [0; 100];
        client.read_exact(&mut some).await.unwrap();
        assert_eq!(lost.load(Ordering::Relaxed), 0, "it may yet be written");
        drop(client);
        assert!(serving.await.unwrap().is_err());
        assert_eq!(lost.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn one_that_is_never_taken_is() {
        let lost = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&lost);
        let receipt = Receipt::new(move || _ = counted.fetch_add(1, Ordering::Relaxed));
        drop(body(Bytes::from_static(b"x"), receipt, Some(Outbox::default())));
        assert_eq!(lost.load(Ordering::Relaxed), 1);
    }
}
