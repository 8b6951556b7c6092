//! Bodies that notice when they no longer move.
//!
//! A connection that is up and delivers a byte now and then would hold a backup or a restore for ever. So in each
//! window of time a body moves a minimum of bytes, or its attempt fails and the call is made again.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::store::options::Pace;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is handed to the connection at once: small enough that being asked for the next one means movement.
const FRAME_BYTES: usize = 64 << 10;

/// How much of a request's body the connection has taken.
#[derive(Debug, Default)]
pub(super) struct Sent {
    bytes: AtomicU64,
    all: AtomicBool,
}

/// A request's body in small frames, counted.
#[derive(Debug)]
pub(super) struct Counted {
    inner: SdkBody,
    rest: Bytes,
    sent: Arc<Sent>,
}

impl Counted {
    pub(super) fn new(inner: SdkBody, sent: Arc<Sent>) -> Self {
        let body = Self { inner, rest: Bytes::new(), sent };
        body.note_end();
        body
    }

    fn note_end(&self) {
        if self.is_end_stream() {
            self.sent.all.store(true, Ordering::Release);
        }
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    this.sent.all.store(true, Ordering::Release);
                    return Poll::Ready(None);
                }
            }
        }
        let frame = this.rest.split_to(this.rest.len().min(FRAME_BYTES));
        this.sent.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        this.note_end();
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let inner = Body::size_hint(&self.inner);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

/// Waits for the head of an answer while the request moves; `answer_timeout` counts from the request's end.
///
/// # Errors
/// `TimedOut`, saying what did not move.
pub(super) async fn watched<T>(
    answer: impl Future<Output = T>,
    sent: &Sent,
    pace: &Pace,
    answer_timeout: Duration,
) -> io::Result<T> {
    let mut answer = std::pin::pin!(answer);
    let mut seen_bytes = 0;
    loop {
        let all_sent = sent.all.load(Ordering::Acquire);
        let limit = if all_sent { answer_timeout } else { pace.window };
        if let Ok(output) = tokio::time::timeout(limit, &mut answer).await {
            return Ok(output);
        }
        if all_sent {
            return Err(timed_out(format!("no answer within {} ms", limit.as_millis())));
        }
        let sent_bytes = sent.bytes.load(Ordering::Relaxed);
        if !sent.all.load(Ordering::Acquire) && sent_bytes - seen_bytes < pace.min_window_bytes {
            return Err(stalled("sent", sent_bytes - seen_bytes, pace));
        }
        seen_bytes = sent_bytes;
    }
}

/// An answer's body that fails when it stalls.
#[derive(Debug)]
pub(super) struct Paced {
    inner: Incoming,
    pace: Pace,
    window_end: Pin<Box<Sleep>>,
    window_bytes: u64,
}

impl Paced {
    pub(super) fn new(inner: Incoming, pace: Pace) -> Self {
        Self { inner, pace, window_end: Box::pin(sleep(pace.window)), window_bytes: 0 }
    }

    /// An error where the window is over and too little has come; opens the next one where it is over.
    fn poll_window(&mut self, context: &mut Context<'_>) -> Option<io::Error> {
        while self.window_end.as_mut().poll(context).is_ready() {
            if self.window_bytes < self.pace.min_window_bytes {
                return Some(stalled("received", self.window_bytes, &self.pace));
            }
            self.window_bytes = 0;
            self.window_end.as_mut().reset(Instant::now() + self.pace.window);
        }
        None
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.window_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(other) => Poll::Ready(other.map(|frame| frame.map_err(Into::into))),
            Poll::Pending => match this.poll_window(context) {
                Some(error) => Poll::Ready(Some(Err(error.into()))),
                None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn stalled(verb: &str, bytes: u64, pace: &Pace) -> io::Error {
    timed_out(format!("only {bytes} bytes {verb} within {} ms", pace.window.as_millis()))
}

fn timed_out(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_is_counted_in_small_frames_and_keeps_its_length() {
        let sent = Arc::new(Sent::default());
        let mut body = Counted::new(SdkBody::from(vec![7; FRAME_BYTES * 2 + 1]), sent.clone());
        assert_eq!(body.size_hint().exact(), Some(FRAME_BYTES as u64 * 2 + 1));
        for (frame_bytes, all) in [(FRAME_BYTES, false), (FRAME_BYTES, false), (1, true)] {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!((frame.len(), sent.all.load(Ordering::SeqCst)), (frame_bytes, all));
        }
        assert_eq!(sent.bytes.load(Ordering::SeqCst), FRAME_BYTES as u64 * 2 + 1);
    }

    #[tokio::test]
    async fn a_request_that_stops_moving_fails_and_one_that_moves_does_not() {
        let window = Duration::from_millis(50);
        let pace = Pace { window, answer_timeout: window, ..Pace::default() };
        let sent = Arc::new(Sent::default());
        let never = std::future::pending::<()>();
        assert!(watched(never, &sent, &pace, pace.answer_timeout).await.is_err());
        let moving = async {
            for _ in 0..20 {
                sleep(pace.window / 10).await;
                sent.bytes.fetch_add(pace.min_window_bytes, Ordering::Relaxed);
            }
        };
        watched(moving, &sent, &pace, pace.answer_timeout).await.unwrap();
    }
}
