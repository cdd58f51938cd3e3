//! Reads what is compressed by zstd: frame after frame, as programs write that compress a layer in pieces.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// A frame begins with this.
pub(super) const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Whether these bytes begin a frame that holds nothing of the archive.
pub(super) fn is_skippable(bytes: &[u8]) -> bool {
    matches!(bytes, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Largest window of a frame, in bytes, which is memory that the unpacking takes. What `zstd` itself unpacks without being told to.
const LARGEST_WINDOW: u64 = 128 << 20;

/// Bytes of all frames, unpacked.
pub(super) struct Decoder<R> {
    source: R,
    decoder: FrameDecoder,
    /// Whether a frame was begun and its bytes have not all been read.
    within: bool,
}

impl<R> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("within", &self.within).finish_non_exhaustive()
    }
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(LARGEST_WINDOW);
        Self { source, decoder, within: false }
    }

    /// Begins the next frame that holds something; false at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.within = true;
                    return Ok(true);
                }
                // A table of contents, or a checksum of somebody's.
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => self.skip(length.into())?,
                Err(error) => return Err(broken(error)),
            }
        }
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
        if skipped == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.within && !self.next_frame()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(broken)?;
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            // The frame is at its end.
            self.within = false;
        }
    }
}

fn broken(error: FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        Decoder::new(bytes).read_to_end(&mut all).map(|_| all)
    }

    #[test]
    fn frames_follow_one_another_and_some_hold_nothing() {
        let large: Vec<u8> = (0..1_000_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
        // A frame that is to be skipped, as those before and after the layers of images that are read in pieces.
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"toc"].concat();
        let bytes = [packed(&large), skipped.clone(), packed(b""), packed(b"end"), skipped].concat();
        assert_eq!(unpacked(&bytes).unwrap(), [large.as_slice(), b"end"].concat());
        assert_eq!(unpacked(b"").unwrap(), b"");
    }

    #[test]
    fn what_is_cut_off_or_damaged_is_an_error() {
        let mut whole = packed(&[7; 100_000]);
        for length in 1..whole.len() {
            assert!(unpacked(&whole[..length]).is_err(), "{length} of {}", whole.len());
        }
        whole.push(1);
        assert!(unpacked(&whole).is_err(), "something follows that is no frame");
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 200, 0, 0, 0];
        assert_eq!(unpacked(&skipped).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_frame_does_not_ask_for_as_much_memory_as_it_likes() {
        // A window of 2 GiB: an exponent of 21.
        let frame = [&MAGIC[..], &[0, 21 << 3], &[1, 0, 0]].concat();
        let error = unpacked(&frame).unwrap_err();
        assert!(error.to_string().to_lowercase().contains("window"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_at_all_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let frame = [&MAGIC[..], &bytes].concat();
            let _any = io::copy(&mut Decoder::new(frame.as_slice()).take(1 << 20), &mut io::sink());
        }
    }
}
