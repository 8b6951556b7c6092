//! etcd's image of its database, streamed and proven in flight.
//!
//! An image is whole when etcd's SHA-256, the last 32 bytes of the stream, is that of all bytes before; a stream
//! that ends early has no such trailer. An open stream holds pages of the member, and a defragment that waits for
//! it stalls the member: so a stream that gives nothing, or that nothing reads, is cancelled, and so is one that is
//! dropped.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use etcdbr_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use etcdbr_proto::etcdserverpb::{SnapshotRequest, SnapshotResponse};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tonic::Streaming;

use super::endpoint::Endpoint;
use super::fault::Fault;
use super::session::{MESSAGE_BYTES_MAX, Session};
use crate::error::{Error, ErrorKind, Result};

const ACTION: &str = "stream its snapshot";

const TRAILER_BYTES: usize = 32;
/// An image is whole pages, and no page size is less.
const PAGE_UNIT_BYTES: u64 = 512;
/// Messages (32 KiB each) between the stream and its reader.
const QUEUED_MESSAGES_MAX: usize = 16;

/// The bytes of an image, in order.
pub struct SnapshotStream {
    endpoint: Endpoint,
    stall_timeout: Duration,
    messages: mpsc::Receiver<Pumped>,
    image: ImageCheck,
    version: Option<String>,
    state: State,
    _pump: AbortOnDropHandle<()>,
}

enum State {
    Streaming,
    Whole([u8; 32]),
    Failed,
}

/// What the pump passes on.
enum Pumped {
    Message(SnapshotResponse),
    End,
    Fault(Fault),
}

impl SnapshotStream {
    /// Asks for the image and waits for its first message.
    ///
    /// # Errors
    /// As every question; `Damaged` for a stream without any message.
    pub(super) async fn open(session: &Session) -> Result<Self> {
        let stall_timeout = session.stall_timeout();
        let stream = session
            .ask(SnapshotRequest {}, stall_timeout, |channel, request| async move {
                MaintenanceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).snapshot(request).await
            })
            .await
            .map_err(|fault| session.error(fault, ACTION))?;
        let (sender, mut messages) = mpsc::channel(QUEUED_MESSAGES_MAX);
        let pump = AbortOnDropHandle::new(tokio::spawn(pump(stream, sender, stall_timeout)));
        let first = match messages.recv().await {
            Some(Pumped::Message(first)) => first,
            Some(Pumped::Fault(fault)) => return Err(session.error(fault, ACTION)),
            Some(Pumped::End) | None => return Err(Broken::Short.error(session.endpoint(), 0, 0)),
        };
        Ok(Self {
            endpoint: session.endpoint().clone(),
            stall_timeout,
            messages,
            version: (!first.version.is_empty()).then(|| first.version.clone()),
            image: ImageCheck::new(first),
            state: State::Streaming,
            _pump: pump,
        })
    }

    /// The next bytes of the image; `None` once it was whole and proven. Bytes given out before an error are of no
    /// use: the image can only be thrown away.
    ///
    /// # Errors
    /// `Damaged` for a stream that ends early or whose SHA-256 differs; `Unavailable` where the member goes away or
    /// the stream stalls. No call after an error gives bytes.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        match self.state {
            State::Streaming => {}
            State::Whole(_) => return Ok(None),
            State::Failed => return Err(Error::new(ErrorKind::Internal, "a failed snapshot stream was read on")),
        }
        let next = self.advance().await;
        if next.is_err() {
            self.state = State::Failed;
            self.messages.close();
        }
        next
    }

    async fn advance(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.messages.recv().await {
                Some(Pumped::Message(message)) => {
                    if let Some(bytes) = self.image.push(message).map_err(|broken| self.broken(broken))? {
                        return Ok(Some(bytes));
                    }
                }
                Some(Pumped::Fault(fault)) => return Err(fault.into_error(&self.endpoint, None, ACTION)),
                Some(Pumped::End) => {
                    let (rest, sha256) = self.image.finish().map_err(|broken| self.broken(broken))?;
                    self.state = State::Whole(sha256);
                    return Ok((!rest.is_empty()).then_some(rest));
                }
                None => return Err(self.unread()),
            }
        }
    }

    /// Bytes that the image will have, as the server said with its first message.
    pub fn expected_bytes(&self) -> u64 {
        self.image.expected_bytes
    }

    /// Bytes of the image so far.
    pub fn image_bytes(&self) -> u64 {
        self.image.image_bytes
    }

    /// SHA-256 of the image, once it was whole.
    pub fn sha256(&self) -> Option<[u8; 32]> {
        if let State::Whole(sha256) = self.state { Some(sha256) } else { None }
    }

    /// The storage version, which etcd says from 3.6 on.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    fn broken(&self, broken: Broken) -> Error {
        broken.error(&self.endpoint, self.image.image_bytes, self.image.expected_bytes)
    }

    fn unread(&self) -> Error {
        let Self { endpoint, stall_timeout, .. } = self;
        Error::new(
            ErrorKind::Unavailable,
            format!("the snapshot stream of {endpoint} was cancelled: nothing read it for {stall_timeout:?}"),
        )
        .hint("the store is too slow or down; etcd must not wait for it")
    }
}

