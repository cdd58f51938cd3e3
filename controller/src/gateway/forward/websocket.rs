//! An upgraded connection that is a WebSocket: bytes both ways as for any other, until its instance is to go. Then both sides are told
//! so, with the close code 1001 (going away), so that the client connects anew instead of finding its connection cut.
//!
//! A close may only come between two frames, so the frames are followed; nothing else is looked at (RFC 6455, 5.2).

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// Close, 1001, as a server says it.
const TO_CLIENT: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// The same as a client says it: masked, here by zeros.
const TO_INSTANCE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// How long a side may take to answer a close.
const GOODBYE: Duration = Duration::from_secs(2);

/// Bytes carried at once.
const PIECE: usize = 16 * 1024;

/// Where in a frame a stream of bytes is.
#[derive(Debug, Default)]
struct Frames {
    /// What has come of a header that is not complete.
    head: Vec<u8>,
    /// Bytes of the payload that are yet to come.
    left: u64,
    /// A close has come.
    closed: bool,
}

impl Frames {
    /// Between two frames.
    fn is_between(&self) -> bool {
        self.head.is_empty() && self.left == 0
    }

    /// Takes bytes up to the end of a frame, or all; returns how many.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(&byte) = bytes.get(taken) {
            if self.left > 0 {
                let room = usize::try_from(self.left).unwrap_or(usize::MAX);
                let part = room.min(bytes.len() - taken);
                self.left -= part as u64;
                taken += part;
                if self.left == 0 {
                    return taken;
                }
                continue;
            }
            self.head.push(byte);
            taken += 1;
            if let Some(payload) = self.payload() {
                self.closed |= self.head.first().is_some_and(|first| first & 0x0f == 0x8);
                self.head.clear();
                self.left = payload;
                if payload == 0 {
                    return taken;
                }
            }
        }
        taken
    }

    /// The length of the payload, once the header is complete.
    fn payload(&self) -> Option<u64> {
        let second = *self.head.get(1)?;
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        if self.head.len() < 2 + extended + mask {
            return None;
        }
        let number = self.head.iter().skip(2).take(extended);
        let long = number.fold(0u64, |number, byte| (number << 8) | u64::from(*byte));
        Some(if extended == 0 { u64::from(second & 0x7f) } else { long })
    }
}

/// Carries bytes both ways until one side ends, or until both have been told to, after `leaving`.
pub(super) async fn carry<C, I>(client: C, instance: I, leaving: &CancellationToken)
where
    C: AsyncRead + AsyncWrite,
    I: AsyncRead + AsyncWrite,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_instance, mut to_instance) = tokio::io::split(instance);
    let both = async {
        let up = pump(&mut from_client, &mut to_instance, &TO_INSTANCE, leaving);
        let down = pump(&mut from_instance, &mut to_client, &TO_CLIENT, leaving);
        // An error is a side that went without a word: an end like any other.
        let _how = tokio::try_join!(up, down);
    };
    let cut = async {
        leaving.cancelled().await;
        tokio::time::sleep(GOODBYE).await;
    };
    tokio::select! {
        () = both => {}
        () = cut => {}
    }
}

/// One direction: bytes as they come; between two frames after `leaving`, the close, and nothing more.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    close: &[u8],
    leaving: &CancellationToken,
) -> io::Result<()> {
    let mut frames = Frames::default();
    let mut piece = vec![0; PIECE];
    let mut said = false;
    loop {
        let told = leaving.is_cancelled();
        if told && !said && frames.is_between() {
            to.write_all(close).await?;
            to.flush().await?;
            said = true;
        }
        let read = tokio::select! {
            read = from.read(&mut piece) => read?,
            () = leaving.cancelled(), if !told => continue,
        };
        let mut bytes = piece.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            to.shutdown().await?;
            return Ok(());
        }
        while !bytes.is_empty() {
            let taken = frames.take(bytes);
            let (frame, rest) = bytes.split_at(taken);
            bytes = rest;
            if said {
                // It was told; all that is waited for is its own close.
                if frames.closed && frames.is_between() {
                    return Ok(());
                }
                continue;
            }
            to.write_all(frame).await?;
            if leaving.is_cancelled() && frames.is_between() {
                to.write_all(close).await?;
                said = true;
            }
        }
        to.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[test]
    fn frames_are_followed_whatever_the_pieces() {
        let mut stream = vec![0x81, 0x02, b'h', b'i'];
        stream.extend([0x82, 0x7e, 0x01, 0x00]);
        stream.extend([7; 256]);
        stream.extend([0x89, 0x80, 1, 2, 3, 4]);
        let ends = [4, 264, 270];
        for size in [1, 3, 5, 300] {
            let (mut frames, mut at, mut seen) = (Frames::default(), 0, Vec::new());
            for piece in stream.chunks(size) {
                let mut bytes = piece;
                while !bytes.is_empty() {
                    let taken = frames.take(bytes);
                    at += taken;
                    bytes = &bytes[taken..];
                    if frames.is_between() {
                        seen.push(at);
                    }
                }
            }
            assert_eq!(seen, ends, "in pieces of {size}");
            assert!(!frames.closed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn both_sides_are_told_between_two_frames() {
        let ((mut client, near_client), (mut instance, near_instance)) = (duplex(1024), duplex(1024));
        let leaving = CancellationToken::new();
        let carrying = carry(near_client, near_instance, &leaving);
        let talking = async {
            // Half a frame of the instance's is out when it is to go.
            instance.write_all(&[0x81, 0x04, b'a', b'b']).await.unwrap();
            let mut bytes = [0; 4];
            client.read_exact(&mut bytes).await.unwrap();
            leaving.cancel();
            let mut told = [0; 8];
            instance.read_exact(&mut told).await.unwrap();
            assert_eq!(told, TO_INSTANCE);
            instance.write_all(&[b'c', b'd', 0x81, 0x01, b'x']).await.unwrap();
            let mut rest = [0; 6];
            client.read_exact(&mut rest).await.unwrap();
            assert_eq!(rest, [b'c', b'd', 0x88, 0x02, 0x03, 0xe9]);
            // Each answers with its close, and that is the end.
            client.write_all(&TO_INSTANCE).await.unwrap();
            instance.write_all(&TO_CLIENT).await.unwrap();
        };
        tokio::join!(carrying, talking);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "nothing after the close");
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_says_nothing_is_not_waited_for_long() {
        let ((_client, near_client), (_instance, near_instance)) = (duplex(1024), duplex(1024));
        let leaving = CancellationToken::new();
        leaving.cancel();
        let began = tokio::time::Instant::now();
        carry(near_client, near_instance, &leaving).await;
        assert_eq!(began.elapsed(), GOODBYE);
    }
}
