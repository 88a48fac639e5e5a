//! A stream whose first bytes have been read already, and are read once more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Rewind<S> {
    read_already: Vec<u8>,
    at: usize,
    stream: S,
}

impl<S> Rewind<S> {
    pub(crate) fn new(read_already: Vec<u8>, stream: S) -> Self {
        Self { read_already, at: 0, stream }
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.read_already[self.at..];
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let len = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..len]);
        self.at += len;
        if self.at == self.read_already.len() {
            self.read_already = Vec::new();
            self.at = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewind<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn first_what_was_read_then_the_rest() {
        let (mut far, near) = duplex(64);
        let mut stream = Rewind::new(b"abc".to_vec(), near);
        far.write_all(b"def").await.unwrap();
        drop(far);
        let mut got = Vec::new();
        let mut two = [0; 2];
        while let Ok(n @ 1..) = stream.read(&mut two).await {
            got.extend_from_slice(&two[..n]);
        }
        assert_eq!(got, b"abcdef");
    }
}