/// Reads `stream` at its own speed; gives it up, by dropping it, when either side stalls.
async fn pump(mut stream: Streaming<SnapshotResponse>, sender: mpsc::Sender<Pumped>, stall_timeout: Duration) {
    loop {
        let pumped = match timeout(stall_timeout, stream.message()).await {
            Ok(Ok(Some(message))) => Pumped::Message(message),
            Ok(Ok(None)) => Pumped::End,
            Ok(Err(status)) => Pumped::Fault(status.into()),
            Err(_) => Pumped::Fault(Fault::Deadline(stall_timeout)),
        };
        let goes_on = matches!(pumped, Pumped::Message(_));
        if !goes_on {
            drop(stream);
            // The end waits for its reader for as long as that takes: it holds nothing at the member any more.
            let _ = sender.send(pumped).await;
            return;
        }
        match timeout(stall_timeout, sender.send(pumped)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// What is wrong with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Short,
    Long,
    Digest,
}

impl Broken {
    fn error(self, endpoint: &Endpoint, image_bytes: u64, expected_bytes: u64) -> Error {
        let message = match self {
            Self::Short => {
                format!("the snapshot stream of {endpoint} ended early ({image_bytes} of {expected_bytes} bytes)")
            }
            Self::Long => {
                format!("the snapshot stream of {endpoint} gave more than the {expected_bytes} bytes it had announced")
            }
            Self::Digest => format!("the snapshot stream of {endpoint} is damaged: its SHA-256 differs"),
        };
        Error::new(ErrorKind::Damaged, message).hint("nothing of it can be used: take the snapshot again")
    }
}

/// Tells the image from its trailer and proves the one by the other. Holds one message back: its last 32 bytes
/// may be the trailer.
struct ImageCheck {
    expected_bytes: u64,
    image_bytes: u64,
    remaining_bytes: u64,
    held: Bytes,
    digest: Sha256,
}

impl ImageCheck {
    fn new(first: SnapshotResponse) -> Self {
        let expected_bytes = first.remaining_bytes.saturating_add(first.blob.len() as u64);
        Self {
            expected_bytes,
            image_bytes: 0,
            remaining_bytes: first.remaining_bytes,
            held: first.blob,
            digest: Sha256::new(),
        }
    }

    /// Takes a message; gives the bytes that are now known to be the image's.
    fn push(&mut self, message: SnapshotResponse) -> Result<Option<Bytes>, Broken> {
        self.remaining_bytes = message.remaining_bytes;
        if message.blob.len() < TRAILER_BYTES {
            // etcd never sends these; the trailer must stay within what is held all the same.
            let mut joined = BytesMut::from(self.held.as_ref());
            joined.extend_from_slice(&message.blob);
            let split = joined.len().saturating_sub(TRAILER_BYTES);
            let known = joined.split_to(split).freeze();
            self.held = joined.freeze();
            return self.accept(known);
        }
        let known = std::mem::replace(&mut self.held, message.blob);
        self.accept(known)
    }

    /// The stream has ended: the rest of the image, and the SHA-256 that the server gave and the bytes have.
    fn finish(&mut self) -> Result<(Bytes, [u8; 32]), Broken> {
        if self.held.len() < TRAILER_BYTES || self.remaining_bytes != 0 {
            return Err(Broken::Short);
        }
        let trailer = self.held.split_off(self.held.len() - TRAILER_BYTES);
        let last = std::mem::take(&mut self.held);
        let rest = self.accept(last)?.unwrap_or_default();
        if self.image_bytes < self.expected_bytes || !self.image_bytes.is_multiple_of(PAGE_UNIT_BYTES) {
            return Err(Broken::Short);
        }
        let sha256: [u8; 32] = std::mem::take(&mut self.digest).finalize().into();
        if self.image_bytes == 0 || sha256 != trailer.as_ref() {
            return Err(Broken::Digest);
        }
        Ok((rest, sha256))
    }

    fn accept(&mut self, bytes: Bytes) -> Result<Option<Bytes>, Broken> {
        if bytes.is_empty() {
            return Ok(None);
        }
        self.image_bytes += bytes.len() as u64;
        if self.image_bytes > self.expected_bytes {
            return Err(Broken::Long);
        }
        self.digest.update(&bytes);
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of an image of `image.len()` bytes, cut every `step` bytes, with `trailer`.
    fn messages(image: &[u8], step: usize, trailer: &[u8]) -> Vec<SnapshotResponse> {
        let mut sent = 0;
        let message = |remaining: usize, blob: &[u8]| SnapshotResponse {
            remaining_bytes: remaining as u64,
            blob: Bytes::copy_from_slice(blob),
            ..Default::default()
        };
        let mut all: Vec<_> = image
            .chunks(step)
            .map(|chunk| {
                sent += chunk.len();
                message(image.len() - sent, chunk)
            })
            .collect();
        all.push(message(0, trailer));
        all
    }

    fn run(messages: Vec<SnapshotResponse>) -> Result<Vec<u8>, Broken> {
        let mut messages = messages.into_iter();
        let mut check = ImageCheck::new(messages.next().unwrap_or_default());
        let mut image = Vec::new();
        for message in messages {
            image.extend_from_slice(&check.push(message)?.unwrap_or_default());
        }
        image.extend_from_slice(&check.finish()?.0);
        Ok(image)
    }

    fn image() -> Vec<u8> {
        (0..8192_u32).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn an_image_comes_whole_however_it_is_cut() {
        let image = image();
        for step in [1, 7, 31, 32, 33, 512, 4096, 8192] {
            assert_eq!(run(messages(&image, step, &Sha256::digest(&image))).unwrap(), image, "step {step}");
        }
    }

    #[test]
    fn a_trailer_in_the_last_message_of_data_is_told_apart() {
        let image = image();
        let mut joined = image.clone();
        joined.extend_from_slice(&Sha256::digest(&image));
        let all = messages(&joined, 4096, &[]);
        let mut check = ImageCheck::new(SnapshotResponse { remaining_bytes: 4096, ..all[0].clone() });
        let mut whole = Vec::new();
        for message in &all[1..3] {
            let message = SnapshotResponse { remaining_bytes: 0, ..message.clone() };
            whole.extend_from_slice(&check.push(message).unwrap().unwrap_or_default());
        }
        whole.extend_from_slice(&check.finish().unwrap().0);
        assert_eq!(whole, image);
    }

    #[test]
    fn a_stream_cut_anywhere_is_short() {
        let image = image();
        let all = messages(&image, 512, &Sha256::digest(&image));
        for kept in 0..all.len() {
            assert_eq!(run(all[..kept].to_vec()), Err(Broken::Short), "{kept} messages");
        }
    }

    #[test]
    fn a_server_that_has_more_to_send_at_the_end_is_short() {
        let image = image();
        let mut all = messages(&image, 512, &Sha256::digest(&image));
        all.last_mut().unwrap().remaining_bytes = 512;
        assert_eq!(run(all), Err(Broken::Short));
    }

    #[test]
    fn a_flipped_bit_or_a_wrong_trailer_is_damage() {
        let image = image();
        let mut flipped = image.clone();
        flipped[5000] ^= 1;
        assert_eq!(run(messages(&flipped, 512, &Sha256::digest(&image))), Err(Broken::Digest));
        assert_eq!(run(messages(&image, 512, &[0; 32])), Err(Broken::Digest));
    }

    #[test]
    fn a_stream_that_outgrows_its_announcement_is_refused() {
        let mut all = messages(&image(), 512, &[0; 32]);
        all[0].remaining_bytes = 100;
        assert_eq!(run(all), Err(Broken::Long));
    }
}
